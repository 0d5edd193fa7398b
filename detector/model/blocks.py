"""The building blocks: convolution, norm, perhaps the input added, activation; halving; and pooling for context."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import Config
from detector.model.fake_quant import fake_quantize_activations, fake_quantize_weights

GROUP_SIZE = 8
"""Channels that group norm averages together; all widths of the networks are multiples of it."""

ACTIVATIONS: dict[str, Callable[[Config], nn.Module]] = {
    "relu": lambda config: nn.ReLU(inplace=True),
    "identity": lambda config: nn.Identity(),
    "sigmoid": lambda config: nn.Sigmoid(),
    "tanh": lambda config: nn.Tanh(),
    "hard_sigmoid": lambda config: nn.Hardsigmoid(),
    "leaky_relu": lambda config: nn.LeakyReLU(config.leaky_slope),
    "prelu": lambda config: nn.PReLU(init=config.leaky_slope),
    "elu": lambda config: nn.ELU(),
    "swish": lambda config: nn.SiLU(),
    "hard_swish": lambda config: nn.Hardswish(),
}

POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "max_pool": lambda: nn.MaxPool2d(2),
    "avg_pool": lambda: nn.AvgPool2d(2),
}


def make_activation(config: Config) -> nn.Module:
    """Return the activation that `config.activation` names."""
    return ACTIVATIONS[config.activation](config)


class ConvBlock(nn.Module):
    """`act(norm(conv(x)) + x)`: dense kernels only, for they are what every processor does best.

    With `identity` the input is added before the activation; it has no parameters and folds into the kernel, so that
    a trained network runs as a plain chain of convolutions (`fuse`). A side n becomes ⌊(n + 2p - kernel) / stride⌋ + 1.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        config: activation, norm, and whether inputs are added at all (`residual`).
        kernel: side of the kernel, odd.
        stride: step of the kernel.
        identity: add the input; needs equal channels and stride 1.
        activation: end with the activation.
        padding: "same": p = ⌊kernel / 2⌋ zeros on each side; "valid": none, and of an added input the middle is taken.

    Attributes:
        rounded: in training, compute as the folded block does in eight bits: batch norm keeps its statistics.

    Source: Ding et al., RepVGG, 2021, section 3 (the identity branch, without its own norm).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        config: Config,
        kernel: int = 3,
        stride: int = 1,
        identity: bool = False,
        activation: bool = True,
        padding: str = "same",
    ) -> None:
        super().__init__()
        assert not identity or (channels_in == channels_out and stride == 1)
        zeros = kernel // 2 if padding == "same" else 0
        has_norm = config.norm != "none"
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, zeros, bias=not has_norm)
        self.norm: nn.BatchNorm2d | nn.GroupNorm | None = None
        if config.norm == "batch":
            self.norm = nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.1)
        elif config.norm == "group":
            self.norm = nn.GroupNorm(channels_out // GROUP_SIZE, channels_out, eps=1e-3)
        self.identity = identity and config.residual
        self.act = make_activation(config) if activation else None
        self.rounded = False

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, H, W] to [B, channels_out, H / stride, W / stride], less with "valid"."""
        if self.rounded and self.training:
            y = self._fake_quantized(x)
        else:
            y = cast(Tensor, self.conv(x))
            if self.norm is not None:
                y = self.norm(y)
            if self.identity:
                y = y + _middle(x, y)
        return self.act(y) if self.act is not None else y

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return weights and bias of one convolution that does, in evaluation, what the block does before `act`."""
        assert not isinstance(self.norm, nn.GroupNorm)  # it measures every image anew and cannot be folded
        weight = self.conv.weight.to(dtype)
        if self.norm is None:
            assert self.conv.bias is not None
            bias = self.conv.bias.to(dtype)
        else:
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            gain = self.norm.weight.to(dtype) / torch.sqrt(self.norm.running_var.to(dtype) + self.norm.eps)
            weight = weight * gain[:, None, None, None]
            bias = self.norm.bias.to(dtype) - self.norm.running_mean.to(dtype) * gain
        if self.identity:
            weight = weight + nn.init.dirac_(torch.empty_like(weight))
        return weight, bias

    def _fake_quantized(self, x: Tensor) -> Tensor:
        """Return what comes before `act` if the block is folded and its numbers are rounded to eight bits."""
        weight, bias = self.folded(torch.float32)
        rounded = fake_quantize_weights(weight).contiguous(memory_format=torch.channels_last)
        return F.conv2d(fake_quantize_activations(x), rounded, bias, self.conv.stride, self.conv.padding)


def _middle(x: Tensor, like: Tensor) -> Tensor:
    """Return the middle of a map, of the size of another one."""
    height, width = like.shape[-2:]
    if x.shape[-2:] == like.shape[-2:]:
        return x
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def make_halving(channels_in: int, channels_out: int, config: Config) -> nn.Module:
    """Return what halves a map: a convolution of stride 2, or one of stride 1 and a pooling."""
    if config.downsample == "conv":
        return ConvBlock(channels_in, channels_out, config, config.kernel, stride=2, padding=config.padding)
    conv = ConvBlock(channels_in, channels_out, config, config.kernel, padding=config.padding)
    return nn.Sequential(conv, POOLINGS[config.downsample]())


class SpatialPyramidPooling(nn.Module):
    """Lets every cell see the strongest answers around it: the map itself and its maxima over 5x5 and 9x9 cells.

    Two 5x5 poolings in a chain cover 9x9. Worth its time on the coarsest map of a large canvas only.

    Args:
        channels: of the input and the output.
        config: as for `ConvBlock`.

    Source: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2015, section 2.2.
    """

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        self.squeeze = ConvBlock(channels, channels // 2, config, kernel=1)
        self.merge = ConvBlock(3 * (channels // 2), channels, config, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, H, W] to the same shape."""
        x = self.squeeze(x)
        near = F.max_pool2d(x, 5, stride=1, padding=2)
        far = F.max_pool2d(near, 5, stride=1, padding=2)
        return cast(Tensor, self.merge(torch.cat([x, near, far], dim=1)))
