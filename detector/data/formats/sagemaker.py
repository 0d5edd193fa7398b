"""Reads augmented manifests of AWS SageMaker Ground Truth and Rekognition: JSON lines with one image each.

    {"source-ref": "s3://bucket/a.jpg", "boxes": {"image_size": [{"width": 640, "height": 480, "depth": 3}],
        "annotations": [{"class_id": 0, "left": 10, "top": 20, "width": 40, "height": 10}]},
     "boxes-metadata": {"class-map": {"0": "cat"}}}

The attribute with the boxes may have any name. The image name is the path in the URL of the image. A line without such
an attribute is not labeled: it is left out. An image with an empty list is a background image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.data.image_labels import ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.json_file import JsonFile, read_json_lines
from detector.data.parsing.row_values import image_path, number, numbers, parse_row, shown, size_in
from detector.data.row_collector import RowError

_IMAGE_KEY = "source-ref"
_METADATA = "-metadata"


def _matches(values: Sequence[Any]) -> bool:
    """Return whether the first lines of a file are images of a manifest, at least one of them with boxes."""
    lines = [value for value in values if isinstance(value, dict) and isinstance(value.get(_IMAGE_KEY), str)]
    return len(lines) == len(values) and any(_box_attributes(line) for line in lines)


def _box_attributes(line: Mapping[str, Any]) -> list[str]:
    """Return the names of the attributes with boxes."""
    return [
        key
        for key, value in line.items()
        if isinstance(value, dict) and "annotations" in value and not key.endswith(_METADATA)
    ]


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a manifest.

    Raises:
        InputError: a line is not JSON, has no image, or has no list of annotations.
    """
    images = map(_read_image, read_json_lines(path))
    return tuple(image for image in images if image is not None)


def _read_image(file: JsonFile) -> ImageLabels | None:
    """Return the labels of a line; None if it is not labeled.

    Raises:
        LabelError: the line has no image, or no or several lists of annotations.
    """
    line = file.value
    source = line.get(_IMAGE_KEY) if isinstance(line, dict) else None
    name = image_path(source) if isinstance(source, str) else ""
    if not isinstance(line, dict) or not name:
        raise file.error(f"`{_IMAGE_KEY}` is {shown(source)}; expected the URL or the path of the image")
    keys = _box_attributes(line)
    if not keys:
        return None
    if len(keys) > 1:
        found = f"{len(keys)} attributes with annotations, {shown(keys[0])}, {shown(keys[1])}, ..."
        raise file.error(f"image {shown(name)}: the line has {found}; keep the one whose boxes are to be used")
    [key] = keys
    annotations = line[key]["annotations"]
    if not isinstance(annotations, list):
        expected = "expected a list, [] if there is no object"
        raise file.error(f"image {shown(name)}: `annotations` is {shown(annotations)}; {expected}")
    metadata = line.get(key + _METADATA)
    class_map = metadata.get("class-map") if isinstance(metadata, dict) else None
    names: Mapping[str, Any] = class_map if isinstance(class_map, dict) else {}
    rows = tuple(
        parse_row(lambda item: _parse(item, names), item, file.line(), f"annotation {i}")
        for i, item in enumerate(annotations)
    )
    sizes = line[key].get("image_size")
    hw = size_in(sizes[0]) if isinstance(sizes, list) and sizes else None
    return ImageLabels(file.path, file.line(), name, rows, hw)


def _parse(annotation: Any, names: Mapping[str, Any]) -> NamedRow:
    """Return an annotation as a row.

    Args:
        annotation: the annotation.
        names: the class map: number of a class as text → name.

    Raises:
        RowError: the annotation cannot be used.
    """
    if not isinstance(annotation, dict):
        raise RowError("malformed_row", f"the annotation is {shown(annotation)}; expected an object")
    class_id = number(annotation.get("class_id"))
    key = f"{class_id:g}" if class_id is not None else ""
    name = names.get(key)
    if not isinstance(name, str) or not name.strip():
        reason = f"class_id {shown(annotation.get('class_id'))} is not in the `class-map` of {len(names)} classes"
        raise RowError("unknown_class", reason)
    x, y, width, height = numbers(annotation, ("left", "top", "width", "height"), "the annotation")
    return NamedRow(None, name.strip(), (x, y, x + width, y + height))


FORMAT = LabelFormat("SageMaker manifest", "jsonl", _matches, _read)
"""Manifest of AWS SageMaker Ground Truth with bounding boxes."""
