"""Reads CSV of the VGG Image Annotator (VIA), versions 1 and 2: one region per row.

    filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
    a.jpg,123,"{}",1,0,"{""name"":""rect"",""x"":10,""y"":20,""width"":40,""height"":10}","{""class"":""cat""}"

Shapes and classes are as in VIA JSON. A row with the shape {} marks a background image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.data.formats.via import box_of, class_of, find_class_attribute
from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.csv_file import CsvRow, first_rows, read_csv_file
from detector.data.parsing.json_file import parse_json
from detector.data.parsing.row_values import parse_row
from detector.data.row_collector import Corners, RowError
from detector.errors import LabelError, location

_IMAGE, _SHAPE, _ATTRIBUTES = "filename", "region_shape_attributes", "region_attributes"


def _matches(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a file have the header of VIA."""
    rows = first_rows(lines, ",")
    return bool(rows) and {_IMAGE, _SHAPE, _ATTRIBUTES} <= set(_header(rows[0]))


def _header(row: CsvRow) -> list[str]:
    """Return the names of the columns; VIA 1 has `#filename`."""
    return [cell.removeprefix("#").lower() for cell in row.cells]


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a CSV file of VIA. The images are in the order of their first rows.

    Raises:
        InputError: the file cannot be read as CSV, a column is missing, a row has no image, or the class attribute is
            unknown.
    """
    rows = read_csv_file(path, ",")
    header = _header(rows[0]) if rows else []
    if not {_IMAGE, _SHAPE, _ATTRIBUTES} <= set(header):
        raise LabelError(f"{location(path, 1)}: not CSV of VIA; expected the columns {_IMAGE}, {_SHAPE}, {_ATTRIBUTES}")
    cells = [dict(zip(header, row.cells, strict=False)) for row in rows[1:]]
    regions = [(_json(row.get(_SHAPE), path), _json(row.get(_ATTRIBUTES), path)) for row in cells]
    attribute = find_class_attribute(path, (attributes for _, attributes in regions))
    images: dict[str, tuple[int, list[NamedRow | BadRow]]] = {}

    def parse(region: tuple[Any, Any]) -> tuple[str, Corners]:
        if region[1] is None:
            raise RowError(
                "malformed_row", "the attributes of the region are not JSON; a cell with commas needs quotes"
            )
        return class_of(region[1], attribute), box_of(region[0])

    for row, values, region in zip(rows[1:], cells, regions, strict=True):
        name = values[_IMAGE]
        if not name:
            raise LabelError(f"{location(path, row.line)}: the row has no file name; write it, or remove the row")
        _, image_rows = images.setdefault(name, (row.line, []))
        if region[0] != {}:
            image_rows.append(parse_row(parse, region, row.line, f"line {row.line}"))
    return tuple(ImageLabels(path, line, name, tuple(image_rows)) for name, (line, image_rows) in images.items())


def _json(text: str | None, path: Path) -> Any:
    """Return the value of a cell, or None if it is not JSON."""
    try:
        return parse_json(text or "", path)
    except LabelError:
        return None


FORMAT = LabelFormat("VIA CSV", "csv", _matches, _read)
"""CSV of the VGG Image Annotator 1 and 2."""
