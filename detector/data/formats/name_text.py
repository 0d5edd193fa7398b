"""Reads text files of one image whose rows begin with the name of the class, as OIDv4 ToolKit and mAP tools write them.

    Traffic light 10.5 20.0 110.0 70.0
    dog 48 240 195 371 difficult

The numbers are the corners x1, y1, x2, y2 in pixels. The image name is the name of the label file without suffix.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from detector.data.image_labels import LabelFormat, NamedRow
from detector.data.parsing.row_values import number, shown
from detector.data.parsing.text_rows import read_rows
from detector.data.row_collector import RowError

_DIFFICULT = "difficult"


def _matches(lines: Sequence[str]) -> bool:
    """Return whether most of the first lines of a file are rows in this format, with corners in order."""
    rows = [columns for line in lines if (columns := line.lstrip("\ufeff").split())]
    corners = []
    for columns in rows:
        with suppress(RowError):
            corners.append(_parse(columns).corners)
    is_in_pixels = any(max(box) > 1 for box in corners)
    is_ordered = all(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in corners)
    return is_in_pixels and is_ordered and len(corners) > len(rows) / 2


def _parse(columns: Sequence[str]) -> NamedRow:
    """Return a row.

    Raises:
        RowError: the row cannot be used.
    """
    is_difficult = columns[-1] == _DIFFICULT
    columns = columns[: len(columns) - is_difficult]
    name, corners = " ".join(columns[:-4]), [number(text) for text in columns[-4:]]
    if not name or len(corners) < 4 or None in corners or number(columns[-5]) is not None:
        reason = f"the row is {shown(' '.join(columns))}; expected the name of a class and x1 y1 x2 y2"
        raise RowError("malformed_row", reason)
    x1, y1, x2, y2 = (value for value in corners if value is not None)
    return NamedRow(None, name, (x1, y1, x2, y2), is_crowd=is_difficult)


FORMAT = LabelFormat("class name text", "txt", _matches, partial(read_rows, parse=_parse), per_image=True)
"""Text with the name of the class and corners, one file per image."""
