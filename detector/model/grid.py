"""The grid points at which the network predicts boxes, and the predictions at these points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.config import ScoreConfig
from detector.model.initialize import PRIOR, initial_logit

STRIDES = (8, 16, 32)
"""Strides of the three levels, in input pixels, finest level first."""


@dataclass(frozen=True, eq=False)
class Grid:
    """P grid points on the network input, at which the network predicts boxes.

    Each point is the center of a square cell whose side is the stride. The points of stride 8 are first, then those of
    stride 16, then those of stride 32; row by row for each stride.

    Attributes:
        points: [P, 2] (x, y) of each point, in input pixels.
        strides: [P] stride of each point, in input pixels.
    """

    points: Tensor
    strides: Tensor


@dataclass(frozen=True, eq=False)
class GridPredictions:
    """Raw, anchor-free predictions for B images at P grid points: C class logits and one box per point.

    Anchor-free: every point predicts one box as the distances from the point to the four sides of the box. No anchor
    boxes of preset sizes are needed.

    Attributes:
        class_logits: [B, P, C] float32.
        distances: [B, P, 4] float32, from the point to the left, top, right and bottom side of the box, in strides,
            >= 0.
        grid: the P points.
        exclusive: True: the classes of a point exclude each other; the scores are a softmax over the C logits and the
            logit 0 of a background class. False: each score is the sigmoid of its logit.

    Source: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, 2019, section 3.1.
    """

    class_logits: Tensor
    distances: Tensor
    grid: Grid
    exclusive: bool = False

    def boxes(self) -> Tensor:
        """Return the predicted boxes [B, P, 4] as (x1, y1, x2, y2) in input pixels."""
        return decode(self.grid.points, self.grid.strides, self.distances)

    def scores(self) -> Tensor:
        """Return the class scores [B, P, C], 0..1."""
        if self.exclusive:
            return F.softmax(F.pad(self.class_logits, (1, 0)), dim=-1)[..., 1:]
        return self.class_logits.sigmoid()

    def with_grid(self, grid: Grid) -> "GridPredictions":
        """Return a copy of the predictions with another grid; `grid` must have the same points."""
        return replace(self, grid=grid)

    def at_initial_bias(self, config: ScoreConfig) -> "GridPredictions":
        """Return a copy of the predictions in which every class logit equals its initial bias."""
        logit = initial_logit(self.class_logits.shape[-1], config)
        return replace(self, class_logits=torch.full_like(self.class_logits, logit))

    def initial_loss_theory(self, config: ScoreConfig) -> str:
        """Return a text that describes the class loss at the initial bias, for the finding about the initial loss."""
        if config.class_loss == "softmax":
            class_count = self.class_logits.shape[-1]
            background = 1 / (1 + class_count * math.exp(initial_logit(class_count, config)))
            return f"-log {background:.2f} per point without an object (log {class_count + 1} without the initial bias)"
        return f"the cross-entropy at a score of {PRIOR:g} (log 2 per score without the initial bias)"


def make_grid(
    input_hw: tuple[int, int],
    device: torch.device,
    level_hws: Sequence[tuple[int, int]] | None = None,
    strides: Sequence[int] = STRIDES,
) -> Grid:
    """Return the grid points of a network input of size `input_hw`, at all levels.

    Args:
        input_hw: height and width of the input in pixels, both divisible by 32.
        device: device of the tensors.
        level_hws: (rows, columns) of cells at each level. None: the cells cover the input. Cells that do not cover the
            input are centered on the input.
        strides: stride of each level.
    """
    level_hws = level_hws or [(input_hw[0] // stride, input_hw[1] // stride) for stride in strides]
    points, all_strides = [], []
    for stride, (rows, columns) in zip(strides, level_hws, strict=True):
        top, left = (input_hw[0] - rows * stride) / 2, (input_hw[1] - columns * stride) / 2
        # The values are float32 even without `.float()`. The ONNX export needs the call: the export records a sum with
        # a traced number as float64.
        ys = ((torch.arange(rows, device=device) + 0.5) * stride + top).float()
        xs = ((torch.arange(columns, device=device) + 0.5) * stride + left).float()
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()], dim=1))
        # The size is `rows * columns`, not the length of a tensor: an ONNX export with dynamic size records only the
        # product as a function of the image size.
        all_strides.append(torch.full((rows * columns,), float(stride), device=device))
    return Grid(torch.cat(points), torch.cat(all_strides))


def decode(points: Tensor, strides: Tensor, distances: Tensor) -> Tensor:
    """Return the boxes [..., K, 4] whose sides have the given distances from K points.

    Args:
        points: [K, 2] (x, y), in input pixels.
        strides: [K] stride of each point, in input pixels.
        distances: [..., K, 4] from the point to the left, top, right and bottom side, in strides.

    Returns:
        [..., K, 4] boxes as (x1, y1, x2, y2), in input pixels.
    """
    in_pixels = distances * strides[:, None]
    return torch.cat([points - in_pixels[..., :2], points + in_pixels[..., 2:]], dim=-1)
