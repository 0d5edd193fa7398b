"""Optimizers: Muon for convolution weights plus AdamW for the other parameters, or one optimizer for all parameters."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detector.config import OptimizerConfig
from detector.model.network import GridNetwork

_PEAK = {"muon": 0.05, "adamw": 0.003, "adam": 0.003, "rmsprop": 0.001, "momentum": 0.02, "sgd": 0.1}
_BETAS = (0.9, 0.99)


def peak_learning_rate(config: OptimizerConfig) -> float:
    """Return the peak learning rate: `config.lr`, or the default of the optimizer if `config.lr` is "auto"."""
    return _PEAK[config.optimizer] if config.lr == "auto" else config.lr


def make_optimizers(network: GridNetwork, config: OptimizerConfig) -> list[Optimizer]:
    """Return one or two optimizers, which together train every parameter of the network.

    Each parameter group stores its peak learning rate as `peak_lr`, without the factor `lr_backbone`, and whether it
    contains the parameters of the backbone as `is_backbone`. Muon and AdamW apply weight decay to convolution
    weights only: the parameters of norms and the biases set scale and offset, not complexity. The other optimizers have
    no weight decay; use the setting `l2` for a penalty.

    Source: Tieleman and Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012 (RMSProp); Kingma and Ba, Adam,
    2015, algorithm 1; Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2 (AdamW).
    """
    kernels = kernels_of(network)
    matrices = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in matrices]
    peak = peak_learning_rate(config)
    backbone = {id(parameter) for parameter in network.backbone.parameters()}

    def groups(parameters: Sequence[Tensor], lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return the parameter groups of parameters: one, or two if the backbone has another learning rate."""
        if config.lr_backbone in (1, "auto") and not config.freeze:
            parts = [(list(parameters), False)]
        else:
            parts = [
                ([p for p in parameters if (id(p) in backbone) == is_backbone], is_backbone)
                for is_backbone in (True, False)
            ]
        rates = {"lr": lr, "peak_lr": lr, "weight_decay": weight_decay}
        return [rates | {"params": own, "is_backbone": is_backbone} for own, is_backbone in parts]

    every = groups([*kernels, *rest], peak)
    optimizers: list[Optimizer]
    match config.optimizer:
        case "muon":
            optimizers = [
                Muon(groups(kernels, peak, config.weight_decay), peak),
                torch.optim.AdamW(groups(rest, config.lr_adamw), betas=_BETAS, foreach=True),
            ]
        case "adamw":
            own = [*groups(kernels, peak, config.weight_decay), *groups(rest, peak)]
            optimizers = [torch.optim.AdamW(own, betas=_BETAS, foreach=True)]
        case "adam":
            optimizers = [torch.optim.Adam(every, betas=_BETAS, foreach=True)]
        case "rmsprop":
            optimizers = [torch.optim.RMSprop(every, alpha=0.99, foreach=True)]
        case "momentum":
            optimizers = [torch.optim.SGD(every, momentum=0.9, foreach=True)]
        case "sgd":
            optimizers = [torch.optim.SGD(every, foreach=True)]
    return optimizers


def kernels_of(network: GridNetwork) -> list[Tensor]:
    """Return the weights of all convolutions except the last convolution of each head."""
    outputs = {id(output) for output in network.outputs}
    return [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and id(m) not in outputs]


class Muon(Optimizer):
    """The optimizer Muon: momentum with orthogonalized steps, which change a weight matrix equally in all directions.

    The weights [out, in, h, w] of a convolution are treated as the matrix [out, h*w*in]. Matrices of the same shape are
    processed together.

    Args:
        params: convolution weights, or groups of them with their own lr and weight_decay.
        lr: learning rate, which is the spectral norm of a step.
        momentum: coefficient of the Nesterov momentum.
        weight_decay: `lr * weight_decay` is the fraction of the weights that is subtracted per step.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            momenta = [self._momentum(weight) for weight in weights]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            steps = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])

            by_shape: dict[torch.Size, list[int]] = defaultdict(list)
            for index, weight in enumerate(weights):
                by_shape[weight.shape].append(index)
            for indices in by_shape.values():
                matrices = torch.stack([_as_matrix(steps[index]) for index in indices])
                directions = orthogonalize(matrices)
                size = group["lr"] * math.sqrt(max(1.0, matrices.shape[1] / matrices.shape[2]))
                for index, direction in zip(indices, directions, strict=True):
                    _as_matrix(weights[index]).add_(direction, alpha=-size)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


def _as_matrix(kernel: Tensor) -> Tensor:
    """Return a view [out, h*w*in] of a kernel [out, in, h, w] whose memory format is channels_last."""
    return kernel.permute(0, 2, 3, 1).view(kernel.shape[0], -1)


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Return an approximation of the nearest orthogonal matrix of each matrix.

    The published iteration is x ← (a + b·g + c·g²) x with g = x·xᵀ. It only multiplies x by polynomials of g, which
    commute. So the iteration runs on g, which is n x n instead of n x m, and multiplies x once at the end. This takes
    about 2.5 times fewer operations.

    Args:
        matrices: [K, n, m].
        rounds: number of iterations.

    Returns:
        [K, n, m], with the singular vectors of `matrices` and singular values from about 0.7 to 1.2.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024: quintic Newton-Schulz
    iteration with these three coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = x if x.shape[1] <= x.shape[2] else x.mT
    gram = x @ x.mT
    factors: list[Tensor] = []
    for _ in range(rounds):
        if factors:
            gram = factors[-1] @ gram @ factors[-1]
        factors.append(torch.baddbmm(gram, gram, gram, beta=b, alpha=c))
        factors[-1].diagonal(dim1=1, dim2=2).add_(a)
    product: Tensor = functools.reduce(torch.matmul, reversed(factors))
    x = product @ x
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT


def clip_gradients(network: GridNetwork, max_norm: float, max_value: float = 0.0) -> Tensor:
    """Clip the gradients in place; return the norm of all gradients before clipping, a scalar.

    Args:
        network: the network whose gradients are clipped.
        max_norm: largest norm of all gradients together.
        max_value: largest absolute value of each gradient, applied after `max_norm`; 0: no limit.
    """
    norm: Tensor = nn.utils.clip_grad_norm_(network.parameters(), max_norm, foreach=True)
    if max_value:
        nn.utils.clip_grad_value_(network.parameters(), max_value, foreach=True)
    return norm
