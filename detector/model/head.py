"""The head: at every point of a map, a score per class and the distances to the four sides of a box."""

from torch import Tensor, nn

from detector.model.blocks import ConvBlock


class Head(nn.Module):
    """One 3x3 block and one 1x1 convolution for the map of one stride.

    Args:
        channels_in: channels of the map.
        channels: channels between the two layers.
        class_count: C.
    """

    def __init__(self, channels_in: int, channels: int, class_count: int) -> None:
        super().__init__()
        self.block = ConvBlock(channels_in, channels)
        self.output = nn.Conv2d(channels, class_count + 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, h, w] to [B, h*w, C + 4], row by row of the map."""
        y: Tensor = self.output(self.block(x))
        return y.permute(0, 2, 3, 1).flatten(1, 2)
