"""Box arithmetic in NumPy. Inside the package, every box is (x1, y1, x2, y2), float32, in pixels.

(x1, y1) is the top left corner of the box, (x2, y2) the bottom right corner. Coordinates are continuous: the pixel in
column c covers [c, c + 1), so an image of width W spans 0..W.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from detector.arrays import Floats


def from_xywh(boxes: npt.NDArray[Any]) -> Floats:
    """Convert COCO boxes [..., 4] (left, top, width, height) to [..., 4] (x1, y1, x2, y2) in the same unit.

    >>> from_xywh(np.array([10, 20, 4, 2])).tolist()
    [10.0, 20.0, 14.0, 22.0]
    """
    # Computed in the dtype of the argument: in float64, numbers from a JSON file are rounded only once, to float32.
    x, y, w, h = np.moveaxis(np.asarray(boxes), -1, 0)
    return np.stack([x, y, x + w, y + h], axis=-1).astype(np.float32)


def to_xywh(boxes: Floats) -> Floats:
    """Convert boxes [..., 4] (x1, y1, x2, y2) to [..., 4] (left, top, width, height) in the same unit."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def from_cxcywh(boxes: npt.NDArray[Any]) -> Floats:
    """Convert boxes [..., 4] (center x, center y, width, height) to [..., 4] (x1, y1, x2, y2) in the same unit.

    >>> from_cxcywh(np.array([[5, 5, 4, 2]], dtype=np.float32)).tolist()
    [[3.0, 4.0, 7.0, 6.0]]
    """
    cx, cy, w, h = np.moveaxis(np.asarray(boxes), -1, 0)
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1).astype(np.float32)


def to_cxcywh(boxes: Floats) -> Floats:
    """Convert boxes [..., 4] (x1, y1, x2, y2) to [..., 4] (center x, center y, width, height) in the same unit."""
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def clip(boxes: Floats, hw: tuple[int, int]) -> Floats:
    """Clip boxes [..., 4] to an image of `hw` (height, width) pixels, and return the clipped boxes [..., 4].

    A box that is completely outside the image becomes a box with an area of 0.
    """
    h, w = hw
    return np.clip(boxes, 0, np.array([w, h, w, h], dtype=np.float32))


def area(boxes: Floats) -> Floats:
    """Return the areas [...] of boxes [..., 4]; the area is 0 if the corners of a box are swapped."""
    wh = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: Floats = wh[..., 0] * wh[..., 1]
    return areas


def pairwise_iou(a: Floats, b: Floats) -> Floats:
    """Return the IoU (intersection over union) [N, M] of each box in `a` [N, 4] with each box in `b` [M, 4].

    The IoU of two boxes without area is 0.
    """
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    wh = np.maximum(bottom_right - top_left, 0)
    intersection = wh[..., 0] * wh[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - intersection
    iou: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
