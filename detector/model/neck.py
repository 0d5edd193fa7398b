"""The neck: coarse maps tell fine ones what they see, and back, by addition."""

import torch.nn.functional as F
from torch import Tensor, nn

from detector.model.blocks import ConvBlock


class Neck(nn.Module):
    """A feature pyramid down and up again, adding instead of concatenating: half the channels to move.

    Args:
        channels_in: channels of the three maps of the backbone, finest first.
        channels: channels of all maps that come out.

    Source: Lin et al., Feature Pyramid Networks, 2017, figure 3; Liu et al., Path Aggregation Network, 2018, figure 1b.
    """

    def __init__(self, channels_in: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        fine, middle, coarse = channels_in
        self.lateral_fine = ConvBlock(fine, channels, kernel=1, activation=False)
        self.lateral_middle = ConvBlock(middle, channels, kernel=1, activation=False)
        self.lateral_coarse = ConvBlock(coarse, channels, kernel=1)
        self.down_middle = ConvBlock(channels, channels, identity=True)
        self.down_fine = ConvBlock(channels, channels, identity=True)
        self.up_middle = ConvBlock(channels, channels, stride=2, activation=False)
        self.up_coarse = ConvBlock(channels, channels, stride=2, activation=False)
        self.out_middle = ConvBlock(channels, channels, identity=True)
        self.out_coarse = ConvBlock(channels, channels, identity=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map the backbone's three maps to three of equal sizes with `channels` channels each."""
        fine, middle, coarse = maps
        coarse = self.lateral_coarse(coarse)
        middle = self.down_middle(F.relu(self.lateral_middle(middle) + _double(coarse)))
        fine = self.down_fine(F.relu(self.lateral_fine(fine) + _double(middle)))
        middle = self.out_middle(F.relu(middle + self.up_middle(fine)))
        coarse = self.out_coarse(F.relu(coarse + self.up_coarse(middle)))
        return [fine, middle, coarse]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
