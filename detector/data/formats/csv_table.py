"""Reads CSV tables with one box per row: with a header such as that of TensorFlow, or in a known order without one.

    filename,width,height,class,xmin,ymin,xmax,ymax
    a.jpg,640,480,cat,10,20,110,90

Columns are found by name, in any order; other columns are ignored. Instead of corners, a table may have `bbox_x`,
`bbox_y`, `bbox_width` and `bbox_height`, or all four in one cell `bbox`. The delimiter is a comma, a semicolon or a
tab. A row with an image and without class and box marks a background image. Boxes are in pixels; if all coordinates of
a file are from 0 to 1, they are fractions of the image size.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detector.data.formats.csv_columns import BBOX_KEYS, CORNER_KEYS, TableLayout, find_layout
from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.csv_file import CsvRow, read_csv_file
from detector.data.parsing.row_values import are_fractions, class_name, image_size, number, numbers, parse_row, shown
from detector.data.row_collector import Corners, RowError
from detector.data.split import canonical_name
from detector.errors import LabelError, location
from detector.files import read_text

_MAX_CHECKED = 20
_EXAMPLE = "filename,width,height,class,xmin,ymin,xmax,ymax"
_ONLY_CLASS = "object"
"""Name of the class of a table without a column for the class."""

_SPLIT_NAMES = {"unassigned": "", "validate": "val"}
"""Names in the column for the split that are not those of folders; both are from AutoML Vision."""

_MIN_SIZES = 0.1
"""Fraction of boxes in one cell that must have a width below x or a height below y: so they are not corners."""


@dataclass
class _Image:
    """The rows of one image that were read so far."""

    line: int
    size: tuple[int, int] | None = None
    split: str = ""
    rows: list[NamedRow | BadRow] = field(default_factory=list)


def _matches(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a file are a table of boxes."""
    return find_layout(lines) is not None


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a table. The images are in the order of their first rows.

    Raises:
        InputError: the file cannot be read as CSV, its columns are unknown, or a row has no image.
    """
    layout = find_layout(read_text(path).split("\n")[:_MAX_CHECKED])
    if layout is None:
        raise LabelError(f"{location(path, 1)}: not a table of boxes; expected a header such as {_EXAMPLE}")
    images: dict[str, _Image] = {}
    for row in read_csv_file(path, layout.delimiter)[layout.has_header :]:
        column = layout.columns["image"]
        name = row.cells[column] if column < len(row.cells) else ""
        if not name:
            place = location(path, row.line)
            raise LabelError(f"{place}: the row has no image; write the file name of the image, or remove the row")
        _add_row(images.setdefault(name, _Image(row.line)), row, layout)
    if "bbox" in layout.columns and not layout.columns.keys() & {*CORNER_KEYS, *BBOX_KEYS}:
        _check_sizes(path, [row for image in images.values() for row in image.rows])
    fractions = are_fractions(row for image in images.values() for row in image.rows)
    return tuple(
        ImageLabels(path, image.line, name, tuple(image.rows), image.size, fractions, image.split or None)
        for name, image in images.items()
    )


def _check_sizes(path: Path, rows: Sequence[NamedRow | BadRow]) -> None:
    """Raise LabelError if the boxes in one cell may be corners instead of x, y, width and height."""
    corners = [row.corners for row in rows if isinstance(row, NamedRow)]
    sizes = sum(x2 - x1 <= x1 or y2 - y1 <= y1 for x1, y1, x2, y2 in corners)
    if sizes < _MIN_SIZES * len(corners):
        raise LabelError(
            f"{path}: the column `bbox` may contain x, y, width and height, or the corners x1, y1, x2 and y2; write "
            "four columns: `xmin`, `ymin`, `xmax` and `ymax`"
        )


def _add_row(image: _Image, row: CsvRow, layout: TableLayout) -> None:
    """Add a row of the table to its image. A row without class and box adds only the size and the split."""
    try:
        _check_columns(row.cells, layout)
        values = {meaning: row.cells[column] for meaning, column in layout.columns.items()}
        _update(image, values)
    except RowError as error:
        image.rows.append(BadRow(row.line, RowError(error.code, error.reason)))
        return
    if any(values.get(key) for key in ("class", *CORNER_KEYS, *BBOX_KEYS, "bbox")):
        image.rows.append(parse_row(_parse, values, row.line, f"line {row.line}"))


def _check_columns(cells: Sequence[str], layout: TableLayout) -> None:
    """Raise RowError if a row has fewer columns than needed or more than the header.

    A file name or class with a delimiter and without quotation marks moves the columns after it.
    """
    if len(cells) <= max(layout.columns.values()) or any(cells[layout.column_count :]):
        reason = (
            f"the row has {len(cells)} columns, expected {layout.column_count}; a name with a delimiter needs quotes"
        )
        raise RowError("malformed_row", reason)


def _update(image: _Image, values: Mapping[str, str]) -> None:
    """Set size and split of an image from a row, or raise RowError if they differ from those of another row."""
    size = image_size(values.get("height"), values.get("width"))
    split = values.get("split", "")
    split = _SPLIT_NAMES.get(split.lower(), canonical_name(split))
    if image.size and size and image.size != size:
        (height, width), (other_height, other_width) = size, image.size
        reason = f"the image is {width} x {height} in this row, but {other_width} x {other_height} in another row"
        raise RowError("malformed_row", reason)
    if image.split and split and image.split != split:
        reason = f"the image is in the split {shown(split)} in this row, but in {shown(image.split)} in another row"
        raise RowError("malformed_row", reason)
    image.size, image.split = image.size or size, image.split or split


def _parse(values: Mapping[str, str]) -> tuple[str, Corners]:
    """Return class name and corners of a row.

    Args:
        values: meaning of the column → text.

    Raises:
        RowError: the row cannot be used.
    """
    name = class_name(values["class"], "the class column") if "class" in values else _ONLY_CLASS
    if values.keys() >= set(CORNER_KEYS):
        x1, y1, x2, y2 = numbers(values, CORNER_KEYS, "the box")
        return name, (x1, y1, x2, y2)
    if values.keys() >= set(BBOX_KEYS):
        x, y, width, height = numbers(values, BBOX_KEYS, "the box")
    else:
        x, y, width, height = _parse_cell(values["bbox"])
    return name, (x, y, x + width, y + height)


def _parse_cell(text: str) -> Corners:
    """Return the four numbers of a cell such as `[10.0, 20.0, 100.0, 70.0]`; raise RowError if there are others."""
    found = [number(part) for part in re.split(r"[\s,;]+", text.strip("[]() "))]
    if len(found) != 4 or None in found:
        raise RowError("malformed_row", f"the box is {shown(text)}; expected x, y, width and height")
    x, y, width, height = (value for value in found if value is not None)
    return x, y, width, height


FORMAT = LabelFormat("CSV table", "csv", _matches, _read, matches_stem=True)
"""CSV with the columns of TensorFlow and Roboflow, or in the order of Keras RetinaNet and others without header."""
