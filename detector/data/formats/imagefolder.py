"""Reads the `imagefolder` layout of Hugging Face: images, and `metadata.jsonl` with one image per line.

    {"file_name": "a.jpg", "objects": {"bbox": [[10, 20, 40, 10]], "categories": [0]}}

`objects` is an object of lists, or a list of objects. Boxes are x, y, width and height in pixels. Categories are names
or numbers; numbers get the names that `README.md` (the dataset card) or `classes.txt` gives, in the folder of the file
or, if this folder is called `data` or like a split, in the folder above. An image with an empty list is a background
image. An image without `objects` is not labeled: it is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from detector.data.image_labels import ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.class_files import find_class_file, read_class_file
from detector.data.parsing.json_file import JsonFile, read_json_lines
from detector.data.parsing.row_values import class_name, first_key, number, parse_row, shown, size_in
from detector.data.row_collector import Corners, RowError
from detector.data.split import split_in
from detector.data.yaml_files import load_yaml
from detector.errors import LabelError
from detector.files import read_text

_BOX_KEYS = ("bbox", "bboxes", "boxes", "box")
_CLASS_KEYS = (
    *("category", "categories", "label", "labels", "class", "classes", "class_name", "class_names"),
    *("category_id", "category_ids", "class_id", "class_ids"),
)
_CROWD_KEYS = ("iscrowd", "is_crowd", "crowd")
_ONLY_CLASS = "object"
"""Name of the class of objects without a key for the class."""

_MAX_CARD = 1_000_000
"""Largest size in characters of a dataset card whose header is read."""

_MAX_DEPTH = 20
"""Largest number of parts around a part of the header that may name the classes."""


class LabeledImage(NamedTuple):
    """An image and its objects, as they are in the metadata.

    Attributes:
        file: the JSON value of the image, for its place in messages.
        name: name of the image.
        hw: (height, width) of the image; None if unknown.
        objects: (box, class, whether it is a crowd region) of each object; values of any type.
    """

    file: JsonFile
    name: str
    hw: tuple[int, int] | None
    objects: Sequence[tuple[Any, Any, Any]]


def _matches(values: Sequence[Any]) -> bool:
    """Return whether the first lines of a file are images with objects, at least one of them with a key for boxes."""
    lines = [value for value in values if isinstance(value, dict) and isinstance(value.get("file_name"), str)]
    return len(lines) == len(values) and any(has_boxes(line.get("objects")) for line in lines)


def has_boxes(objects: Any) -> bool:
    """Return whether a value is the objects of an image: an object with a list of boxes, or a list of such objects."""
    first = objects[0] if isinstance(objects, list) and objects else objects
    return isinstance(first, dict) and isinstance(first.get(first_key(first, _BOX_KEYS)), list)


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a `metadata.jsonl`.

    Raises:
        InputError: a line is not JSON or has no image, the objects have another form, or the names of the classes
            cannot be read.
    """
    images = (read_image(file, file.value) for file in read_json_lines(path))
    return name_classes(path, (image for image in images if image is not None))


def read_image(file: JsonFile, value: Any) -> LabeledImage | None:
    """Return the image and the objects of a row of the metadata; None if it is not labeled.

    Args:
        file: the place of the row.
        value: the row: column → value.

    Raises:
        LabelError: the row has no image, or `objects` has another form.
    """
    name = value.get("file_name") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str) or not name:
        raise file.error(f"`file_name` is {shown(name)}; expected the path of the image, relative to this file")
    objects = value.get("objects")
    if objects is None:
        return None
    hw = size_in(value)
    return LabeledImage(file, name, hw, tuple(_objects(file, name, objects)))


def _objects(file: JsonFile, name: str, objects: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (box, class, whether it is a crowd region) of each object of an image.

    Raises:
        LabelError: `objects` is neither an object of lists of the same length nor a list of objects.
    """
    if isinstance(objects, list) and all(isinstance(item, dict) for item in objects):
        for item in objects:
            label = item.get(first_key(item, _CLASS_KEYS), _ONLY_CLASS)
            yield item.get(first_key(item, _BOX_KEYS)), label, item.get(first_key(item, _CROWD_KEYS), False)
        return
    if not isinstance(objects, dict):
        problem = (
            f'`objects` is {shown(objects)}; expected {{"bbox": [[x, y, width, height], ...], "categories": [...]}}'
        )
        raise file.error(f"image {shown(name)}: {problem}")
    columns = []
    boxes = objects.get(first_key(objects, _BOX_KEYS))
    for keys, default in ((_BOX_KEYS, None), (_CLASS_KEYS, _ONLY_CLASS), (_CROWD_KEYS, False)):
        key = first_key(objects, keys)
        values = objects.get(key, [default] * len(boxes) if isinstance(boxes, list) else None)
        if not isinstance(values, list) or not isinstance(boxes, list) or len(values) != len(boxes):
            found = f"{len(values)} values" if isinstance(values, list) else shown(values)
            expected = f"one for each of the {len(boxes)} boxes" if isinstance(boxes, list) else "a list of boxes"
            raise file.error(f"image {shown(name)}: `{key}` is {found}; expected {expected}, [] if there is no object")
        columns.append(values)
    yield from zip(*columns, strict=True)


def name_classes(path: Path, images: Iterable[LabeledImage]) -> tuple[ImageLabels, ...]:
    """Return the labels of the images; numbers of classes get their names.

    Args:
        path: the metadata file.
        images: the images in it.

    Raises:
        InputError: the file with the names cannot be read, or names the classes in two ways.
    """
    found = list(images)
    has_numbers = any(type(label) is int for image in found for _, label, _ in image.objects)
    names = _class_names(path) if has_numbers else {}
    return tuple(
        ImageLabels(
            path,
            image.file.line(),
            image.name,
            tuple(
                parse_row(lambda item: _parse(item, names), item, image.file.line(), f"object {i}")
                for i, item in enumerate(image.objects)
            ),
            image.hw,
        )
        for image in found
    )


def _parse(item: tuple[Any, Any, Any], names: Mapping[str, str]) -> NamedRow:
    """Return an object as a row.

    Args:
        item: box, class, and whether it is a crowd region.
        names: number of a class as text → its name; empty: the numbers are the names.

    Raises:
        RowError: the object cannot be used.
    """
    box, label, is_crowd = item
    name = class_name(label, "the category")
    if type(label) is int and names:
        if name not in names:
            raise RowError("unknown_class", f"category {name} is not among the {len(names)} named classes")
        name = names[name]
    return NamedRow(None, name, _corners(box), is_crowd in (True, 1))


def _corners(box: Any) -> Corners:
    """Return the corners of a box [x, y, width, height]; raise RowError if it has another form."""
    values = [number(value) for value in box] if isinstance(box, list) else []
    if len(values) != 4 or None in values:
        raise RowError("malformed_row", f"the box is {box!s:.60}; expected [x, y, width, height]")
    x, y, width, height = (value for value in values if value is not None)
    return x, y, x + width, y + height


def _class_names(path: Path) -> dict[str, str]:
    """Return number of a class as text → its name; empty if no file names the classes."""
    folders = [path.parent]
    while split_in(folders[-1].name) or folders[-1].name.lower() == "data":
        folders.append(folders[-1].parent)
    card = find_class_file(folders, "README.md")
    names = _names_in_card(card) if card is not None else {}
    if not names and (file := find_class_file(folders, "classes.txt")) is not None:
        names = {str(i): name for i, name in enumerate(read_class_file(file)) if name}
    return names


def _names_in_card(card: Path) -> dict[str, str]:
    """Return number → name of the classes in the header of a dataset card; empty if it names none.

    Raises:
        InputError: the card cannot be read, or names the classes of objects in two ways.
    """
    parts = read_text(card)[:_MAX_CARD].split("---\n", 2)
    try:
        header = load_yaml(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (yaml.YAMLError, RecursionError):
        header = None
    found = {tuple(names.items()) for names in _label_names(header)}
    if len(found) > 1:
        raise LabelError(
            f"{card}: `class_label` of the objects names the classes in {len(found)} ways; keep one, or write the "
            "names instead of numbers into the metadata"
        )
    return dict(found.pop()) if found else {}


def _label_names(value: Any, features: tuple[str, ...] = (), depth: int = 0) -> Iterator[dict[str, str]]:
    """Yield number → name for each `class_label` of a feature that is the class of objects.

    Args:
        value: a part of the header of the card.
        features: names of the features that contain it.
        depth: number of parts around it.
    """
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict):
        features = (*features, value["name"]) if isinstance(value.get("name"), str) else features
        label = value.get("class_label")
        names = label.get("names") if isinstance(label, dict) else None
        if isinstance(names, list):
            names = {str(i): name for i, name in enumerate(names)}
        is_class = "objects" in features and features[-1] in _CLASS_KEYS
        if is_class and isinstance(names, dict) and all(isinstance(name, str) for name in names.values()):
            yield {str(number): name.strip() for number, name in names.items()}
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _label_names(part, features, depth + 1)


FORMAT = LabelFormat("Hugging Face JSON lines", "jsonl", _matches, _read, may_be_corners=True)
"""`metadata.jsonl` of the `imagefolder` layout of Hugging Face."""
