"""Regularization: L1 and L2 penalties, max-norm and dropout. Each starts at the epoch in its setting `*_after`.

Regularization at the first steps would pull weights that have not learned anything yet to zero, which is a saddle
point.
"""

import torch
from torch import nn

from detector.config import Config, OptimizerConfig
from detector.model.network import GridNetwork
from detector.training.optimizer import kernels_of


@torch.no_grad()
def add_penalties(network: GridNetwork, config: OptimizerConfig, epoch: float) -> None:
    """Add the gradient of the penalty l2 / 2 * sum(w²) + l1 * sum(|w|) to the gradients of the convolution weights w.

    The last convolution of each head has no penalty. l2 is 0 before epoch `l2_after`, l1 before epoch `l1_after`.
    """
    l2 = config.l2 if epoch >= config.l2_after else 0.0
    l1 = config.l1 if epoch >= config.l1_after else 0.0
    if not l2 and not l1:
        return
    for weight in kernels_of(network):
        if weight.grad is not None:
            weight.grad.add_(weight, alpha=l2).add_(weight.sign(), alpha=l1)


@torch.no_grad()
def limit_norms(network: GridNetwork, config: OptimizerConfig, epoch: float) -> None:
    """Scale every convolution filter [in, h, w] with a norm above `max_norm` down to this norm.

    Does nothing if `max_norm` is 0 and before epoch `max_norm_after`. The last convolution of each head is left out.

    Source: Srivastava et al., Dropout, 2014, section 5.1.
    """
    if config.max_norm and epoch >= config.max_norm_after:
        for weight in kernels_of(network):
            norms = weight.flatten(1).norm(dim=1).clamp(min=1e-12)
            weight.mul_((config.max_norm / norms).clamp(max=1)[:, None, None, None])


def set_dropout(network: GridNetwork, config: Config, epoch: float, step: int) -> None:
    """Set the dropout probability: 0 before epoch `dropout_after`, then `config.dropout`.

    Also seeds the random number generator with (seed, step), so that the dropped channels depend on nothing else.
    """
    if config.dropout:
        torch.manual_seed(config.seed * 1_000_003 + step)
        for module in network.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = config.dropout if epoch >= config.dropout_after else 0.0
