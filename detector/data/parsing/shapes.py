"""Computes the bounding boxes of polygons, circles, ellipses, rotated boxes and masks.

Shared by the readers of formats with other shapes than boxes.
"""

import math
from collections.abc import Sequence

from detector.data.parsing.row_values import number, shown
from detector.data.row_collector import Corners, RowError

Point = tuple[float, float]
"""(x, y)"""


def points_of(value: object) -> list[Point]:
    """Return the points of a JSON list such as [[x, y], ...].

    Raises:
        RowError: the value is not such a list.
    """
    if not isinstance(value, list):
        raise RowError("malformed_row", f"the points are {shown(value)}; expected a list of [x, y]")
    points = []
    for item in value:
        pair = item if isinstance(item, list) and len(item) == 2 else [None, None]
        x, y = map(number, pair)
        if x is None or y is None:
            raise RowError("malformed_row", "a point is not [x, y] with two numbers")
        points.append((x, y))
    return points


def bounding_box(points: Sequence[Point]) -> Corners:
    """Return the smallest box that contains all points.

    Raises:
        RowError: there is no point, or a coordinate is not finite.
    """
    if not points:
        raise RowError("malformed_row", "the shape has no points")
    xs, ys = zip(*points, strict=True)
    _check_finite((*xs, *ys))  # minimum and maximum of NaN depend on the order of the points
    return min(xs), min(ys), max(xs), max(ys)


def rotated_box(center: Point, width: float, height: float, degrees: float) -> Corners:
    """Return the bounding box of a box that is rotated about its center.

    Args:
        center: center of the box.
        width: width of the box before the rotation; not above 0: the returned box has no area.
        height: height, likewise.
        degrees: angle.

    Raises:
        RowError: a value is not finite.
    """
    _check_finite((*center, width, height, degrees))
    if degrees == 0 or width <= 0 or height <= 0:
        half_width, half_height = width / 2, height / 2
    else:
        cos, sin = _cos_sin(degrees)
        half_width = (abs(cos) * width + abs(sin) * height) / 2
        half_height = (abs(sin) * width + abs(cos) * height) / 2
    x, y = center
    return x - half_width, y - half_height, x + half_width, y + half_height


def turned(point: Point, center: Point, degrees: float) -> Point:
    """Return a point after a rotation about a center, clockwise in an image.

    Raises:
        RowError: a value is not finite.
    """
    _check_finite((*point, *center, degrees))
    cos, sin = _cos_sin(degrees)
    x, y = point[0] - center[0], point[1] - center[1]
    return center[0] + x * cos - y * sin, center[1] + x * sin + y * cos


def ellipse_box(center: Point, radius_x: float, radius_y: float, degrees: float = 0.0) -> Corners:
    """Return the bounding box of an ellipse that is rotated about its center.

    Raises:
        RowError: a value is not finite, or a radius is not above 0.
    """
    _check_finite((*center, radius_x, radius_y, degrees))
    if radius_x <= 0 or radius_y <= 0:
        raise RowError("no_area", f"the radii are {radius_x:.7g} and {radius_y:.7g}; both must be above 0")
    half_width, half_height = radius_x, radius_y
    if degrees != 0:
        cos, sin = _cos_sin(degrees)
        half_width = math.hypot(radius_x * cos, radius_y * sin)
        half_height = math.hypot(radius_x * sin, radius_y * cos)
    x, y = center
    return x - half_width, y - half_height, x + half_width, y + half_height


def mask_box(counts: Sequence[int], hw: tuple[int, int]) -> Corners:
    """Return the bounding box of a mask in COCO's run-length encoding; the mask is not expanded.

    Args:
        counts: lengths of the runs of 0 and 1, in this order, column by column.
        hw: (height, width) of the mask.

    Raises:
        RowError: a length is negative, the lengths do not fill the mask, or the mask is empty.
    """
    height, width = hw
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise RowError("malformed_row", f"the lengths of the runs of the mask do not add up to {width} x {height}")
    columns, rows, position = [], [], 0
    for i, count in enumerate(counts):
        if i % 2 and count:
            first, last = divmod(position, height), divmod(position + count - 1, height)
            columns += [first[0], last[0]]
            # A run that continues in the next column contains the last row of one column and the first of the next.
            rows += [first[1], last[1]] if first[0] == last[0] else [0, height - 1]
        position += count
    if not columns:
        raise RowError("no_area", "the mask is empty")
    return float(min(columns)), float(min(rows)), float(max(columns) + 1), float(max(rows) + 1)


def mask_counts(value: object) -> list[int]:
    """Return the lengths of the runs of a COCO mask: a list of integers, or compressed text as pycocotools writes it.

    Source: COCO API, common/maskApi.c, rleFrString.

    Raises:
        RowError: the value is neither of both.
    """
    if isinstance(value, list) and all(type(item) is int for item in value):
        return value
    if not isinstance(value, str):
        raise RowError("malformed_row", f"`counts` of the mask is {shown(value)}; expected text or a list of integers")
    counts: list[int] = []
    current, shift = 0, 0
    for character in value:
        part = ord(character) - 48
        if not 0 <= part < 64 or shift > 60:
            raise RowError("malformed_row", "`counts` of the mask is not COCO's compressed text")
        current |= (part & 31) << shift
        shift += 5
        if not part & 32:
            if part & 16:
                current -= 1 << shift
            counts.append(current + (counts[-2] if len(counts) > 2 else 0))
            current, shift = 0, 0
    if shift:
        raise RowError("malformed_row", "`counts` of the mask ends in the middle of a number")
    return counts


def _cos_sin(degrees: float) -> tuple[float, float]:
    """Return cosine and sine; exact for multiples of 90 degrees, so that a quarter turn gives whole numbers."""
    quarters, rest = divmod(degrees, 90)
    if rest == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters % 4)]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _check_finite(values: Sequence[float]) -> None:
    """Raise RowError if a value is not finite."""
    if not all(map(math.isfinite, values)):
        raise RowError("not_finite", "a coordinate of the shape is not finite")
