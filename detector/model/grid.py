"""The grid: where the points lie that answer for objects, and what the network says at them."""

from dataclasses import dataclass

import torch
from torch import Tensor

STRIDES = (8, 16, 32)


@dataclass(frozen=True, eq=False)
class Grid:
    """P points on a canvas, all of stride 8 row by row first, then 16, then 32.

    Attributes:
        points: [P, 2] (x, y) in canvas pixels, the centres of the cells.
        strides: [P] canvas pixels.
    """

    points: Tensor
    strides: Tensor


@dataclass(frozen=True, eq=False)
class GridPredictions:
    """Raw answers of the network.

    Attributes:
        class_logits: [B, P, C] float32; the sigmoid is the score.
        distances: [B, P, 4] float32, from the point to the left, top, right and bottom side, in strides, >= 0.
        grid: the P points.
    """

    class_logits: Tensor
    distances: Tensor
    grid: Grid

    def boxes(self) -> Tensor:
        """Return the predicted boxes [B, P, 4] in canvas pixels."""
        return decode(self.grid.points, self.grid.strides, self.distances)


def make_grid(canvas_hw: tuple[int, int], device: torch.device) -> Grid:
    """Lay the points for a canvas of (height, width), both divisible by 32."""
    points, strides = [], []
    for stride in STRIDES:
        ys = (torch.arange(canvas_hw[0] // stride, device=device) + 0.5) * stride
        xs = (torch.arange(canvas_hw[1] // stride, device=device) + 0.5) * stride
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()], dim=1))
        strides.append(torch.full((len(xs) * len(ys),), float(stride), device=device))
    return Grid(torch.cat(points), torch.cat(strides))


def decode(points: Tensor, strides: Tensor, distances: Tensor) -> Tensor:
    """Return boxes [..., K, 4] from points [K, 2], strides [K] (both in canvas pixels) and distances [..., K, 4]."""
    reach = distances * strides[:, None]
    return torch.cat([points - reach[..., :2], points + reach[..., 2:]], dim=-1)
