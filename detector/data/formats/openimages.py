"""Reads CSV of the Open Images dataset.

    ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
    000a1249af2bc5f0,xclick,/m/01yrx,1,0.1,0.5,0.2,0.8,0,0,0,0,0

Coordinates are fractions of the image size, and image names have no suffix. A row with `IsGroupOf` of 1 is a crowd
region. The names of the classes are read from a file `*class-descriptions*.csv` next to the file or in the folder
above, or from `metadata/classes.csv` in the folder above. A class that is not in such a file is named as in
`LabelName`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.data.formats.csv_columns import is_open_images
from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.class_files import find_class_file
from detector.data.parsing.csv_file import first_rows, read_csv_file
from detector.data.parsing.row_values import class_name, number, numbers, parse_row, shown
from detector.data.row_collector import RowError
from detector.data.split import canonical_name
from detector.errors import LabelError, location

_CORNER_KEYS = ("xmin", "ymin", "xmax", "ymax")
_SPLIT = re.compile(r"(?<![a-z])(train|validation|test)(?![a-z])", re.IGNORECASE)


def _matches(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a file have the header of Open Images."""
    rows = first_rows(lines, ",")
    return bool(rows) and is_open_images(rows[0].cells)


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a CSV file of Open Images. The images are in the order of their first rows.

    Raises:
        InputError: the file or the file with the names of the classes cannot be read as CSV, a column is missing, or a
            row has no image; or the file with the names is a link to a file elsewhere.
    """
    rows = read_csv_file(path, ",")
    if not rows or not is_open_images(rows[0].cells):
        raise LabelError(f"{location(path, 1)}: not CSV of Open Images; expected ImageID, LabelName, XMin, XMax, ...")
    header = [cell.lower() for cell in rows[0].cells]
    class_names = _class_names(path)
    images: dict[str, tuple[int, list[NamedRow | BadRow]]] = {}

    def parse(cells: Sequence[str]) -> NamedRow:
        return _parse(cells, header, class_names)

    for row in rows[1:]:
        name = dict(zip(header, row.cells, strict=False)).get("imageid")
        if not name:
            raise LabelError(f"{location(path, row.line)}: the row has no ImageID; write it, or remove the row")
        _, image_rows = images.setdefault(name, (row.line, []))
        image_rows.append(parse_row(parse, row.cells, row.line, f"line {row.line}"))
    split = canonical_name(match[0]) if (match := _SPLIT.search(path.stem)) else None
    return tuple(
        ImageLabels(path, line, name, tuple(image_rows), are_fractions=True, split_name=split)
        for name, (line, image_rows) in images.items()
    )


def _parse(cells: Sequence[str], header: Sequence[str], class_names: Mapping[str, str]) -> NamedRow:
    """Return a row.

    Raises:
        RowError: the row cannot be used.
    """
    if len(cells) != len(header):
        raise RowError("malformed_row", f"the row has {len(cells)} columns, expected {len(header)}")
    values = dict(zip(header, cells, strict=True))
    label = class_name(values["labelname"], "LabelName")
    x1, y1, x2, y2 = numbers(values, _CORNER_KEYS, "the box")
    if number(values.get("confidence")) == 0:
        raise RowError("malformed_row", f"Confidence is 0: the image does not contain {shown(label)}")
    is_group = number(values.get("isgroupof")) == 1
    return NamedRow(None, class_names.get(label, label), (x1, y1, x2, y2), is_group)


def _class_names(path: Path) -> dict[str, str]:
    """Return `LabelName` → name of the class, from the first file with names of classes; empty if there is none."""
    folders = (path.parent, path.parent.parent)
    file = find_class_file(folders, "*class-descriptions*.csv") or find_class_file(folders[1:], "metadata/classes.csv")
    if file is None:
        return {}
    rows = [row.cells for row in read_csv_file(file, ",")]
    return {cells[0]: cells[1] for cells in rows if len(cells) >= 2 and cells[1]}


FORMAT = LabelFormat("Open Images CSV", "csv", _matches, _read, matches_stem=True)
"""CSV of the Open Images dataset."""
