"""Reads text of DOTA: one file per image, one object per row with four corners, class and difficulty.

    imagesource:GoogleEarth
    gsd:0.146
    10.0 20.0 50.0 20.0 50.0 30.0 10.0 30.0 small-vehicle 0

The first two lines and the last column may be missing. The bounding box of the corners is used; the ledger has a note
if boxes are rotated. The image name is the name of the label file without suffix. A difficulty of 1 or more marks a
crowd region.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detector.data.image_labels import ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.row_values import number, shown
from detector.data.parsing.shapes import bounding_box
from detector.data.parsing.text_rows import read_rows
from detector.data.row_collector import RowError

_HEADER = re.compile(r"(imagesource|gsd)\s*:.*", re.IGNORECASE)
_COORDINATES = 8


def _matches(lines: Sequence[str]) -> bool:
    """Return whether all of the first lines of a file are the header of DOTA or rows, at least one a row."""
    texts = [text for line in lines if (text := line.lstrip("\ufeff").strip())]
    rows = [text.split() for text in texts if not _HEADER.fullmatch(text)]
    return bool(rows) and all(_is_row(columns) for columns in rows)


def _is_row(columns: Sequence[str]) -> bool:
    """Return whether columns are eight numbers, a class, and a difficulty, which may be missing."""
    rest = columns[_COORDINATES:]
    has_numbers = None not in map(number, columns[:_COORDINATES])
    return (
        has_numbers and len(rest) in (1, 2) and number(rest[0]) is None and all(text.isdecimal() for text in rest[1:])
    )


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read the text file of one image.

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    rotated: list[str] = []

    def parse(columns: Sequence[str]) -> NamedRow:
        row, is_rotated = _parse(columns)
        if is_rotated:
            rotated.append("bounding boxes replace rotated boxes")
        return row

    [labels] = read_rows(path, parse, header=_HEADER)
    return (replace(labels, remarks=tuple(rotated)),)


def _parse(columns: Sequence[str]) -> tuple[NamedRow, bool]:
    """Return a row, and whether its box is rotated.

    Raises:
        RowError: the row cannot be used.
    """
    if not _is_row(columns):
        reason = f"the row is {shown(' '.join(columns))}; expected x1 y1 x2 y2 x3 y3 x4 y4 class difficulty"
        raise RowError("malformed_row", reason)
    values = [value for text in columns[:_COORDINATES] if (value := number(text)) is not None]
    xs, ys = values[::2], values[1::2]
    corners = bounding_box(list(zip(xs, ys, strict=True)))
    is_difficult = len(columns) > _COORDINATES + 1 and int(columns[_COORDINATES + 1]) > 0
    is_rotated = len(set(xs)) > 2 or len(set(ys)) > 2
    return NamedRow(None, columns[_COORDINATES], corners, is_difficult), is_rotated


FORMAT = LabelFormat("DOTA text", "txt", _matches, _read, per_image=True)
"""Text of DOTA, one file per image."""
