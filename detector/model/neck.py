"""The neck: combines the three feature maps of the backbone, top-down (FPN) and then bottom-up (PAN)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import NetworkConfig
from detector.model.blocks import ConvBlock, make_activation


class Neck(nn.Module):
    """The neck of a network: a feature pyramid network (FPN), followed by a path aggregation network (PAN).

    The FPN passes information top-down, from coarse to fine feature maps. The PAN then passes information bottom-up,
    from fine to coarse feature maps. Feature maps are added, not concatenated: this halves the number of channels to
    move through memory.

    Args:
        channels_in: channels of the three feature maps of the backbone, finest first.
        channels: channels of all output feature maps.
        config: settings of the blocks. The padding is always "same" here, since only feature maps of equal size can be
            added.

    Source: Lin et al., Feature Pyramid Networks, 2017, figure 3; Liu et al., Path Aggregation Network, 2018, figure 1b.
    """

    def __init__(self, channels_in: tuple[int, int, int], channels: int, config: NetworkConfig) -> None:
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
        """Combine the three feature maps of the backbone, and return three feature maps of the same sizes.

        Args:
            maps: [B, channels_in[i], h_i, w_i], finest first.

        Returns:
            [B, channels, h_i, w_i], finest first.
        """
        fine, middle, coarse = maps
        activate = self.joined
        # FPN: top-down.
        coarse = self.lateral_coarse(coarse)
        middle = self.lateral_middle(middle)
        middle = self.down_middle(activate[0](middle + _resize_like(coarse, middle)))
        fine = self.lateral_fine(fine)
        fine = self.down_fine(activate[1](fine + _resize_like(middle, fine)))
        # PAN: bottom-up.
        middle = self.out_middle(activate[2](middle + _resize_like(self.up_middle(fine), middle)))
        coarse = self.out_coarse(activate[3](coarse + _resize_like(self.up_coarse(middle), coarse)))
        return [fine, middle, coarse]


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Return the feature map `x`, resized to the height and width of the feature map `like` (nearest neighbor).

    With "valid" padding in the backbone, the sizes of the feature maps are not exact multiples of each other.
    """
    height, width = x.shape[-2:]
    if like.shape[-2:] == (height, width):
        return x
    if like.shape[-2:] == (2 * height, 2 * width):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")
