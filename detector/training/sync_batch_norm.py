"""Batch norm, dropout and the ranges of QAT over the whole batch of several processes, as one process computes them.

`torch.nn.SyncBatchNorm` supports only GPUs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.model.blocks import ConvBlock
from detector.training.distributed import Processes


def synchronize(network: nn.Module, processes: Processes, batch_size: int) -> None:
    """Let every batch norm, dropout and fake quantization see the whole batch; does nothing in one process.

    Names, parameters and statistics stay the same.

    Args:
        network: the network in training.
        processes: the processes that train it.
        batch_size: number of images in the whole batch.
    """
    if processes.size == 1:
        return
    for parent in list(network.modules()):
        if isinstance(parent, ConvBlock):
            parent.batch_mean = processes.mean
        for name, module in parent.named_children():
            if isinstance(module, nn.BatchNorm2d):
                setattr(parent, name, SyncBatchNorm(module, processes))
            elif isinstance(module, nn.Dropout2d):
                setattr(parent, name, SyncDropout(module, processes, batch_size))


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with the mean and variance of the images of all processes.

    Args:
        norm: the batch norm of one process, whose parameters and statistics are shared.
        processes: the processes.

    Source: Ioffe and Szegedy, Batch Normalization, 2015, algorithm 1.
    """

    def __init__(self, norm: nn.BatchNorm2d, processes: Processes) -> None:
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)
        self._processes = processes

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a feature map [B, C, H, W], B of which may be 0; return it in the same shape."""
        if not self.training:
            return super().forward(x)
        count, mean, var = _statistics(x.detach(), self._processes)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = var * count / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        dtype = self.weight.dtype
        statistics = (count, mean.to(dtype), var.to(dtype))
        y: Tensor = _Normalize.apply(x, self.weight, self.bias, *statistics, self.eps, self._processes)  # type: ignore[no-untyped-call]
        return y


def _statistics(x: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of values per channel, their mean [C] and their variance [C], in float64, of all processes."""
    count, channels = x.numel() // x.shape[1], x.shape[1]
    sums = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
    if count:
        mean, var = (values.double() for values in torch.batch_norm_update_stats(x, None, None, 0.0))
        sums[:channels], sums[channels:-1], sums[-1] = mean * count, (var + mean**2) * count, count
    processes.add(sums)
    mean, square = sums[:-1].view(2, channels) / sums[-1]
    return sums[-1], mean, (square - mean**2).clamp(min=0)


class _Normalize(torch.autograd.Function):
    """Batch norm with given statistics, which depend on the inputs of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        count: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
        processes: Processes,
    ) -> Tensor:
        """Normalize a feature map [B, C, H, W]."""
        ctx.save_for_backward(x, weight, count, mean, var)
        ctx.eps, ctx.processes = eps, processes
        return F.batch_norm(x, mean, var, weight, bias, eps=eps) if len(x) else torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `forward`: of x for the loss of all processes, of weight and bias for this part."""
        x, weight, count, mean, var = ctx.saved_tensors
        if len(x):
            dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
                dy, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        else:
            dx, dweight, dbias = torch.empty_like(x), torch.zeros_like(mean), torch.zeros_like(mean)
        sums = ctx.processes.add(torch.stack([dweight, dbias]).double()) / count
        # `dx` above is for constant statistics. The rest is the gradient through the mean and the variance:
        # -gain * (sum of dy + normalized x * sum of (dy * normalized x)) / number of values
        std = (var.double() + ctx.eps).rsqrt()
        slope = -weight.double() * std**2 * sums[0]
        offset = -weight.double() * std * sums[1] - slope * mean.double()
        rest = torch.addcmul(_per_channel(offset, mean), x, _per_channel(slope, mean))
        return (dx + rest).to(x.dtype), dweight, dbias, None, None, None, None, None


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, None, None]


class SyncDropout(nn.Dropout2d):
    """Dropout that drops the same channels of each image as in one process.

    Args:
        dropout: the dropout of one process.
        processes: the processes.
        batch_size: number of images in the whole batch.
    """

    def __init__(self, dropout: nn.Dropout2d, processes: Processes, batch_size: int) -> None:
        super().__init__(dropout.p)
        self._part, self._batch_size = processes.part(batch_size), batch_size

    def forward(self, x: Tensor) -> Tensor:
        """Drop channels of a feature map [B, C, H, W]; return it in the same shape."""
        if not self.training or not self.p:
            return x
        kept = F.dropout2d(x.new_ones(self._batch_size, x.shape[1], 1, 1), self.p)
        return x * kept[self._part]
