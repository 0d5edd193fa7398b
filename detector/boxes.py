"""Box arithmetic in NumPy: every box inside the package is (x1, y1, x2, y2), float32, in pixels.

Coordinates are continuous: the pixel in column c covers [c, c + 1), so an image of width W spans 0..W.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from detector.arrays import Floats


def from_xywh(boxes: npt.NDArray[Any]) -> Floats:
    """Convert COCO boxes [..., 4] (left, top, width, height) to corner boxes in the same unit.

    >>> from_xywh(np.array([10, 20, 4, 2])).tolist()
    [10.0, 20.0, 14.0, 22.0]
    """
    # In the dtype of the input: float64 keeps the decimals of a JSON file until the single rounding to float32.
    x, y, w, h = np.moveaxis(np.asarray(boxes), -1, 0)
    return np.stack([x, y, x + w, y + h], axis=-1).astype(np.float32)


def to_xywh(boxes: Floats) -> Floats:
    """Convert corner boxes [..., 4] to (left, top, width, height) in the same unit."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def from_cxcywh(boxes: npt.NDArray[Any]) -> Floats:
    """Convert boxes [..., 4] (center x, center y, width, height) to corner boxes in the same unit.

    >>> from_cxcywh(np.array([[5, 5, 4, 2]], dtype=np.float32)).tolist()
    [[3.0, 4.0, 7.0, 6.0]]
    """
    cx, cy, w, h = np.moveaxis(np.asarray(boxes), -1, 0)
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1).astype(np.float32)


def to_cxcywh(boxes: Floats) -> Floats:
    """Convert corner boxes [..., 4] to (center x, center y, width, height) in the same unit."""
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def clip(boxes: Floats, hw: tuple[int, int]) -> Floats:
    """Clip boxes [..., 4] to an image of `hw` = (height, width) pixels.

    A box entirely outside gets zero area.
    """
    h, w = hw
    return np.clip(boxes, 0, np.array([w, h, w, h], dtype=np.float32))


def area(boxes: Floats) -> Floats:
    """Return the areas [...] of corner boxes [..., 4]; 0 where corners are swapped."""
    wh = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: Floats = wh[..., 0] * wh[..., 1]
    return areas


def pairwise_iou(a: Floats, b: Floats) -> Floats:
    """Return the IoU (intersection over union) [N, M] of boxes `a` [N, 4] with boxes `b` [M, 4].

    The IoU of two boxes without area is 0.
    """
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    wh = np.maximum(bottom_right - top_left, 0)
    intersection = wh[..., 0] * wh[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - intersection
    iou: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
