"""Element-wise intersection over union (IoU) and generalized IoU of box tensors, differentiable.

Element-wise: box i of `a` with box i of `b`. For all pairs of two lists of boxes, see `boxes.pairwise_iou`.
"""

import torch
from torch import Tensor

_MIN_AREA = 1e-9
"""Divisors are at least this, so that boxes without area give finite values and gradients."""


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of each box of `a` with the corresponding box of `b`.

    Args:
        a: [..., 4] boxes (x1, y1, x2, y2).
        b: [..., 4] boxes in the same unit, of a shape that broadcasts with `a`.

    Returns:
        [...] in 0..1; 0 if both boxes have no area.
    """
    intersection, union, _ = _areas(a, b)
    return intersection / union.clamp(min=_MIN_AREA)


def elementwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalized IoU of each box of `a` with the corresponding box of `b`.

    GIoU = IoU - (enclosing - union) / enclosing, with the area of the smallest box that encloses both. For boxes that
    do not overlap, the IoU is 0 and has no gradient; the GIoU is negative and decreases with their distance.

    Args:
        a: [..., 4] boxes (x1, y1, x2, y2).
        b: [..., 4] boxes in the same unit, of a shape that broadcasts with `a`.

    Returns:
        [...] in -1..1.

    Source: Rezatofighi et al., Generalized Intersection over Union, 2019, algorithm 1.
    """
    intersection, union, enclosing = _areas(a, b)
    enclosing = enclosing.clamp(min=_MIN_AREA)
    return intersection / union.clamp(min=_MIN_AREA) - (enclosing - union) / enclosing


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the areas [...] of the intersection, the union and the smallest enclosing box of boxes [..., 4]."""
    intersection = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    enclosing = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return intersection, union, enclosing


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Return the areas [...] of boxes given by their corners, each [..., 2]; 0 if the corners are swapped."""
    wh = (bottom_right - top_left).clamp(min=0)
    return wh[..., 0] * wh[..., 1]
