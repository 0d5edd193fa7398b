"""Reads CSV tables with one box per row: with the header of TensorFlow and Roboflow, or as Keras RetinaNet without one.

    filename,width,height,class,xmin,ymin,xmax,ymax
    a.jpg,640,480,cat,10,20,110,90

Columns are found by name, in any order; other columns are ignored. Instead of corners, a table may have `bbox_x`,
`bbox_y`, `bbox_width` and `bbox_height`. Without header, the columns are path, x1, y1, x2, y2, class. The delimiter is
a comma, a semicolon or a tab. A row with an image and without class and box marks a background image. Boxes are in
pixels; if all coordinates of a file are from 0 to 1, they are fractions of the image size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.csv_file import DELIMITERS, CsvRow, first_rows, read_csv_file
from detector.data.parsing.row_values import are_fractions, class_name, image_size, number, numbers, parse_row, shown
from detector.data.row_collector import Corners, RowError
from detector.data.split import canonical_name
from detector.errors import LabelError, location
from detector.files import read_text
from detector.images import IMAGE_SUFFIXES

_NAMES = {
    "image": (
        *("filename", "file_name", "image_path", "img_path", "path", "filepath", "file_path", "image_name"),
        *("img_name", "imagename", "image_file", "image", "img", "file", "image_id", "imageid"),
    ),
    "class": ("class_name", "classname", "label_name", "labelname", "class", "label", "category", "name"),
    "split": ("split", "subset"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "x1": ("xmin", "x_min", "x1", "left", "bbox_xmin", "bbox_x_min", "bbox_x1"),
    "y1": ("ymin", "y_min", "y1", "top", "bbox_ymin", "bbox_y_min", "bbox_y1"),
    "x2": ("xmax", "x_max", "x2", "right", "bbox_xmax", "bbox_x_max", "bbox_x2"),
    "y2": ("ymax", "y_max", "y2", "bottom", "bbox_ymax", "bbox_y_max", "bbox_y2"),
    "bbox_x": ("bbox_x", "bbox_left"),
    "bbox_y": ("bbox_y", "bbox_top"),
    "bbox_width": ("bbox_width", "bbox_w"),
    "bbox_height": ("bbox_height", "bbox_h"),
}
"""Meaning of a column → names of the column in lower case; if a table has several of them, the first one is used.

`class_name` is before `class`, because `class` is a number where both exist.
"""

_CORNER_KEYS = ("x1", "y1", "x2", "y2")
_BBOX_KEYS = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
_WITHOUT_HEADER = {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "class": 5}
_MAX_CHECKED = 20
_EXAMPLE = "filename,width,height,class,xmin,ymin,xmax,ymax"
_OPEN_IMAGES = {"imageid", "labelname", "xmin", "xmax", "ymin", "ymax"}


class _Layout(NamedTuple):
    """How a table is written: delimiter, meaning → column, number of columns, and whether the first row is a header."""

    delimiter: str
    columns: Mapping[str, int]
    column_count: int
    has_header: bool


@dataclass
class _Image:
    """The rows of one image that were read so far."""

    line: int
    size: tuple[int, int] | None = None
    split: str = ""
    rows: list[NamedRow | BadRow] = field(default_factory=list)


def is_open_images(header: Sequence[str]) -> bool:
    """Return whether the cells of a header are the columns of the Open Images dataset."""
    return {cell.lower() for cell in header} >= _OPEN_IMAGES


def _matches(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a file are a table of boxes."""
    return _find_layout(lines) is not None


def _find_layout(lines: Sequence[str]) -> _Layout | None:
    """Return how the table is written, or None if the first lines of a file are not a table of boxes."""
    for delimiter in DELIMITERS:
        rows = first_rows(lines, delimiter)
        if rows and (columns := _columns(rows[0].cells)) is not None:
            return _Layout(delimiter, columns, len(rows[0].cells), has_header=True)
        if rows and _is_without_header(rows):
            return _Layout(delimiter, _WITHOUT_HEADER, len(_WITHOUT_HEADER), has_header=False)
    return None


def _columns(header: Sequence[str]) -> dict[str, int] | None:
    """Return meaning → column of a header, or None if image, class or box are missing."""
    names = [cell.lower().replace(" ", "_").replace("-", "_") for cell in header]
    columns = {}
    for meaning, known in _NAMES.items():
        if (name := next((name for name in known if name in names), None)) is not None:
            columns[meaning] = names.index(name)
    has_box = columns.keys() >= set(_CORNER_KEYS) or columns.keys() >= set(_BBOX_KEYS)
    is_table = has_box and columns.keys() >= {"image", "class"} and not is_open_images(header)
    return columns if is_table else None


def _is_without_header(rows: Sequence[CsvRow]) -> bool:
    """Return whether all rows have the columns `path,x1,y1,x2,y2,class`, and the first one has valid values."""
    if any(len(row.cells) != 6 or PureWindowsPath(row.cells[0]).suffix.lower() not in IMAGE_SUFFIXES for row in rows):
        return False
    _, *corners, name = rows[0].cells
    if not any((*corners, name)):  # a background image
        return True
    is_fraction = number(name) is not None and not name.isdigit()  # a confidence score, for example
    return bool(name) and not is_fraction and all(number(text) is not None for text in corners)


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a table. The images are in the order of their first rows.

    Raises:
        InputError: the file cannot be read as CSV, its columns are unknown, or a row has no image.
    """
    layout = _find_layout(read_text(path).split("\n")[:_MAX_CHECKED])
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
    fractions = are_fractions(row for image in images.values() for row in image.rows)
    return tuple(
        ImageLabels(path, image.line, name, tuple(image.rows), image.size, fractions, image.split or None)
        for name, image in images.items()
    )


def _add_row(image: _Image, row: CsvRow, layout: _Layout) -> None:
    """Add a row of the table to its image. A row without class and box adds only the size and the split."""
    try:
        _check_columns(row.cells, layout)
        values = {meaning: row.cells[column] for meaning, column in layout.columns.items()}
        _update(image, values)
    except RowError as error:
        image.rows.append(BadRow(row.line, RowError(error.code, error.reason)))
        return
    if any(values.get(key) for key in ("class", *_CORNER_KEYS, *_BBOX_KEYS)):
        image.rows.append(parse_row(_parse, values, row.line, f"line {row.line}"))


def _check_columns(cells: Sequence[str], layout: _Layout) -> None:
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
    split = canonical_name(values.get("split", ""))
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
    name = class_name(values["class"], "the class column")
    if values.keys() >= set(_CORNER_KEYS):
        x1, y1, x2, y2 = numbers(values, _CORNER_KEYS, "the box")
        return name, (x1, y1, x2, y2)
    x, y, width, height = numbers(values, _BBOX_KEYS, "the box")
    return name, (x, y, x + width, y + height)


FORMAT = LabelFormat("CSV table", "csv", _matches, _read, matches_stem=True)
"""CSV with the columns of TensorFlow and Roboflow, or of Keras RetinaNet."""
