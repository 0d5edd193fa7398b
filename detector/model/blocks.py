"""The building blocks of the network: convolution block, downsampling, spatial pyramid pooling (SPP)."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import NetworkConfig
from detector.model.fake_quant import fake_quantize_activations, fake_quantize_weights

GROUP_SIZE = 8
"""Number of channels in each group of group norm. All channel counts of the networks are multiples of this number."""

ACTIVATIONS: dict[str, Callable[[NetworkConfig], nn.Module]] = {
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
"""Value of the setting `activation` → function that creates the module."""

POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "max_pool": lambda: nn.MaxPool2d(2),
    "avg_pool": lambda: nn.AvgPool2d(2),
}
"""Value of the setting `downsample` → function that creates the pooling. The value "conv" has no pooling."""


def make_activation(config: NetworkConfig) -> nn.Module:
    """Create and return a module with the activation function `config.activation`."""
    return ACTIVATIONS[config.activation](config)


class ConvBlock(nn.Module):
    """Convolution block: computes `act(norm(conv(x)))`, or `act(norm(conv(x)) + x)` with an identity branch.

    The convolution is dense, the operation that all hardware runs fastest. The identity branch adds the input before
    the activation, as in RepVGG. It has no parameters. For inference, `fuse` folds it into the kernel, so that a
    trained network runs as a plain chain of convolutions.

    For an input height or width n, the output has floor((n + 2 * p - kernel) / stride) + 1 rows or columns.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        config: activation function and norm. If `config.residual` is False, the block has no identity branch.
        kernel: side of the kernel, an odd number; or its (height, width).
        stride: stride of the convolution.
        identity: True: with identity branch. This requires equal channel counts and stride 1.
        activation: False: without activation function.
        padding: "same": p = floor(kernel / 2) zeros on each side. "valid": p = 0; the identity branch crops the input
            around its center.

    Attributes:
        fake_quant_bits: number of bits of the int8 weights during quantization-aware training (QAT): in training mode,
            the block computes what the folded block would compute in int8. Batch norm then uses its running statistics
            and does not update them. None: no QAT.
        batch_mean: see `fake_quantize_activations`.

    Source: Ding et al., RepVGG, 2021, section 3 (the identity branch, here without a norm of its own).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        config: NetworkConfig,
        kernel: int | tuple[int, int] = 3,
        stride: int = 1,
        identity: bool = False,
        activation: bool = True,
        padding: str = "same",
    ) -> None:
        super().__init__()
        assert not identity or (channels_in == channels_out and stride == 1)
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        zeros = (height // 2, width // 2) if padding == "same" else (0, 0)
        has_norm = config.norm != "none"
        self.conv = nn.Conv2d(channels_in, channels_out, (height, width), stride, zeros, bias=not has_norm)
        self.norm: nn.BatchNorm2d | nn.GroupNorm | None = None
        if config.norm == "batch":
            self.norm = nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.1)
        elif config.norm == "group":
            self.norm = nn.GroupNorm(channels_out // GROUP_SIZE, channels_out, eps=1e-3)
        self.identity = identity and config.residual
        self.act = make_activation(config) if activation else None
        self.fake_quant_bits: int | None = None
        self.batch_mean: Callable[[Tensor], Tensor] = torch.mean

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a feature map and return the result.

        Args:
            x: [B, channels_in, H, W].

        Returns:
            [B, channels_out, H / stride, W / stride] with "same" padding. Height and width are smaller with "valid".
        """
        if self.fake_quant_bits is not None and self.training:
            y = self._convolve_fake_quantized(x, self.fake_quant_bits)
        else:
            y = cast(Tensor, self.conv(x))
            if self.norm is not None:
                y = self.norm(y)
            if self.identity:
                y = y + _center_crop(x, y)
        return self.act(y) if self.act is not None else y

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of one convolution that replaces convolution, norm and identity branch.

        The folded convolution computes what the block computes before its activation, in evaluation mode.

        Args:
            dtype: floating-point type in which the weights are folded, and of the result.

        Returns:
            weight: [channels_out, channels_in, kernel, kernel].
            bias: [channels_out].
        """
        assert not isinstance(self.norm, nn.GroupNorm)  # uses new statistics for every image: cannot be folded
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

    def _convolve_fake_quantized(self, x: Tensor, weight_bits: int) -> Tensor:
        """Return the output of the folded block before the activation, with weights and input rounded as in int8."""
        weight, bias = self.folded(torch.float32)
        quantized = fake_quantize_weights(weight, weight_bits).contiguous(memory_format=torch.channels_last)
        return F.conv2d(
            fake_quantize_activations(x, self.batch_mean), quantized, bias, self.conv.stride, self.conv.padding
        )


def _center_crop(x: Tensor, like: Tensor) -> Tensor:
    """Return the feature map `x`, cropped around its center to the height and width of the feature map `like`."""
    height, width = like.shape[-2:]
    if x.shape[-2:] == like.shape[-2:]:
        return x
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def make_downsampling(channels_in: int, channels_out: int, config: NetworkConfig) -> nn.Module:
    """Return a module that halves height and width: a stride-2 convolution, or a convolution and a 2x2 pooling."""
    if config.downsample == "conv":
        return ConvBlock(channels_in, channels_out, config, config.kernel, stride=2, padding=config.padding)
    conv = ConvBlock(channels_in, channels_out, config, config.kernel, padding=config.padding)
    return nn.Sequential(conv, POOLINGS[config.downsample]())


class SpatialPyramidPooling(nn.Module):
    """Spatial pyramid pooling (SPP): combines a feature map with its maxima over 5x5 and 9x9 windows.

    The maxima enlarge the receptive field at little cost. Two 5x5 poolings in a row cover 9x9. SPP is worth its time
    only on the coarsest feature map of a large input; see `uses_spp`.

    Args:
        channels: channels of the input and of the output.
        config: settings of the blocks.

    Source: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2015, section 2.2.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.squeeze = ConvBlock(channels, channels // 2, config, kernel=1)
        self.merge = ConvBlock(3 * (channels // 2), channels, config, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map a feature map [B, channels, H, W] to a feature map of the same shape."""
        x = self.squeeze(x)
        max_5x5 = F.max_pool2d(x, 5, stride=1, padding=2)
        max_9x9 = F.max_pool2d(max_5x5, 5, stride=1, padding=2)
        return cast(Tensor, self.merge(torch.cat([x, max_5x5, max_9x9], dim=1)))
