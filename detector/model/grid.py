"""The grid: where the points lie that answer for objects, and what the network says at them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDES = (8, 16, 32)


@dataclass(frozen=True, eq=False)
class Grid:
    """P points on an input, all of stride 8 row by row first, then 16, then 32.

    Attributes:
        points: [P, 2] (x, y) in canvas pixels, the centers of the cells.
        strides: [P] canvas pixels.
    """

    points: Tensor
    strides: Tensor


@dataclass(frozen=True, eq=False)
class GridPredictions:
    """Raw answers of the network.

    Attributes:
        class_logits: [B, P, C] float32.
        distances: [B, P, 4] float32, from the point to the left, top, right and bottom side, in strides, >= 0.
        grid: the P points.
        exclusive: the classes of a point exclude each other: softmax against a background whose logit is 0, instead
            of a sigmoid each.
    """

    class_logits: Tensor
    distances: Tensor
    grid: Grid
    exclusive: bool = False

    def boxes(self) -> Tensor:
        """Return the predicted boxes [B, P, 4] in canvas pixels."""
        return decode(self.grid.points, self.grid.strides, self.distances)

    def scores(self) -> Tensor:
        """Return the score [B, P, C] of every class, 0..1."""
        if self.exclusive:
            return F.softmax(F.pad(self.class_logits, (1, 0)), dim=-1)[..., 1:]
        return self.class_logits.sigmoid()


@dataclass(frozen=True, eq=False)
class CellPredictions:
    """Raw answers in the manner of the first YOLO: S cells, each with N boxes and one set of class scores.

    All are plain outputs of a linear layer; nothing keeps them within 0..1 but the loss.

    Attributes:
        class_scores: [B, S, C] float32, score of each class given that there is an object.
        confidence: [B, S, N] how well a box finds an object: the IoU it expects.
        offsets: [B, S, N, 4] (x, y) of the center in the cell, 0..1 from its left and top; square roots of width and
            height as shares of the canvas.
        grid: centers of the S cells.
        input_hw: height and width, pixels.
    """

    class_scores: Tensor
    confidence: Tensor
    offsets: Tensor
    grid: Grid
    input_hw: tuple[int, int]

    def boxes(self) -> Tensor:
        """Return the predicted boxes [B, S * N, 4] in canvas pixels."""
        center = self.grid.points[:, None] + (self.offsets[..., :2] - 0.5) * self.grid.strides[:, None, None]
        half = self.offsets[..., 2:] ** 2 * center.new_tensor(self.input_hw[::-1]) / 2
        return torch.cat([center - half, center + half], dim=-1).flatten(1, 2)

    def scores(self) -> Tensor:
        """Return confidence times class score, cut to 0..1, as [B, S * N, C]."""
        return (self.confidence[..., None] * self.class_scores[:, :, None]).clamp(0, 1).flatten(1, 2)


Predictions = GridPredictions | CellPredictions


def make_grid(
    input_hw: tuple[int, int],
    device: torch.device,
    level_hws: Sequence[tuple[int, int]] | None = None,
    strides: Sequence[int] = STRIDES,
) -> Grid:
    """Lay the points for an input of (height, width), both divisible by 32.

    Args:
        input_hw: in pixels.
        device: where the points are wanted.
        level_hws: cells of each map; None: as many as cover the canvas. Fewer stand in its middle.
        strides: of the maps.
    """
    level_hws = level_hws or [(input_hw[0] // stride, input_hw[1] // stride) for stride in strides]
    points, all_strides = [], []
    for stride, (rows, columns) in zip(strides, level_hws, strict=True):
        top, left = (input_hw[0] - rows * stride) / 2, (input_hw[1] - columns * stride) / 2
        # They are float32 anyway; said, since an export takes the sum with a recorded number for float64.
        ys = ((torch.arange(rows, device=device) + 0.5) * stride + top).float()
        xs = ((torch.arange(columns, device=device) + 0.5) * stride + left).float()
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()], dim=1))
        # By the product, not by the lengths: an export of any canvas records the former as a function of the image.
        all_strides.append(torch.full((rows * columns,), float(stride), device=device))
    return Grid(torch.cat(points), torch.cat(all_strides))


def decode(points: Tensor, strides: Tensor, distances: Tensor) -> Tensor:
    """Return boxes [..., K, 4] from points [K, 2], strides [K] (both in canvas pixels) and distances [..., K, 4]."""
    reach = distances * strides[:, None]
    return torch.cat([points - reach[..., :2], points + reach[..., 2:]], dim=-1)
