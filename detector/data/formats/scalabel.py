"""Reads Scalabel JSON, as BDD100K has it: a list of images, or an object with the list `frames`.

    [{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 10, "y1": 20, "x2": 50, "y2": 30}}]}]

An image with an empty list is a background image. An image without `labels` is not labeled: it is left out. Labels
without `box2d`, such as lanes and the drivable area, are not used; a note counts them. The attributes `crowd` and
`ignored` mark a crowd region.
"""

from pathlib import Path
from typing import Any

from detector.data.image_labels import ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.json_file import JsonFile, Key, read_json_file
from detector.data.parsing.row_values import class_name, is_list_of_objects, numbers, parse_row, shown, size_in
from detector.data.row_collector import RowError

_MAX_CHECKED = 20
_SHAPES = ("box2d", "box3d", "poly2d", "rle", "graph")


def _matches(value: Any) -> bool:
    """Return whether a JSON value is a list of images with labels of Scalabel, at least one in the first images."""
    frames: Any = value.get("frames") if isinstance(value, dict) else value
    if not is_list_of_objects(frames, _MAX_CHECKED):
        return False
    labels = []
    for frame in frames[:_MAX_CHECKED]:
        own = frame.get("labels")
        if not isinstance(frame.get("name"), str) or not isinstance(own, list | None):
            return False
        labels += (own or [])[:_MAX_CHECKED]
    is_label = [isinstance(label, dict) and "category" in label for label in labels]
    return all(is_label) and any(label.keys() & set(_SHAPES) for label in labels)


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a file.

    Raises:
        InputError: the file is not JSON, or an image has no name or no list of labels.
    """
    file = read_json_file(path, lambda value: (*_place_of_frames(value), "*", "labels", "*"))
    keys = _place_of_frames(file.value)
    frames = file.value.get("frames") if isinstance(file.value, dict) else file.value
    if not isinstance(frames, list):
        raise file.error(f"not Scalabel JSON: expected a list of images, got {shown(frames)}")
    images = (_read_image(file, frame, (*keys, index)) for index, frame in enumerate(frames))
    return tuple(image for image in images if image is not None)


def _place_of_frames(value: Any) -> tuple[Key, ...]:
    """Return the place of the list of images in the JSON value of a file."""
    return ("frames",) if isinstance(value, dict) else ()


def _read_image(file: JsonFile, frame: Any, keys: tuple[Key, ...]) -> ImageLabels | None:
    """Return the labels of an image; None if it is not labeled.

    Args:
        file: the file.
        frame: the image.
        keys: place of the image in the file.
    """
    name = frame.get("name") if isinstance(frame, dict) else None
    if not isinstance(frame, dict) or not isinstance(name, str) or not name:
        raise file.error(f"image {keys[-1]}: `name` is {shown(name)}; expected the file name of the image", *keys)
    labels = frame.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, list):
        expected = "expected a list, [] if there is no object"
        raise file.error(f"image {shown(name)}: `labels` is {shown(labels)}; {expected}", *keys)
    rows, remarks = [], []
    for i, label in enumerate(labels):
        if isinstance(label, dict) and label.get("box2d") is None:
            remarks.append(f"not used, because they have no `box2d`, class {shown(label.get('category'))}")
        else:
            line = file.line(*keys, "labels", i)
            rows.append(parse_row(_parse, label, line, f"image {shown(name)}, label {i}"))
    video = frame.get("videoName")
    path = f"{video}/{name}" if isinstance(video, str) and video else name
    hw = size_in(frame.get("size"))
    return ImageLabels(file.path, file.line(*keys), path, tuple(rows), hw, remarks=tuple(remarks))


def _parse(label: Any) -> NamedRow:
    """Return a label as a row.

    Raises:
        RowError: the label cannot be used.
    """
    if not isinstance(label, dict):
        raise RowError("malformed_row", f"the label is {shown(label)}; expected an object")
    name = class_name(label.get("category"), "`category`")
    box, attributes = label.get("box2d"), label.get("attributes")
    if not isinstance(box, dict):
        raise RowError("malformed_row", f"`box2d` is {shown(box)}; expected x1, y1, x2 and y2")
    x1, y1, x2, y2 = numbers(box, ("x1", "y1", "x2", "y2"), "`box2d`")
    is_crowd = isinstance(attributes, dict) and any(attributes.get(key) is True for key in ("crowd", "ignored"))
    return NamedRow(None, name, (x1, y1, x2, y2), is_crowd)


FORMAT = LabelFormat("Scalabel JSON", "json", _matches, _read)
"""JSON of Scalabel and BDD100K."""
