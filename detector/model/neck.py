"""The neck: FPN + PAN feature fusion, top-down and bottom-up, by addition."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import NetworkConfig
from detector.model.blocks import ConvBlock, make_activation


class Neck(nn.Module):
    """Feature pyramid network (FPN) followed by a path aggregation network (PAN).

    The FPN passes information top-down, from coarse to fine feature maps; the PAN passes it bottom-up, from fine to
    coarse. Feature maps are added, not concatenated, which halves the channels to move through memory.

    Args:
        channels_in: channels of the three feature maps of the backbone, finest first.
        channels: channels of all output feature maps.
        config: settings of the blocks. Padding is always "same" here, since added feature maps need equal sizes.

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
        """Fuse the three feature maps of the backbone.

        Args:
            maps: [B, channels_in[i], h_i, w_i], finest first.

        Returns:
            Three feature maps [B, channels, h_i, w_i].
        """
        fine, middle, coarse = maps
        activate = self.joined
        # FPN: top-down.
        coarse = self.lateral_coarse(coarse)
        middle = self.lateral_middle(middle)
        middle = self.down_middle(activate[0](middle + _resized(coarse, middle)))
        fine = self.lateral_fine(fine)
        fine = self.down_fine(activate[1](fine + _resized(middle, fine)))
        # PAN: bottom-up.
        middle = self.out_middle(activate[2](middle + _resized(self.up_middle(fine), middle)))
        coarse = self.out_coarse(activate[3](coarse + _resized(self.up_coarse(middle), coarse)))
        return [fine, middle, coarse]


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize the feature map `x` to the height and width of `like` by nearest-neighbor interpolation.

    With "valid" padding in the backbone the sizes are not exact multiples of each other.
    """
    height, width = x.shape[-2:]
    if like.shape[-2:] == (height, width):
        return x
    if like.shape[-2:] == (2 * height, 2 * width):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")
