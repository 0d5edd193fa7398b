"""The heads: what is said at every point of a map, or in every cell of a single grid."""

from torch import Tensor, nn

from detector.config import Config
from detector.model.blocks import ConvBlock


class Head(nn.Module):
    """One 3x3 block and one 1x1 convolution: a score per class and the distances to the four sides of a box.

    Args:
        channels_in: channels of the map.
        channels: channels between the two layers.
        class_count: C.
        config: how blocks are made; dropout before the last layer.
    """

    def __init__(self, channels_in: int, channels: int, class_count: int, config: Config) -> None:
        super().__init__()
        self.block = ConvBlock(channels_in, channels, config)
        self.dropout = make_dropout(config)
        self.output = nn.Conv2d(channels, class_count + 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, h, w] to [B, h*w, C + 4], row by row of the map."""
        return by_cell(self.output(self.dropout(self.block(x))))


class CellHead(nn.Module):
    """Two 3x3 blocks and one 1x1 convolution: per cell C class scores, and N boxes with their confidence.

    The first YOLO had two fully connected layers here; convolutions take any canvas.

    Args:
        channels_in: channels of the map.
        channels: channels between the layers.
        class_count: C.
        config: how blocks are made; N is `boxes_per_cell`.

    Source: Redmon et al., You Only Look Once, 2016, section 2.
    """

    def __init__(self, channels_in: int, channels: int, class_count: int, config: Config) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ConvBlock(channels_in, channels, config), ConvBlock(channels, channels, config))
        self.dropout = make_dropout(config)
        self.output = nn.Conv2d(channels, class_count + 5 * config.boxes_per_cell, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, h, w] to [B, h*w, C + 5 * N], row by row of the map."""
        return by_cell(self.output(self.dropout(self.blocks(x))))


def make_dropout(config: Config) -> nn.Module:
    """Return the dropout of whole channels, or nothing; the trainer turns it on at its epoch.

    Source: Tompson et al., Efficient Object Localization Using Convolutional Networks, 2015, section 3.2.
    """
    return nn.Dropout2d(config.dropout) if config.dropout else nn.Identity()


def by_cell(x: Tensor) -> Tensor:
    """Map [B, K, h, w] to [B, h*w, K]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
