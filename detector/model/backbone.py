"""The backbone: convolutions that compute feature maps at strides 8, 16 and 32 from an image."""

from torch import Tensor, nn

from detector.config import NetworkConfig
from detector.model.blocks import ConvBlock, SpatialPyramidPooling, make_downsampling


class Backbone(nn.Module):
    """The backbone of a network: maps images to feature maps at strides 8, 16 and 32.

    The stem has only two layers with few channels: at high resolution, most of the time is spent on moving activations
    through memory, not on arithmetic.

    Args:
        stem: channels at strides 2 and 4.
        stages: channels at strides 8, 16 and 32.
        depths: number of blocks after the downsampling block, at strides 8, 16 and 32.
        config: settings of the blocks and of the downsampling.
        spp: True: apply `SpatialPyramidPooling` to the feature map at stride 32.
    """

    def __init__(
        self,
        stem: tuple[int, int],
        stages: tuple[int, int, int],
        depths: tuple[int, int, int],
        config: NetworkConfig,
        spp: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(make_downsampling(3, stem[0], config), make_downsampling(stem[0], stem[1], config))
        channels = (stem[1], *stages)

        def make_block(width: int) -> ConvBlock:
            return ConvBlock(width, width, config, config.kernel, identity=True, padding=config.padding)

        self.stages = nn.ModuleList(
            nn.Sequential(
                make_downsampling(channels[level], channels[level + 1], config),
                *(make_block(channels[level + 1]) for _ in range(depths[level])),
            )
            for level in range(3)
        )
        self.context = SpatialPyramidPooling(stages[2], config) if spp else nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute and return three feature maps of normalized images.

        Args:
            x: [B, 3, H, W] normalized images.

        Returns:
            Feature maps [B, stages[i], H / s, W / s] for the strides s = 8, 16, 32. With "valid" padding, the feature
            maps are smaller.
        """
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[:2], self.context(maps[2])]
