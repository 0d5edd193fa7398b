"""Intersection over union of box tensors, element by element."""

import torch
from torch import Tensor


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU [...] of boxes `a` with boxes `b`, both [..., 4] corners in one unit; 0 where both are empty."""
    intersection, union, _ = _overlap(a, b)
    return intersection / union.clamp(min=1e-9)


def elementwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalized IoU [...] in -1..1 of boxes `a` with boxes `b`, both [..., 4] corners in one unit.

    Source: Rezatofighi et al., Generalized Intersection over Union, 2019, algorithm 1.
    """
    intersection, union, hull = _overlap(a, b)
    hull = hull.clamp(min=1e-9)
    return intersection / union.clamp(min=1e-9) - (hull - union) / hull


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return areas of intersection, of union and of the smallest box around both."""
    intersection = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return intersection, union, hull


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    wh = (bottom_right - top_left).clamp(min=0)
    return wh[..., 0] * wh[..., 1]
