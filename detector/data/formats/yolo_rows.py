"""Parses the rows of YOLO label files: `class cx cy width height`, polygons, and boxes with keypoints."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.data.coordinates import look_like_corners
from detector.data.row_collector import Corners, RowError
from detector.errors import LabelError
from detector.files import read_text

_MAX_FRACTION = 2.0
"""Larger coordinates count as pixels: no tool writes a box that extends beyond the image by a whole image size."""

_MIN_KEYPOINT_ROWS = 3
"""With fewer rows, a polygon may look like keypoints by chance."""

_MARGIN = 0.01
"""Keypoints may be this far outside of their box, as a fraction of the image size."""


class Rows:
    """Parses the rows of a split, counts polygons, and checks that the rows are in YOLO's format.

    Args:
        class_count: number of classes.
        has_keypoints: whether rows contain keypoints after the box.

    Attributes:
        polygons: number of rows that were replaced by their bounding box.
    """

    def __init__(self, class_count: int, has_keypoints: bool) -> None:
        self.class_count = class_count
        self.polygons = 0
        self._with_keypoints = 0
        self._columns = 5 if has_keypoints else None
        self._written: list[Corners] = []
        self._boxes: list[Corners] = []

    def parse(self, row: str) -> tuple[int, Corners]:
        """Return the class id and the corners of a row, as fractions; raise RowError if the row cannot be used."""
        fields = row.split()[: self._columns]
        class_id, values = _parse_fast(fields, self.class_count) or _parse_row(fields, self.class_count)
        if len(values) > 4:
            self.polygons += 1
            self._with_keypoints += _has_keypoints(values)
            return class_id, (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        cx, cy, width, height = values
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        self._written.append((cx, cy, width, height))
        self._boxes.append(box)
        return class_id, box

    def check(self, source: Path) -> None:
        """Raise LabelError if the rows are corners instead of center, width and height, or have keypoints."""
        if self._with_keypoints >= max(_MIN_KEYPOINT_ROWS, 0.3 * self.polygons):
            raise LabelError(
                f"{source}: the rows look like boxes with keypoints after them, not like polygons; save a data.yaml "
                "with the key `kpt_shape: [number of keypoints, 2 or 3]` beside `names` and `train`"
            )
        if look_like_corners(self._written, self._boxes, [(1.0, 1.0)] * len(self._boxes)):
            raise LabelError(
                f"{source}: the rows look like `class x1 y1 x2 y2`: as `class cx cy width height`, many boxes extend "
                "beyond their image; write center, width and height, as fractions of the image size"
            )


def _has_keypoints(values: Sequence[float]) -> bool:
    """Return whether the numbers after a class id look like a box and keypoints, rather than like a polygon.

    >>> _has_keypoints([0.5, 0.5, 0.4, 0.4, 0.6, 0.4, 2, 0.5, 0.6, 0]), _has_keypoints([0.1, 0.1, 0.5, 0.1, 0.5, 0.5])
    (True, False)
    """
    cx, cy, width, height, *rest = values
    if len(rest) % 3 == 0 and all(visibility in (0, 1, 2) for visibility in rest[2::3]):
        return len(rest) > 3 or rest[2] == 2
    # Four points are an oriented box.
    points = [(x, y) for x, y in zip(rest[::2], rest[1::2], strict=False) if x or y]  # 0 0: a keypoint without label
    if len(rest) < 6 or len(rest) % 2 or not points:
        return False
    inside = all(abs(x - cx) <= width / 2 + _MARGIN and abs(y - cy) <= height / 2 + _MARGIN for x, y in points)
    # The second point of a polygon is near the others. The size of a box is not a point.
    xs, ys = zip(*points, (cx, cy), strict=True)
    wide, high = max(xs) - min(xs) + _MARGIN, max(ys) - min(ys) + _MARGIN
    is_near = min(xs) - wide <= width <= max(xs) + wide and min(ys) - high <= height <= max(ys) + high
    return inside and not is_near


def is_row(text: str, rows: Rows) -> bool:
    """Return whether a line of a text file has the form of a label row, even if its box cannot be used."""
    try:
        _parse_row(text.split(), rows.class_count)
    except RowError as error:
        return error.code != "malformed_row"
    return True


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, stripped text) of every line that is neither blank nor a comment."""
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text.strip()


def _parse_fast(fields: Sequence[str], class_count: int) -> tuple[int, list[float]] | None:
    """Return the result of `_parse_row` for a valid row of five columns; None for any other row."""
    if len(fields) != 5 or not fields[0].isdecimal() or any("_" in text for text in fields):
        return None
    try:
        values = [float(text) for text in fields[1:]]
    except ValueError:
        return None
    class_id = int(fields[0][:9])
    return (class_id, values) if class_id < class_count and max(values) <= _MAX_FRACTION else None


def _parse_row(fields: Sequence[str], class_count: int) -> tuple[int, list[float]]:
    """Return the class id and the numbers after it, as fractions of the image width and height.

    Args:
        fields: a row `class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...` with the corners of a polygon.
        class_count: number of classes.

    Raises:
        RowError: the row cannot be used.

    >>> _parse_row("1 0.5 0.5 0.5 0.25".split(), 2)
    (1, [0.5, 0.5, 0.5, 0.25])
    """
    if len(fields) < 5 or len(fields) % 2 == 0:
        expected = "expected `class cx cy width height` or `class x1 y1 x2 y2 x3 y3 ...`"
        cause = " (6 columns: are these detections with a score?)" if len(fields) == 6 else ""
        raise RowError("malformed_row", f"the row has {len(fields)} columns; {expected}{cause}")
    class_value, *values = map(_parse_number, fields)
    if not class_value.is_integer() or not 0 <= class_value < class_count:
        raise RowError(
            "class_id_equals_class_count" if class_value == class_count else "unknown_class",
            f"class {fields[0]} is not a whole number from 0 to {class_count - 1} (`names` has {class_count} classes)",
        )
    if any(_MAX_FRACTION < value < float("inf") for value in values):
        reason = f"coordinates {' '.join(fields[1:5])} look like pixels; expected fractions of the image size, 0 to 1"
        raise RowError("pixel_coordinates", reason)
    return int(class_value), values


def _parse_number(text: str) -> float:
    try:
        if "_" not in text:  # float("1_0") is 10
            return float(text)
    except ValueError:
        pass
    reason = f"{text!r:.60} is not a number; expected `class cx cy width height`, separated by spaces"
    raise RowError("malformed_row", reason)
