"""Reads text of VisDrone-DET: one file per image, one object per row with eight columns that are separated by commas.

    x,y,width,height,score,category,truncation,occlusion
    684,8,273,116,0,0,0,0
    406,119,265,70,1,4,0,0

The image name is the name of the label file without suffix. Category 0 is no class: such a row, and every row with the
score 0, is a region that is ignored for every class.
"""

from collections.abc import Sequence
from functools import partial

from detector.data.image_labels import EVERY_CLASS, LabelFormat, NamedRow
from detector.data.parsing.row_values import number, shown
from detector.data.parsing.text_rows import read_rows
from detector.data.row_collector import RowError

CLASS_NAMES = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
    "others",
)
"""Names of the categories from 1 on."""

_COLUMNS = 8
_LARGEST = (1, len(CLASS_NAMES), 1, 2)
"""Largest score, category, truncation and occlusion; all are whole numbers from 0 on."""


def _matches(lines: Sequence[str]) -> bool:
    """Return whether all of the first lines of a file are rows of VisDrone with plausible values, at least one."""
    rows = [_values(text.split(",")) for line in lines if (text := line.lstrip("\ufeff").strip())]
    return bool(rows) and all(row is not None and _is_plausible(row) for row in rows)


def _values(columns: Sequence[str]) -> list[float] | None:
    """Return the numbers of a row, which may end with a comma; None if it is not eight numbers."""
    columns = columns[:-1] if len(columns) == _COLUMNS + 1 and not columns[-1].strip() else columns
    values = [value for column in columns if (value := number(column)) is not None]
    return values if len(values) == len(columns) == _COLUMNS else None


def _is_plausible(values: Sequence[float]) -> bool:
    is_whole = all(value.is_integer() for value in values)
    return is_whole and all(0 <= value <= largest for value, largest in zip(values[4:], _LARGEST, strict=True))


def _parse(columns: Sequence[str]) -> NamedRow:
    """Return a row.

    Raises:
        RowError: the row cannot be used.
    """
    values = _values(columns)
    if values is None:
        reason = f"the row is {shown(','.join(columns))}; expected 8 numbers with commas between them"
        raise RowError("malformed_row", reason)
    x, y, width, height, score, category, *_ = values
    if not category.is_integer() or not 0 <= category <= len(CLASS_NAMES):
        raise RowError("unknown_class", f"category {category:g} is not a whole number from 0 to {len(CLASS_NAMES)}")
    is_ignored = score == 0 or category == 0
    name = EVERY_CLASS if is_ignored else CLASS_NAMES[int(category) - 1]
    return NamedRow(None, name, (x, y, x + width, y + height), is_crowd=is_ignored)


FORMAT = LabelFormat("VisDrone text", "txt", _matches, partial(read_rows, parse=_parse, separator=","), per_image=True)
"""Text of VisDrone-DET, one file per image."""
