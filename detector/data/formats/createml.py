"""Reads CreateML JSON: a list of images, with boxes as center, width and height in pixels.

    [{"image": "a.jpg", "annotations": [
        {"label": "cat", "coordinates": {"x": 30, "y": 20, "width": 40, "height": 10}}]}]

Apple's documentation also has the keys `imagefilename` and `annotation`. An image without annotations is a background
image. If all coordinates are from 0 to 1, they are fractions of the image size.
"""

from pathlib import Path
from typing import Any

from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.json_file import JsonFile, read_json_file
from detector.data.parsing.row_values import (
    are_fractions,
    class_name,
    first_key,
    is_list_of_objects,
    numbers,
    parse_row,
    shown,
)
from detector.data.row_collector import Corners, RowError

_IMAGE_KEYS = ("image", "imagefilename")
_LIST_KEYS = ("annotations", "annotation")
_MAX_CHECKED = 20


def _matches(value: Any) -> bool:
    """Return whether a JSON value is a list of images with annotations as CreateML writes them."""
    if not is_list_of_objects(value, _MAX_CHECKED):
        return False
    for item in value[:_MAX_CHECKED]:
        annotations = item.get(first_key(item, _LIST_KEYS))
        if not isinstance(item.get(first_key(item, _IMAGE_KEYS)), str) or not isinstance(annotations, list):
            return False
        if annotations and not (isinstance(annotations[0], dict) and {"label", "coordinates"} <= annotations[0].keys()):
            return False
    return True


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a CreateML file.

    Raises:
        InputError: the file is not JSON, or an element of the list does not have the name of an image.
    """
    file = read_json_file(path, ("*", "*", "*"))
    if not isinstance(file.value, list):
        raise file.error(f"not CreateML JSON: expected a list of images, got {shown(file.value)}")
    images = [_read_image(file, index) for index in range(len(file.value))]
    rows = [row for _, image_rows in images for row in image_rows]
    fractions = are_fractions(rows)
    return tuple(
        ImageLabels(path, file.line(index), name, image_rows, are_fractions=fractions)
        for index, (name, image_rows) in enumerate(images)
    )


def _read_image(file: JsonFile, index: int) -> tuple[str, tuple[NamedRow | BadRow, ...]]:
    """Return the name and the rows of one element of the list."""
    item = file.value[index]
    if not isinstance(item, dict):
        raise file.error(f"element {index} is {shown(item)}; expected an object with `image`", index)
    name = item.get(first_key(item, _IMAGE_KEYS))
    if not isinstance(name, str) or not name:
        problem = f"element {index}: `image` is {shown(name)}; expected the file name of the image"
        raise file.error(problem, index)
    list_key = first_key(item, _LIST_KEYS)
    annotations = item.get(list_key)
    if not isinstance(annotations, list):
        problem = (
            f"image {shown(name)}: `annotations` is {shown(annotations)}; expected a list, [] if there is no object"
        )
        raise file.error(problem, index)
    return name, tuple(
        parse_row(_parse, annotation, file.line(index, list_key, i), f"image {shown(name)}, annotation {i}")
        for i, annotation in enumerate(annotations)
    )


def _parse(annotation: Any) -> tuple[str, Corners]:
    """Return class name and corners of an annotation.

    Raises:
        RowError: the annotation cannot be used.
    """
    if not isinstance(annotation, dict):
        raise RowError("malformed_row", f"the annotation is {shown(annotation)}; expected an object")
    name = class_name(annotation.get("label"), "`label`")
    coordinates = annotation.get("coordinates")
    if not isinstance(coordinates, dict):
        raise RowError("malformed_row", f"`coordinates` is {shown(coordinates)}; expected x, y, width and height")
    x, y, width, height = numbers(coordinates, ("x", "y", "width", "height"), "`coordinates`")
    return name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


FORMAT = LabelFormat("CreateML JSON", "json", _matches, _read)
"""CreateML JSON, as Roboflow, IBM Cloud Annotations and Apple's tools write it."""
