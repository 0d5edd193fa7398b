"""Reads Datumaro JSON: one file per split, `annotations/SPLIT.json`.

    {"info": {}, "categories": {"label": {"labels": [{"name": "cat"}]}}, "items": [
        {"id": "a", "image": {"path": "a.jpg", "size": [480, 640]},
         "annotations": [{"type": "bbox", "label_id": 0, "bbox": [10, 20, 40, 10]}]}]}

Polygons, polylines, masks, ellipses and rotated boxes become their bounding boxes. An object with the attribute
`is_crowd` is a crowd region. The image name is the path of the image; without path, it is the id of the item. The name
of the split is the name of the file, except for "default".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.data.image_labels import ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.json_file import JsonFile, read_json_file
from detector.data.parsing.row_values import image_size, number, numbers, parse_row, shown
from detector.data.parsing.shapes import bounding_box, mask_box, mask_counts, rotated_box
from detector.data.row_collector import Corners, RowError
from detector.data.split import canonical_name

_NOT_OBJECTS = ("label", "caption")
"""Types of annotations that describe the whole image."""


def _matches(value: Any) -> bool:
    """Return whether a JSON value is a dataset of Datumaro."""
    if not isinstance(value, dict) or not isinstance(value.get("categories"), dict):
        return False
    items = value.get("items")
    return isinstance(items, list) and all(isinstance(item, dict) and "annotations" in item for item in items[:20])


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a file of Datumaro.

    Raises:
        InputError: the file is not JSON, the classes or the items are missing, or an item has no id or annotations.
    """
    file = read_json_file(path, ("items", "*", "annotations", "*"))
    value = file.value
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise file.error(f"not Datumaro JSON: `items` is {shown(items)}; expected a list")
    class_names = _class_names(file)
    split = None if path.stem == "default" else canonical_name(path.stem)
    return tuple(_read_item(file, index, class_names, split) for index in range(len(items)))


def _class_names(file: JsonFile) -> list[str]:
    """Return the names of the classes; their indices are the label ids."""
    value = file.value.get("categories")
    for key in ("label", "labels"):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise file.error("not Datumaro JSON: expected the list `labels` in `categories`, `label`")
    names = [label.get("name") if isinstance(label, dict) else label for label in value]
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise file.error(f"the name of label {index} is {shown(name)}; expected the name of a class")
    return [str(name).strip() for name in names]


def _read_item(file: JsonFile, index: int, class_names: Sequence[str], split: str | None) -> ImageLabels:
    """Return the labels of an element of `items`."""
    item, line = file.value["items"][index], file.line("items", index)
    if not isinstance(item, dict):
        raise file.error(f"item {index} is {shown(item)}; expected an object", "items", index)
    image: dict[str, Any] = next((item[key] for key in ("image", "media") if isinstance(item.get(key), dict)), {})
    name = image.get("path") or item.get("id")
    if not isinstance(name, str) or not name:
        raise file.error(f"item {index}: the path of the image is {shown(name)}; expected text", "items", index)
    annotations = item.get("annotations")
    if not isinstance(annotations, list):
        problem = f"item {shown(name)}: `annotations` is {shown(annotations)}; expected a list"
        raise file.error(problem, "items", index)
    rows = tuple(
        parse_row(
            lambda annotation: _parse(annotation, class_names),
            annotation,
            file.line("items", index, "annotations", i),
            f"item {shown(name)}, annotation {i}",
        )
        for i, annotation in enumerate(annotations)
        if not (isinstance(annotation, dict) and annotation.get("type") in _NOT_OBJECTS)
    )
    size = image.get("size")
    hw = image_size(*size) if isinstance(size, list) and len(size) == 2 else None
    return ImageLabels(file.path, line, name, rows, hw, split_name=split)


def _parse(annotation: Any, class_names: Sequence[str]) -> NamedRow:
    """Return an annotation as a row.

    Raises:
        RowError: the annotation cannot be used.
    """
    if not isinstance(annotation, dict):
        raise RowError("malformed_row", f"the annotation is {shown(annotation)}; expected an object")
    label_id = number(annotation.get("label_id"))
    if label_id is None or not label_id.is_integer() or not 0 <= label_id < len(class_names):
        reason = f"label_id {shown(annotation.get('label_id'))} is not among the {len(class_names)} labels"
        raise RowError("unknown_class", reason)
    attributes = annotation.get("attributes")
    is_crowd = isinstance(attributes, dict) and attributes.get("is_crowd") in (True, 1)
    return NamedRow(None, class_names[int(label_id)], _corners(annotation), is_crowd)


def _corners(annotation: dict[str, Any]) -> Corners:
    """Return the bounding box of an annotation.

    Raises:
        RowError: a value is missing or has a wrong type, or the annotation has no area.
    """
    kind = annotation.get("type")
    if kind == "bbox":
        x, y, width, height = _floats(annotation, "bbox", 4)
        return x, y, x + width, y + height
    if kind in ("polygon", "polyline"):
        values = _floats(annotation, "points", None)
        return bounding_box(list(zip(values[::2], values[1::2], strict=True)))
    if kind == "ellipse":
        x1, y1, x2, y2 = _floats(annotation, "points" if "points" in annotation else "bbox", 4)
        return x1, y1, x2, y2
    if kind == "rotated_bbox":
        x, y, width, height, degrees = numbers(annotation, ("cx", "cy", "w", "h", "r"), "the rotated box")
        return rotated_box((x, y), width, height, degrees)
    if kind == "mask":
        rle = annotation.get("rle")
        size = rle.get("size") if isinstance(rle, dict) else None
        hw = image_size(*size) if isinstance(size, list) and len(size) == 2 else None
        if not isinstance(rle, dict) or hw is None:
            raise RowError("malformed_row", "the mask has no `rle` with `counts` and `size`")
        return mask_box(mask_counts(rle.get("counts")), hw)
    raise RowError("malformed_row", f"`type` is {shown(kind)}, which has no area; draw a box")


def _floats(annotation: dict[str, Any], key: str, count: int | None) -> list[float]:
    """Return a list of numbers: `count` numbers, or an even number of them if `count` is None.

    Raises:
        RowError: the value of the key is not such a list.
    """
    value = annotation.get(key)
    values = list(map(number, value)) if isinstance(value, list) else [None]
    if None in values or (len(values) % 2 if count is None else len(values) != count):
        expected = "pairs of numbers" if count is None else f"{count} numbers"
        raise RowError("malformed_row", f"`{key}` is not a list of {expected}")
    return [value for value in values if value is not None]


FORMAT = LabelFormat("Datumaro JSON", "json", _matches, _read, matches_stem=True)
"""Datumaro JSON."""
