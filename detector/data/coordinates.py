"""Recognizes boxes that are written in another way than the format says, such as corners instead of a size."""

from collections.abc import Sequence

import numpy as np

from detector.arrays import Doubles
from detector.data.row_collector import Corners

_MIN_BOXES = 5
"""With fewer boxes, chance decides how they look."""

_MIN_BEYOND = 0.2
"""Fraction of boxes beyond the image from which on the boxes are suspicious. Labeling tools keep boxes inside."""

_TOLERANCE = 0.02
"""Distance beyond the image that does not count, as a fraction of its side."""


def look_like_fractions(written: Sequence[Corners]) -> bool:
    """Return whether all boxes of a format in pixels lie within 0..1, as if they were fractions of the image size.

    Args:
        written: the four numbers of each box, as in the label file.
    """
    numbers = _finite(written)
    if len(numbers) < 3 or bool(np.all(numbers == np.rint(numbers))):
        return False
    return bool(np.all((numbers >= 0) & (numbers <= 1)))


def look_like_corners(
    written: Sequence[Corners],
    boxes: Sequence[Corners],
    image_wh: Sequence[tuple[float, float]],
    areas: Sequence[float] = (),
) -> bool:
    """Return whether boxes that should have a width and a height are rather corners (x1, y1, x2, y2).

    As corners, all boxes must have an area inside their image. As the format has it, many must extend beyond it, or
    the areas in the label file must be those of the corners.

    Args:
        written: the four numbers of each box, as in the label file.
        boxes: (x1, y1, x2, y2) of each box, computed as the format says.
        image_wh: width and height of the image of each box, in the unit of the boxes.
        areas: area of each box in the label file, 0 if it has none; empty if the format has no areas.
    """
    if len(written) < _MIN_BOXES:
        return False
    corners, computed = (np.array(boxes, dtype=np.float64) for boxes in (written, boxes))
    size = np.tile(np.array(image_wh, dtype=np.float64), 2)
    if not np.isfinite(corners).all():
        return False
    margin = _TOLERANCE * size
    fits = (corners >= -margin).all(axis=1) & (corners <= size + margin).all(axis=1)
    fits &= (corners[:, 2:] > corners[:, :2]).all(axis=1)
    beyond = (computed < -margin).any(axis=1) | (computed > size + margin).any(axis=1)
    if not fits.all():
        return False
    return bool(beyond.mean() >= _MIN_BEYOND) or _areas_fit(corners, computed, np.array(areas, dtype=np.float64))


def _areas_fit(corners: Doubles, computed: Doubles, areas: Doubles) -> bool:
    """Return whether nearly all areas are those of the corners, and hardly any is that of the computed boxes."""
    if not len(areas) or not areas.all():
        return False

    def fraction(boxes: Doubles) -> float:
        own = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        return float(np.mean(np.abs(own - areas) <= 0.01 * areas))

    return fraction(corners) > 0.9 and fraction(computed) < 0.1


def _finite(boxes: Sequence[Corners]) -> Doubles:
    """Return the boxes [N, 4] whose four numbers are finite."""
    numbers = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return np.asarray(numbers[np.isfinite(numbers).all(axis=1)])
