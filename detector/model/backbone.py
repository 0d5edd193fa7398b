"""The backbone: a chain of convolutions that halves the image five times."""

from torch import Tensor, nn

from detector.config import Config
from detector.model.blocks import ConvBlock, SpatialPyramidPooling, make_halving


class Backbone(nn.Module):
    """Gives feature maps at strides 8, 16 and 32.

    The two stem layers are thin and have no blocks of their own: at high resolution the time goes into moving
    activations, not into arithmetic.

    Args:
        stem: channels at strides 2 and 4.
        stages: channels at strides 8, 16 and 32.
        depths: blocks at each of these strides, after the one that halves.
        config: how blocks are made and maps halved.
        spp: end with `SpatialPyramidPooling`.
    """

    def __init__(
        self,
        stem: tuple[int, int],
        stages: tuple[int, int, int],
        depths: tuple[int, int, int],
        config: Config,
        spp: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(make_halving(3, stem[0], config), make_halving(stem[0], stem[1], config))
        channels = (stem[1], *stages)

        def block(width: int) -> ConvBlock:
            return ConvBlock(width, width, config, config.kernel, identity=True, padding=config.padding)

        self.stages = nn.ModuleList(
            nn.Sequential(
                make_halving(channels[level], channels[level + 1], config),
                *(block(channels[level + 1]) for _ in range(depths[level])),
            )
            for level in range(3)
        )
        self.context = SpatialPyramidPooling(stages[2], config) if spp else nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map [B, 3, H, W] to three maps [B, stages[i], H / s, W / s] for s = 8, 16, 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[:2], self.context(maps[2])]
