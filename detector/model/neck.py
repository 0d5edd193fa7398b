"""The neck: coarse maps tell fine ones what they see, and back, by addition."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import Config
from detector.model.blocks import ConvBlock, make_activation


class Neck(nn.Module):
    """A feature pyramid down and up again, adding instead of concatenating: half the channels to move.

    Args:
        channels_in: channels of the three maps of the backbone, finest first.
        channels: channels of all maps that come out.
        config: how blocks are made; padding is always "same" here, since maps that are added must agree in size.

    Source: Lin et al., Feature Pyramid Networks, 2017, figure 3; Liu et al., Path Aggregation Network, 2018, figure 1b.
    """

    def __init__(self, channels_in: tuple[int, int, int], channels: int, config: Config) -> None:
        super().__init__()
        fine, middle, coarse = channels_in
        self.lateral_fine = ConvBlock(fine, channels, config, kernel=1, activation=False)
        self.lateral_middle = ConvBlock(middle, channels, config, kernel=1, activation=False)
        self.lateral_coarse = ConvBlock(coarse, channels, config, kernel=1)
        self.down_middle = ConvBlock(channels, channels, config, identity=True)
        self.down_fine = ConvBlock(channels, channels, config, identity=True)
        self.up_middle = ConvBlock(channels, channels, config, stride=2, activation=False)
        self.up_coarse = ConvBlock(channels, channels, config, stride=2, activation=False)
        self.out_middle = ConvBlock(channels, channels, config, identity=True)
        self.out_coarse = ConvBlock(channels, channels, config, identity=True)
        self.joined = nn.ModuleList(make_activation(config) for _ in range(4))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map the backbone's three maps to three of equal sizes with `channels` channels each."""
        fine, middle, coarse = maps
        join = self.joined
        coarse = self.lateral_coarse(coarse)
        middle = self.lateral_middle(middle)
        middle = self.down_middle(join[0](middle + _resized(coarse, middle)))
        fine = self.lateral_fine(fine)
        fine = self.down_fine(join[1](fine + _resized(middle, fine)))
        middle = self.out_middle(join[2](middle + _resized(self.up_middle(fine), middle)))
        coarse = self.out_coarse(join[3](coarse + _resized(self.up_coarse(middle), coarse)))
        return [fine, middle, coarse]


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Return a map in the size of another, each cell repeated; with "valid" padding sizes are no exact multiples."""
    height, width = x.shape[-2:]
    if like.shape[-2:] == (height, width):
        return x
    if like.shape[-2:] == (2 * height, 2 * width):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")
