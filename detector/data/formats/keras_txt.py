"""Reads the text format of Keras YOLOv3, which Roboflow also exports for PyTorch YOLOv4: one image per line.

    a.jpg 10,20,50,30,0 60,20,70,40,1

Each box is x1,y1,x2,y2 in pixels and the number of the class. The class names are in `_classes.txt` or `classes.txt` in
the same folder, one name per line. A line without boxes marks a background image.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.class_files import read_class_file
from detector.data.parsing.row_values import number, parse_row, shown
from detector.data.row_collector import RowError
from detector.errors import LabelError, location
from detector.files import is_file, read_text
from detector.images import IMAGE_SUFFIXES

_NAME_FILES = ("_classes.txt", "classes.txt")
_LINE = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))}))((?:[ \t]+[^\s,]*,\S*)*)", re.IGNORECASE
)
"""The image, whose path may contain spaces, and the boxes, each with commas."""


def _matches(lines: Sequence[str]) -> bool:
    """Return whether the first lines of a file are images with boxes, at least one of them with a valid box."""
    matches = [_LINE.fullmatch(text) for line in lines if (text := line.lstrip("\ufeff").strip())]
    boxes = [box for match in matches if match for box in match[2].split()]
    return None not in matches and any(_numbers(box) is not None for box in boxes)


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a file.

    Raises:
        InputError: the file cannot be read, a line does not begin with an image, or no file names the classes.
    """
    names = _read_names(path)
    labels = []
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        match = _LINE.fullmatch(text.strip())
        if match is None:
            raise LabelError(
                f"{location(path, line)}: expected an image and boxes, `a.jpg x1,y1,x2,y2,class ...`, got {text!r:.60}"
            )
        rows = tuple(_parse_box(box, names, line) for box in match[2].split())
        labels.append(ImageLabels(path, line, match[1], rows))
    return tuple(labels)


def _read_names(path: Path) -> tuple[str, ...]:
    """Return the class names in the order of their numbers."""
    file = next((file for name in _NAME_FILES if is_file(file := path.parent / name)), None)
    if file is None:
        raise LabelError(
            f"{path}: classes are numbers, and no file names them; write one name per line into "
            f"{path.parent / _NAME_FILES[0]}"
        )
    return read_class_file(file)


def _parse_box(box: str, names: Sequence[str], line: int) -> NamedRow | BadRow:
    """Return the row of a box such as `10,20,50,30,0`."""

    def parse(text: str) -> NamedRow:
        values = _numbers(text)
        if values is None:
            raise RowError("malformed_row", f"the box is {shown(text)}; expected x1,y1,x2,y2,class")
        x1, y1, x2, y2, class_id = values
        if not (class_id.is_integer() and 0 <= class_id < len(names) and names[int(class_id)]):
            reason = f"class {class_id:g} is not a whole number from 0 to {len(names) - 1}"
            raise RowError("class_id_equals_class_count" if class_id == len(names) else "unknown_class", reason)
        return NamedRow(line, names[int(class_id)], (x1, y1, x2, y2))

    return parse_row(parse, box, line, f"line {line}")


def _numbers(box: str) -> tuple[float, ...] | None:
    """Return the five numbers of a box, or None if it is not five numbers."""
    values = tuple(value for text in box.split(",") if (value := number(text)) is not None)
    return values if len(values) == 5 == box.count(",") + 1 else None


FORMAT = LabelFormat("Keras YOLO text", "txt", _matches, _read)
"""Text of Keras YOLOv3 and PyTorch YOLOv4."""
