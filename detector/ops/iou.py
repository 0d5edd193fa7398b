"""Element-wise, differentiable intersection over union (IoU) and generalized IoU of box tensors.

Element-wise means: box i of `a` with box i of `b`. `boxes.pairwise_iou` computes the IoU of each box with each box.
"""

import torch
from torch import Tensor

_MIN_AREA = 1e-9
"""Smallest divisor, so that values and gradients are finite for boxes without area."""


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU [...] of each box in `a` [..., 4] with the corresponding box in `b` [..., 4].

    Args:
        a: [..., 4] boxes (x1, y1, x2, y2).
        b: [..., 4] boxes in the same unit; the shapes of `a` and `b` are broadcast.

    Returns:
        [...] in 0..1; 0 if both boxes have no area.
    """
    intersection, union, _ = _areas(a, b)
    return intersection / union.clamp(min=_MIN_AREA)


def elementwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalized IoU [...] of each box in `a` [..., 4] with the corresponding box in `b` [..., 4].

    GIoU = IoU - (enclosing - union) / enclosing, where `enclosing` is the area of the smallest box that contains both
    boxes. For boxes that do not overlap, the IoU is 0 and its gradient is 0; the GIoU is negative and decreases with
    the distance of the boxes.

    Args:
        a: [..., 4] boxes (x1, y1, x2, y2).
        b: [..., 4] boxes in the same unit; the shapes of `a` and `b` are broadcast.

    Returns:
        [...] in -1..1.

    Source: Rezatofighi et al., Generalized Intersection over Union, 2019, algorithm 1.
    """
    intersection, union, enclosing = _areas(a, b)
    enclosing = enclosing.clamp(min=_MIN_AREA)
    return intersection / union.clamp(min=_MIN_AREA) - (enclosing - union) / enclosing


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the areas [...] of the intersection, union and smallest enclosing box of `a` [..., 4] and `b` [..., 4]."""
    intersection = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    enclosing = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    return intersection, union, enclosing


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Return the areas [...] of boxes with corners `top_left` [..., 2] and `bottom_right` [..., 2]; 0 if swapped."""
    wh = (bottom_right - top_left).clamp(min=0)
    return wh[..., 0] * wh[..., 1]
