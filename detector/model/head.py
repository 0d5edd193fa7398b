"""The anchor-free head: predicts class logits and one box at every point of a feature map."""

import torch
from torch import Tensor, nn

from detector.config import NetworkConfig
from detector.model.blocks import ConvBlock


class Head(nn.Module):
    """Head of one level: predicts C class logits and one box per point, by a 3x3 block and a 1x1 convolution.

    Args:
        channels_in: channels of the feature map.
        channels: channels between the two layers.
        class_count: number of classes C.
        config: settings of the block, and of the dropout before the last layer.
    """

    def __init__(self, channels_in: int, channels: int, class_count: int, config: NetworkConfig) -> None:
        super().__init__()
        self.block = ConvBlock(channels_in, channels, config)
        self.dropout = make_dropout(config)
        self.output = nn.Conv2d(channels, class_count + 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict class logits and distances at every point of a feature map.

        Args:
            x: [B, channels_in, h, w].

        Returns:
            [B, h * w, C + 4], point by point, row by row: C class logits, then 4 distances before the softplus.
        """
        return flatten_points(self.output(self.dropout(self.block(x))))


def make_dropout(config: NetworkConfig) -> nn.Module:
    """Return a module that drops whole channels with probability `config.dropout`; the identity for probability 0.

    The trainer turns the dropout on at the epoch `config.dropout_after`.

    Source: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015, section 3.2.
    """
    return nn.Dropout2d(config.dropout) if config.dropout else nn.Identity()


def flatten_points(x: Tensor) -> Tensor:
    """Map a feature map [B, K, h, w] to [B, h * w, K]: the K values of each point, row by row."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_float32(x: Tensor) -> Tensor:
    """Return `x` as float32; if `x` is float64, return `x` unchanged.

    In training, `x` may be bfloat16. Numerical gradient checks need float64.
    """
    return x if x.dtype == torch.float64 else x.float()
