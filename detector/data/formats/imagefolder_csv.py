"""Reads the `imagefolder` layout of Hugging Face with `metadata.csv`, whose column `objects` is JSON.

    file_name,objects
    a.jpg,"{""bbox"": [[10, 20, 40, 10]], ""categories"": [0]}"

The objects are those of `imagefolder.py`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.data.formats.imagefolder import has_boxes, name_classes, read_image
from detector.data.image_labels import ImageLabels, LabelFormat
from detector.data.parsing.csv_file import first_rows, read_csv_file
from detector.data.parsing.json_file import JsonFile, parse_json
from detector.errors import LabelError, location


def _matches(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a file are a table with the columns `file_name` and `objects` of JSON."""
    header, *rows = [row.cells for row in first_rows(lines, ",")] or [()]
    if not {"file_name", "objects"} <= set(header):
        return False
    column = header.index("objects")
    return any(has_boxes(_json_or_none(cells[column])) for cells in rows if column < len(cells))


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a `metadata.csv`.

    Raises:
        InputError: the file cannot be read as CSV, a column is missing, a row has no image, a cell of `objects` is not
            JSON or has another form, or the names of the classes cannot be read.
    """
    rows = read_csv_file(path, ",")
    header = rows[0].cells if rows else ()
    if not {"file_name", "objects"} <= set(header):
        raise LabelError(f"{location(path, 1)}: not metadata of Hugging Face; expected the columns file_name, objects")
    images = []
    for row in rows[1:]:
        if len(row.cells) != len(header):
            problem = f"the row has {len(row.cells)} columns, expected {len(header)}; JSON in a cell needs quotes"
            raise LabelError(f"{location(path, row.line)}: {problem}")
        values: Mapping[str, Any] = dict(zip(header, row.cells, strict=True))
        objects = parse_json(values["objects"], path, row.line) if values["objects"] else None
        images.append(read_image(JsonFile(path, objects, {(): row.line}), {**values, "objects": objects}))
    return name_classes(path, (image for image in images if image is not None))


FORMAT = LabelFormat("Hugging Face CSV", "csv", _matches, _read, may_be_corners=True)
"""`metadata.csv` of the `imagefolder` layout of Hugging Face, with JSON in the column `objects`."""
