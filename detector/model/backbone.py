"""The backbone: a chain of 3x3 convolutions that halves the picture five times."""

from torch import Tensor, nn

from detector.model.blocks import ContextPool, ConvBlock


class Backbone(nn.Module):
    """Gives feature maps at strides 8, 16 and 32.

    The two stem layers are thin and have no blocks of their own: at high resolution the time goes into moving
    activations, not into arithmetic.

    Args:
        stem: channels at strides 2 and 4.
        stages: channels at strides 8, 16 and 32.
        depths: blocks at each of these strides, after the one that halves.
        pooled: end with `ContextPool`.
    """

    def __init__(
        self, stem: tuple[int, int], stages: tuple[int, int, int], depths: tuple[int, int, int], pooled: bool = False
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, stem[0], stride=2), ConvBlock(stem[0], stem[1], stride=2))
        channels = (stem[1], *stages)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvBlock(channels[level], channels[level + 1], stride=2),
                *(ConvBlock(channels[level + 1], channels[level + 1], identity=True) for _ in range(depths[level])),
            )
            for level in range(3)
        )
        self.context = ContextPool(stages[2]) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map [B, 3, H, W] to three maps [B, stages[i], H / s, W / s] for s = 8, 16, 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[:2], self.context(maps[2])]
