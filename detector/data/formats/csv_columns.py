"""Finds the columns of CSV tables with one box per row: by the names in the header, or in a known order without one."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import NamedTuple

from detector.data.parsing.csv_file import DELIMITERS, CsvRow, first_rows
from detector.data.parsing.row_values import number
from detector.images import IMAGE_SUFFIXES

_NAMES = {
    "image": (
        *("filename", "file_name", "image_path", "img_path", "path", "filepath", "file_path", "image_name"),
        *("img_name", "imagename", "image_file", "image", "img", "file", "image_id", "imageid", "frame"),
    ),
    "class": (
        *("class_name", "classname", "label_name", "labelname", "class", "label", "category", "name"),
        *("category_name", "object_class", "annotation_tag", "class_id", "classid", "label_id", "category_id"),
    ),
    "split": ("split", "subset"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "x1": ("xmin", "x_min", "x1", "left", "bbox_xmin", "bbox_x_min", "bbox_x1", "roi_x1", "upper_left_corner_x"),
    "y1": ("ymin", "y_min", "y1", "top", "bbox_ymin", "bbox_y_min", "bbox_y1", "roi_y1", "upper_left_corner_y"),
    "x2": ("xmax", "x_max", "x2", "right", "bbox_xmax", "bbox_x_max", "bbox_x2", "roi_x2", "lower_right_corner_x"),
    "y2": ("ymax", "y_max", "y2", "bottom", "bbox_ymax", "bbox_y_max", "bbox_y2", "roi_y2", "lower_right_corner_y"),
    "bbox_x": ("bbox_x", "bbox_left"),
    "bbox_y": ("bbox_y", "bbox_top"),
    "bbox_width": ("bbox_width", "bbox_w"),
    "bbox_height": ("bbox_height", "bbox_h"),
    "bbox": ("bbox",),
}
"""Meaning of a column → names of the column in lower case; if a table has several of them, the first one is used.

`class_name` is before `class` and `class_id`, because these may be numbers where both exist.
"""

CORNER_KEYS = ("x1", "y1", "x2", "y2")
BBOX_KEYS = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
_BOXES = (CORNER_KEYS, BBOX_KEYS, ("bbox",))

_WITHOUT_CLASS = frozenset({"", "id", "index", "unnamed:_0", "source", "url", "image_url"})
"""Columns that a table without class may have: none of them can be the class."""

_OPEN_IMAGES = {"imageid", "labelname", "xmin", "xmax", "ymin", "ymax"}


class TableLayout(NamedTuple):
    """How a table is written.

    Attributes:
        delimiter: the character between two cells.
        columns: meaning → column. Without "class", all objects have one class.
        column_count: number of columns; rows may have empty cells after them.
        has_header: whether the first row is a header.
    """

    delimiter: str
    columns: Mapping[str, int]
    column_count: int
    has_header: bool


_WITHOUT_HEADER = (
    TableLayout(",;\t", {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 5}, 6, has_header=False),
    # Google's AutoML Vision and TensorFlow Lite Model Maker: fractions, and corners that may be empty.
    TableLayout(",", {"split": 0, "image": 1, "class": 2, "x1": 3, "y1": 4, "x2": 7, "y2": 8}, 11, has_header=False),
    # Make Sense.
    TableLayout(
        ",",
        {"class": 0, "bbox_x": 1, "bbox_y": 2, "bbox_width": 3, "bbox_height": 4, "image": 5, "width": 6, "height": 7},
        8,
        has_header=False,
    ),
    # Udacity: path, corners, occluded, class, attributes.
    TableLayout(" ", {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 6}, 8, has_header=False),
)
"""The orders of columns without header; `delimiter` contains all delimiters that are possible."""


def is_open_images(header: Sequence[str]) -> bool:
    """Return whether the cells of a header are the columns of the Open Images dataset."""
    return {cell.lower() for cell in header} >= _OPEN_IMAGES


def find_layout(lines: Sequence[str]) -> TableLayout | None:
    """Return how the table is written, or None if the first lines of a file are not a table of boxes."""
    for delimiter in DELIMITERS + " ":
        rows = first_rows(lines, delimiter)
        if not rows:
            continue
        header = rows[0].cells
        columns = _columns(header)
        if delimiter != " " and _has_box(columns) and "image" in columns and not is_open_images(header):
            if "class" in columns or not _unknown_columns(header):
                return TableLayout(delimiter, columns, len(header), has_header=True)
            return None
        for layout in _WITHOUT_HEADER:
            if delimiter in layout.delimiter and _fits(rows, layout):
                return layout._replace(delimiter=delimiter)
    return None


def missing_columns(lines: Sequence[str]) -> str:
    """Return what a table with a header lacks to be a table of boxes, for the user; empty if it is no such table.

    >>> missing_columns(["file;xmin;ymin;xmax;ymax;kind"])
    'no column for the class; if it is `kind`, call it `class`'
    """
    for delimiter in DELIMITERS:
        rows = first_rows(lines[:1], delimiter)
        columns = _columns(rows[0].cells) if rows else {}
        if len(columns) < 2 or ("image" not in columns and not _has_box(columns)):
            continue
        unknown = ", ".join(f"`{name}`" for name in _unknown_columns(rows[0].cells))[:200]
        if "image" not in columns:
            return f"no column for the image; if it is {unknown}, call it `filename`" if unknown else ""
        if not _has_box(columns):
            return "no columns for the box; call them `xmin`, `ymin`, `xmax` and `ymax`"
        if "class" not in columns:
            return f"no column for the class; if it is {unknown}, call it `class`"
    return ""


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Return meaning → column of the known columns of a header."""
    names = [_plain(cell) for cell in header]
    columns = {}
    for meaning, known in _NAMES.items():
        if (name := next((name for name in known if name in names), None)) is not None:
            columns[meaning] = names.index(name)
    return columns


def _plain(cell: str) -> str:
    return re.sub("[ .-]", "_", cell.lower())


def _unknown_columns(header: Sequence[str]) -> list[str]:
    """Return the columns of a header that could be the class or the image: their names are not known."""
    known = {name for names in _NAMES.values() for name in names} | _WITHOUT_CLASS
    return [cell for cell in header if _plain(cell) not in known]


def _has_box(columns: Mapping[str, int]) -> bool:
    return any(columns.keys() >= set(keys) for keys in _BOXES)


def _fits(rows: Sequence[CsvRow], layout: TableLayout) -> bool:
    """Return whether rows without header may have this order of columns, and the first one with a box has valid values.

    A row with an image and without class and box is a background image.
    """
    columns, keys = layout.columns, next(keys for keys in _BOXES if layout.columns.keys() >= set(keys))
    last = max(columns.values())
    with_box = None
    for row in rows:
        if not last < len(row.cells) <= layout.column_count or not _is_image(row.cells[columns["image"]]):
            return False
        values = [row.cells[columns[key]] for key in (*keys, "class")]
        with_box = values if with_box is None and any(values) else with_box
    if with_box is None:
        return layout is _WITHOUT_HEADER[0]
    *box, name = with_box
    is_fraction = number(name) is not None and not name.isdigit()  # a confidence score, for example
    return bool(name) and not is_fraction and all(number(text) is not None for text in box)


def _is_image(name: str) -> bool:
    return PureWindowsPath(name).suffix.lower() in IMAGE_SUFFIXES
