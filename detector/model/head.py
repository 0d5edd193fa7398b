"""The anchor-free head: class logits and the distances to the four sides of a box at every point of a feature map."""

import torch
from torch import Tensor, nn

from detector.config import NetworkConfig
from detector.model.blocks import ConvBlock


class Head(nn.Module):
    """One 3x3 block and one 1x1 convolution: a logit per class and the distances to the four sides of a box.

    Args:
        channels_in: channels of the feature map.
        channels: channels between the two layers.
        class_count: number of classes C.
        config: settings of the block; dropout before the last layer.
    """

    def __init__(self, channels_in: int, channels: int, class_count: int, config: NetworkConfig) -> None:
        super().__init__()
        self.block = ConvBlock(channels_in, channels, config)
        self.dropout = make_dropout(config)
        self.output = nn.Conv2d(channels, class_count + 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict at every point of a feature map.

        Args:
            x: [B, channels_in, h, w].

        Returns:
            [B, h * w, C + 4], the points row by row.
        """
        return flatten_points(self.output(self.dropout(self.block(x))))


def make_dropout(config: NetworkConfig) -> nn.Module:
    """Return a dropout of whole channels, or the identity where `config.dropout` is 0.

    The trainer turns dropout on at the epoch `dropout_after`.

    Source: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015, section 3.2.
    """
    return nn.Dropout2d(config.dropout) if config.dropout else nn.Identity()


def flatten_points(x: Tensor) -> Tensor:
    """Map [B, K, h, w] to [B, h * w, K], row by row."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_float32(x: Tensor) -> Tensor:
    """Convert to float32 (from bfloat16, in training); keep float64, which numerical gradient checks need."""
    return x if x.dtype == torch.float64 else x.float()
