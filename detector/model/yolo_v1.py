"""The first YOLO: its predictions, its head, its network and its initial weights.

The first YOLO predicts at one coarse grid of cells, not at three grids of points, and predicts probabilities, not
logits. Its loss is in `loss/yolo_v1.py`.

Source: Redmon et al., You Only Look Once, 2016, section 2.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from detector.config import NetworkConfig, ScoreConfig
from detector.errors import ConfigError
from detector.model.blocks import ConvBlock
from detector.model.grid import STRIDES, Grid, make_grid
from detector.model.head import flatten_points, make_dropout, to_float32
from detector.model.initialize import draw_weights
from detector.model.network import GridNetwork, NetworkSize, coarsest_hw

_INITIAL_ROOT_BIAS = 0.4
"""Initial bias of the square roots of width and height: the first box of a cell starts at 0.16 of the input size."""

_MOST_DENSE_WEIGHTS = 2**28
"""Largest number of weights of a fully connected layer: 1 GiB. The published network has 2^27.6."""


@dataclass(frozen=True, eq=False)
class CellPredictions:
    """Raw predictions of the first YOLO for B images: S cells, each with N boxes and C class scores.

    All values are linear outputs: the loss pulls them towards 0..1, but no function limits them to this range.

    Attributes:
        class_scores: [B, S, C] float32, probability of each class if the cell contains an object.
        confidence: [B, S, N] float32, expected IoU of each box with an object.
        offsets: [B, S, N, 4] float32: first (x, y) of the box center, 0..1 from the left and top edge of the cell;
            then the square roots of the width and height of the box, as fractions of the input size.
        grid: the centers of the S cells.
        input_hw: height and width of the network input, in pixels.
    """

    class_scores: Tensor
    confidence: Tensor
    offsets: Tensor
    grid: Grid
    input_hw: tuple[int, int]

    def boxes(self) -> Tensor:
        """Return the predicted boxes [B, S * N, 4] as (x1, y1, x2, y2) in input pixels."""
        center = self.grid.points[:, None] + (self.offsets[..., :2] - 0.5) * self.grid.strides[:, None, None]
        half = self.offsets[..., 2:] ** 2 * center.new_tensor(self.input_hw[::-1]) / 2
        return torch.cat([center - half, center + half], dim=-1).flatten(1, 2)

    def scores(self) -> Tensor:
        """Return the class scores [B, S * N, C] of the boxes: confidence times class score, clipped to 0..1."""
        return (self.confidence[..., None] * self.class_scores[:, :, None]).clamp(0, 1).flatten(1, 2)

    def with_grid(self, grid: Grid) -> "CellPredictions":
        """Return a copy of the predictions with another grid; `grid` must have the same cells."""
        return replace(self, grid=grid)

    def at_initial_bias(self, config: ScoreConfig) -> "CellPredictions":
        """Return a copy of the predictions in which every class score equals its initial bias, 0."""
        return replace(self, class_scores=torch.zeros_like(self.class_scores))

    def initial_loss_theory(self, config: ScoreConfig) -> str:
        """Return a text that describes the class loss at the initial bias, for the finding about the initial loss."""
        return "1 per cell with an object"


class CellHead(nn.Module):
    """The head of the first YOLO: predicts C class scores and N boxes with a confidence at each cell.

    The head is two 3x3 blocks, followed by a 1x1 convolution or, as published, by two fully connected layers with
    dropout between them. The first of these is a convolution whose kernel covers the whole feature map, the second a
    1x1 convolution on its only cell. So optimizers, int8 and exports treat them like any other convolution.

    Args:
        channels_in: channels of the feature map.
        channels: channels between the layers.
        class_count: number of classes C.
        config: settings of the blocks; N is `config.boxes_per_cell`.
        cells_hw: rows and columns of the feature map, with fully connected layers. None: a 1x1 convolution, which
            accepts any feature map.

    Raises:
        ConfigError: a fully connected layer would have more than `_MOST_DENSE_WEIGHTS` weights.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        class_count: int,
        config: NetworkConfig,
        cells_hw: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.cells_hw = cells_hw
        self.blocks = nn.Sequential(ConvBlock(channels_in, channels, config), ConvBlock(channels, channels, config))
        self.hidden: ConvBlock | None = None
        self.dropout = make_dropout(config)
        values = class_count + 5 * config.boxes_per_cell
        if cells_hw is not None:
            units, cells = config.dense_units, cells_hw[0] * cells_hw[1]
            if (weights := cells * units * max(channels, values)) > _MOST_DENSE_WEIGHTS:
                raise ConfigError(
                    f"cell_output: a fully connected layer for {cells_hw[0]} x {cells_hw[1]} cells would have "
                    f"{weights:,} weights, expected at most {_MOST_DENSE_WEIGHTS:,}; use a smaller input_size, fewer "
                    "dense_units, or cell_output=conv"
                )
            # Without a norm: one cell is too few for the statistics of small batches.
            no_norm = replace(config, norm="none")
            self.hidden = ConvBlock(channels, units, no_norm, kernel=cells_hw, padding="valid")
            channels, values = units, cells * values
        self.output = nn.Conv2d(channels, values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict class scores, confidences and offsets at every cell of a feature map.

        Args:
            x: [B, channels_in, h, w].

        Returns:
            [B, h * w, C + 5 * N], cell by cell, row by row: C class scores, N confidences, then 4 offsets of each box.
        """
        x = self.blocks(x)
        if self.hidden is None:
            return flatten_points(self.output(self.dropout(x)))
        rows, columns = x.shape[-2:]
        assert (rows, columns) == self.cells_hw, (rows, columns, self.cells_hw)
        values: Tensor = self.output(self.dropout(self.hidden(x)))
        return values.view(-1, rows * columns, values.shape[1] // (rows * columns))


class YoloV1Network(GridNetwork):
    """The network of the first YOLO: the backbone, and a `CellHead` on its coarsest feature map, without a neck."""

    strides: ClassVar[tuple[int, ...]] = STRIDES[-1:]

    @property
    def outputs(self) -> list[nn.Conv2d]:
        """The last convolution of the head, as a list with one element."""
        return [self.cells.output]

    @property
    def fixed_size_layers(self) -> list[nn.Module]:
        """The fully connected layers of the head."""
        return [] if self.cells.hidden is None else [self.cells.hidden, self.cells.output]

    def _add_heads(self, size: NetworkSize, config: NetworkConfig) -> None:
        self.boxes_per_cell = config.boxes_per_cell
        cells_hw = None
        if config.has_fixed_input:
            assert self.input_hw is not None
            cells_hw = coarsest_hw(self.input_hw, config)
        self.cells = CellHead(size.stages[2], size.stages[2], self.class_count, config, cells_hw)

    def _initialize_outputs(self, config: NetworkConfig) -> None:
        if self.cells.hidden is not None:
            draw_weights(self.cells.hidden.conv, config, fan_out=config.dense_units)
        initialize_cell_output(self.cells.output, self.class_count, config)

    def _predict(self, maps: list[Tensor], input_hw: tuple[int, int]) -> CellPredictions:
        level = maps[-1]
        parts = [self.class_count, self.boxes_per_cell, 4 * self.boxes_per_cell]
        class_scores, confidence, offsets = torch.split(to_float32(self.cells(level)), parts, dim=-1)
        return CellPredictions(
            class_scores=class_scores,
            confidence=confidence,
            offsets=offsets.view(*offsets.shape[:2], self.boxes_per_cell, 4),
            grid=make_grid(input_hw, level.device, [(level.shape[-2], level.shape[-1])], self.strides),
            input_hw=input_hw,
        )


def initialize_cell_output(conv: nn.Conv2d, class_count: int, config: NetworkConfig) -> None:
    """Initialize the last convolution of the head, so that boxes start at the center of their cell.

    The N boxes of a cell start with different, plausible sizes.

    Args:
        conv: the last convolution; its output channels are C class scores, N confidences, then x, y and the square
            roots of width and height for each of the N boxes. With fully connected layers, the same for each cell.
        class_count: number of classes C.
        config: `init` and `boxes_per_cell` (N).
    """
    draw_weights(conv, config)
    assert conv.bias is not None
    conv.weight.data.mul_(0.1)
    roots = _INITIAL_ROOT_BIAS * (1 + torch.arange(config.boxes_per_cell) / config.boxes_per_cell)
    offsets = torch.stack([torch.full_like(roots, 0.5), torch.full_like(roots, 0.5), roots, roots], dim=1)
    bias = torch.cat([torch.zeros(class_count + config.boxes_per_cell), offsets.flatten()])
    conv.bias.data.copy_(bias.repeat(conv.out_channels // len(bias)))
