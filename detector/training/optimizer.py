"""Optimizers: Muon for convolution weights and AdamW for all other parameters, or one standard optimizer for all."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detector.config import OptimizerConfig
from detector.model.network import GridNetwork

_PEAK = {"muon": 0.05, "adamw": 0.003, "adam": 0.003, "rmsprop": 0.001, "momentum": 0.02, "sgd": 0.1}
_BETAS = (0.9, 0.99)


def peak_learning_rate(config: OptimizerConfig) -> float:
    """Return the peak learning rate: the setting, or the default of the optimizer."""
    return _PEAK[config.optimizer] if config.lr == "auto" else config.lr


def make_optimizers(network: GridNetwork, config: OptimizerConfig) -> list[Optimizer]:
    """Return the optimizers that together train every parameter; each parameter group stores its `peak_lr`.

    Muon and AdamW apply weight decay to convolution weights only: norms and biases are scale and offset, not
    complexity. For the other optimizers there is the penalty `l2`.

    Source: Tieleman and Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012 (RMSProp); Kingma and Ba, Adam,
    2015, algorithm 1; Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2 (AdamW).
    """
    kernels = kernels_of(network)
    matrices = {id(kernel) for kernel in kernels}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in matrices]
    peak = peak_learning_rate(config)
    groups = [{"params": kernels, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizers: list[Optimizer]
    match config.optimizer:
        case "muon":
            optimizers = [
                Muon(kernels, peak, weight_decay=config.weight_decay),
                torch.optim.AdamW(rest, config.lr_adamw, betas=_BETAS, weight_decay=0.0, foreach=True),
            ]
        case "adamw":
            optimizers = [torch.optim.AdamW(groups, peak, betas=_BETAS, foreach=True)]
        case "adam":
            optimizers = [torch.optim.Adam([*kernels, *rest], peak, betas=_BETAS, foreach=True)]
        case "rmsprop":
            optimizers = [torch.optim.RMSprop([*kernels, *rest], peak, alpha=0.99, foreach=True)]
        case "momentum":
            optimizers = [torch.optim.SGD([*kernels, *rest], peak, momentum=0.9, foreach=True)]
        case "sgd":
            optimizers = [torch.optim.SGD([*kernels, *rest], peak, foreach=True)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def kernels_of(network: GridNetwork) -> list[Tensor]:
    """Return the weights of all convolutions except the last one of each head."""
    outputs = {id(output) for output in network.outputs}
    return [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and id(m) not in outputs]


class Muon(Optimizer):
    """Muon: momentum whose step is orthogonalized, so that every direction of a weight matrix moves by the same amount.

    A kernel [out, in, h, w] is treated as the matrix [out, h*w*in]. Matrices of the same shape are processed together.

    Args:
        params: convolution weights.
        lr: learning rate: the spectral norm of a step.
        momentum: Nesterov momentum.
        weight_decay: fraction of the weight subtracted per step, times `lr`.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
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
    """Return a channels_last kernel [out, in, h, w] viewed as [out, h*w*in], without copying."""
    return kernel.permute(0, 2, 3, 1).view(kernel.shape[0], -1)


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Return approximately the nearest orthogonal matrices to [K, n, m]; singular values become 0.7..1.2.

    The iteration x ← (a + b·g + c·g²) x with g = x·xᵀ only multiplies x by polynomials of g, and these commute.
    So it is run on g alone, n x n instead of n x m, and x is multiplied once at the end: about 2.5 times less work.

    Source: Jordan et al., as above: quintic Newton-Schulz iteration with these three coefficients.
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
    """Clip the gradients: first their common norm, then each value (0: no limit); return the norm before clipping."""
    norm: Tensor = nn.utils.clip_grad_norm_(network.parameters(), max_norm, foreach=True)
    if max_value:
        nn.utils.clip_grad_value_(network.parameters(), max_value, foreach=True)
    return norm
