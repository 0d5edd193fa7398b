"""Reads KITTI text: one file per image, one object per row with 15 or 16 columns.

    type truncated occluded alpha x1 y1 x2 y2 height width length x y z rotation_y [score]
    Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59

The image name is the name of the label file without suffix. The 2D box is used. `DontCare` is not a class: such a row
is a crowd region of every class.
"""

from collections.abc import Sequence
from functools import partial

from detector.data.image_labels import EVERY_CLASS, LabelFormat, NamedRow
from detector.data.parsing.row_values import number, shown
from detector.data.parsing.text_rows import read_rows
from detector.data.row_collector import RowError

_COLUMNS = (15, 16)
_DONT_CARE = "DontCare"


def _matches(lines: Sequence[str]) -> bool:
    """Return whether all of the first lines of a file are rows of KITTI, at least one."""
    rows = [columns for line in lines if (columns := line.lstrip("\ufeff").split())]
    return bool(rows) and all(
        len(columns) in _COLUMNS and number(columns[0]) is None and None not in map(number, columns[1:])
        for columns in rows
    )


def _parse(columns: Sequence[str]) -> NamedRow:
    """Return a row.

    Raises:
        RowError: the row cannot be used.
    """
    if len(columns) not in _COLUMNS:
        reason = f"the row has {len(columns)} columns, expected 15 or 16; a class name cannot contain spaces"
        raise RowError("malformed_row", reason)
    values = [number(text) for text in columns[1:]]
    if None in values:
        text = columns[1 + values.index(None)]
        reason = f"{shown(text)} is not a number; only the first column is text, so a class name cannot contain spaces"
        raise RowError("malformed_row", reason)
    x1, y1, x2, y2 = (value for value in values[3:7] if value is not None)
    is_ignored = columns[0] == _DONT_CARE
    return NamedRow(None, EVERY_CLASS if is_ignored else columns[0], (x1, y1, x2, y2), is_crowd=is_ignored)


FORMAT = LabelFormat("KITTI text", "txt", _matches, partial(read_rows, parse=_parse), per_image=True)
"""KITTI text, one file per image."""
