"""The building blocks: convolution with batch norm, perhaps the input added, perhaps ReLU; and pooling for context."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """`act(norm(conv(x)) + x)`: dense kernels only, for they are what every processor does best.

    With `identity` the input is added before the activation; it has no parameters and folds into the kernel, so that
    a trained network runs as a plain chain of convolutions (`fuse`).

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: side of the kernel, odd; padding keeps the size.
        stride: step of the kernel.
        identity: add the input; needs equal channels and stride 1.
        activation: end with ReLU.

    Source: Ding et al., RepVGG, 2021, section 3 (the identity branch, without its own norm).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        identity: bool = False,
        activation: bool = True,
    ) -> None:
        super().__init__()
        assert not identity or (channels_in == channels_out and stride == 1)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.1)
        self.identity = identity
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, H, W] to [B, channels_out, H / stride, W / stride]."""
        y = cast(Tensor, self.conv(x))
        if self.norm is not None:
            y = self.norm(y)
        if self.identity:
            y = y + x
        return F.relu(y, inplace=True) if self.activation else y


class ContextPool(nn.Module):
    """Lets every cell see the strongest answers around it: the map itself and its maxima over 5x5 and 9x9 cells.

    Two 5x5 poolings in a chain cover 9x9. Worth its time on the coarsest map of a large canvas only.

    Args:
        channels: of the input and the output.

    Source: He et al., Spatial Pyramid Pooling in Deep Convolutional Networks, 2015, section 2.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvBlock(channels, channels // 2, kernel=1)
        self.merge = ConvBlock(3 * (channels // 2), channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, H, W] to the same shape."""
        x = self.squeeze(x)
        near = F.max_pool2d(x, 5, stride=1, padding=2)
        far = F.max_pool2d(near, 5, stride=1, padding=2)
        return cast(Tensor, self.merge(torch.cat([x, near, far], dim=1)))
