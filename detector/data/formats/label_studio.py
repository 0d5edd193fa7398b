"""Reads Label Studio JSON: the export "JSON" with whole tasks, and the export "JSON-MIN".

    [{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [{"result": [
        {"type": "rectanglelabels", "original_width": 640, "original_height": 480, "value":
            {"x": 10, "y": 20, "width": 40, "height": 10, "rotation": 0, "rectanglelabels": ["cat"]}}]}]}]

Values are percent of the image size. Polygons, ellipses and rotated rectangles become their bounding boxes. The image
name is the path in the URL of the image, or the file of `?d=` for local files. Label Studio adds eight characters and
a hyphen to the name of an uploaded file (0a1b2c3d-a.jpg for a.jpg); the image name contains them.

If a task has several annotations, the first one that is not cancelled is used, and the regions of the others are bad
rows, so that no object is labeled twice. A task without annotation, or with only cancelled ones, is not labeled: it is
left out. A task with an empty annotation is a background image.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from detector.data.image_labels import BadRow, ImageLabels, LabelFormat
from detector.data.parsing.json_file import JsonFile, Key, read_json_file
from detector.data.parsing.row_values import (
    class_name,
    image_path,
    image_size,
    is_list_of_objects,
    numbers,
    parse_row,
    shown,
)
from detector.data.parsing.shapes import Point, bounding_box, ellipse_box, points_of, rotated_box, turned
from detector.data.row_collector import Corners, RowError
from detector.images import IMAGE_SUFFIXES

_MAX_CHECKED = 20
_LIST_KEYS = ("annotations", "completions")
"""Key of the annotations of a task; the second is that of versions before 1.0."""

_SHAPES = ("rectangle", "polygon", "ellipse", "brush", "keypoint")
"""Types of regions without label; the label is in another result with the same id."""


class _Region(NamedTuple):
    """A labeled region of an image.

    Attributes:
        line: line in the file; None if unknown.
        name: name of the region in a message.
        value: shape and label, a value of any type.
        hw: (height, width) of the image; None if unknown.
    """

    line: int | None
    name: str
    value: Any
    hw: tuple[int, int] | None


def _matches(value: Any) -> bool:
    """Return whether a JSON value is an export of Label Studio with labeled images."""
    if not is_list_of_objects(value, _MAX_CHECKED):
        return False
    tasks = value[:_MAX_CHECKED]
    if all(isinstance(task.get("data"), dict) and isinstance(task.get(_list_key(task)), list) for task in tasks):
        return all(_image_key(task["data"]) is not None for task in tasks)
    return all(_image_key(task) is not None for task in tasks) and any(any(_min_lists(task)) for task in tasks)


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read an export of Label Studio.

    Raises:
        InputError: the file is not JSON, or a task has no image or no list of annotations.
    """
    file = read_json_file(path, ("*", "*", "*", "*", "*"))
    if not isinstance(file.value, list):
        raise file.error(f"not Label Studio JSON: expected a list of tasks, got {shown(file.value)}")
    images: dict[object, ImageLabels] = {}
    for index, task in enumerate(file.value):
        labels = _read_task(file, index)
        # "JSON-MIN" has one element per annotation, with the id of its task.
        key = _task_id(task, index)
        if labels is not None and (first := images.get(key)) is not None:
            others = tuple(_second(row.line, f"image {shown(labels.image_name)}") for row in labels.rows)
            images[key] = replace(first, rows=first.rows + others)
        elif labels is not None:
            images[key] = labels
    return tuple(images.values())


def _task_id(task: Mapping[str, Any], index: int) -> object:
    """Return a key that is equal for two elements of the file if they are annotations of the same task."""
    task_id = task.get("id")
    return ("id", task_id) if isinstance(task_id, int | str) and "data" not in task else ("index", index)


def _read_task(file: JsonFile, index: int) -> ImageLabels | None:
    """Return the labels of a task, or None if it is not labeled."""
    task = file.value[index]
    is_min = isinstance(task, dict) and "data" not in task
    data = task if is_min else task.get("data") if isinstance(task, dict) else None
    key = _image_key(data) if isinstance(data, dict) else None
    if not isinstance(data, dict) or key is None:
        raise file.error(f"task {index} has no image; expected the path or URL of the image as `image`", index)
    name = image_path(data[key])
    if not name:
        raise file.error(
            f"task {index}: `{key:.60}` is {shown(data[key])}; expected the path or URL of the image", index
        )
    if is_min:
        regions = [
            _min_region(file, (index, list_key, i), name, value)
            for list_key, values in _min_lists(task)
            for i, value in enumerate(values)
        ]
        return _image_labels(file, index, name, regions, ())
    list_key = _list_key(task)
    annotations = task.get(list_key)
    if not isinstance(annotations, list) or not all(isinstance(item, dict) for item in annotations):
        raise file.error(f"task {index}: `{list_key}` is {shown(annotations)}; expected a list of annotations", index)
    valid = [i for i, annotation in enumerate(annotations) if annotation.get("was_cancelled") is not True]
    if not valid:
        return None
    parts = [list(_regions(file, (index, list_key, i), name)) for i in valid]
    return _image_labels(file, index, name, parts[0], [region for part in parts[1:] for region in part])


def _list_key(task: Mapping[str, Any]) -> str:
    """Return the key of the annotations of a task."""
    return next((key for key in _LIST_KEYS if key in task), _LIST_KEYS[0])


def _image_key(data: Mapping[str, Any]) -> str | None:
    """Return the key of the image: `image` or `img`, or the only key with text that ends like an image; else None."""
    for key in ("image", "img"):
        if isinstance(data.get(key), str):
            return key
    keys = [key for key, value in data.items() if isinstance(value, str) and _has_image_suffix(value)]
    return keys[0] if len(keys) == 1 else None


def _has_image_suffix(text: str) -> bool:
    return PurePosixPath(image_path(text)).suffix.lower() in IMAGE_SUFFIXES


def _min_lists(task: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the key and the value of each list of regions in a task of "JSON-MIN"."""
    for key, values in task.items():
        if isinstance(values, list) and any(isinstance(value, dict) and _labels(value) is not None for value in values):
            yield key, values


def _min_region(file: JsonFile, keys: tuple[Key, ...], image: str, value: Any) -> _Region:
    """Return an element of a list of regions in "JSON-MIN"."""
    name = f"image {shown(image)}, region {keys[-1]}"
    return _Region(file.line(*keys), name, value, _size_of(value))


def _regions(file: JsonFile, keys: tuple[Key, ...], image: str) -> Iterator[_Region]:
    """Yield the labeled regions of an annotation, and the regions without label.

    Args:
        file: the file.
        keys: path of the annotation in the file.
        image: name of the image.
    """
    index, list_key, i = keys
    results = file.value[index][list_key][i].get("result")
    if not isinstance(results, list):
        raise file.error(f"image {shown(image)}: `result` is {shown(results)}; expected a list", *keys)
    kinds = [result.get("type") if isinstance(result, dict) else None for result in results]
    labeled = {
        result["id"]
        for kind, result in zip(kinds, results, strict=True)
        if _is_label(kind) and isinstance(result.get("id"), str)
    }
    for j, (kind, result) in enumerate(zip(kinds, results, strict=True)):
        # A result of another type, such as "choices", is not a region. A shape whose label is in another result is
        # complete in that result.
        is_unlabeled = kind in _SHAPES and not (isinstance(result.get("id"), str) and result["id"] in labeled)
        if not isinstance(result, dict) or _is_label(kind) or is_unlabeled:
            value = result.get("value") if isinstance(result, dict) else result
            name = f"image {shown(image)}, result {j}"
            yield _Region(file.line(*keys, "result", j), name, value, _size_of(result))


def _is_label(kind: Any) -> bool:
    return isinstance(kind, str) and kind.endswith("labels")


def _size_of(value: Any) -> tuple[int, int] | None:
    """Return the (height, width) of the image that a region gives; None if it gives none."""
    if not isinstance(value, dict):
        return None
    return image_size(value.get("original_height"), value.get("original_width"))


def _image_labels(
    file: JsonFile, index: int, name: str, regions: Sequence[_Region], others: Sequence[_Region]
) -> ImageLabels:
    """Return the labels of an image.

    Args:
        file: the file.
        index: index of the task.
        name: name of the image.
        regions: the regions that are used.
        others: the regions of other annotations of the same task.
    """
    rows = [parse_row(_parse, region, region.line, region.name) for region in regions]
    rows += [_second(region.line, region.name) for region in others]
    hw = next((region.hw for region in regions if region.hw is not None), None)
    return ImageLabels(file.path, file.line(index), name, tuple(rows), hw, are_fractions=True)


def _second(line: int | None, name: str) -> BadRow:
    """Return a bad row for a region of an annotation that is not used."""
    reason = "the task has another annotation, which is used; delete one of them, or export only one"
    return BadRow(line, RowError("malformed_row", reason if line is not None else f"{name}: {reason}"))


def _labels(value: Mapping[str, Any]) -> list[Any] | None:
    """Return the class names of a region, or None if it has none."""
    return next((item for key, item in value.items() if _is_label(key) and isinstance(item, list)), None)


def _parse(region: _Region) -> tuple[str, Corners]:
    """Return class name and corners of a region.

    Raises:
        RowError: the region cannot be used.
    """
    if not isinstance(region.value, dict):
        raise RowError("malformed_row", f"the region is {shown(region.value)}; expected an object")
    labels = _labels(region.value) or [None]
    if len(labels) > 1:
        raise RowError("malformed_row", f"the region has {len(labels)} classes, {shown(labels[0])}, ...; keep one")
    name = class_name(labels[0], "the list of labels")
    x1, y1, x2, y2 = _percent_box(region.value, region.hw)
    return name, (x1 / 100, y1 / 100, x2 / 100, y2 / 100)


def _percent_box(value: Mapping[str, Any], hw: tuple[int, int] | None) -> Corners:
    """Return the bounding box of a region in percent of the image size.

    Args:
        value: the region.
        hw: (height, width) of the image; only used for a rotated region.

    Raises:
        RowError: a value is missing or is not a number, or the region has no area.
    """
    if "points" in value:
        return bounding_box(points_of(value["points"]))
    is_ellipse = "radiusX" in value
    if not is_ellipse and "height" not in value:
        raise RowError("malformed_row", "the region is a brush stroke or a point; draw a rectangle")
    x, y, a, b = numbers(
        value, ("x", "y", *(("radiusX", "radiusY") if is_ellipse else ("width", "height"))), "the region"
    )
    [degrees] = numbers(value, ("rotation",), "the region") if value.get("rotation") is not None else (0.0,)
    if degrees == 0:
        return (x - a, y - b, x + a, y + b) if is_ellipse else (x, y, x + a, y + b)
    if hw is None:
        raise RowError("malformed_row", "the region is rotated, and `original_width` or `original_height` is missing")
    # A rotation is only a rotation in pixels: one percent of the width is not as long as one percent of the height.
    scale_y, scale_x = hw[0] / 100, hw[1] / 100
    corners = _rotated(is_ellipse, (x * scale_x, y * scale_y), a * scale_x, b * scale_y, degrees)
    return corners[0] / scale_x, corners[1] / scale_y, corners[2] / scale_x, corners[3] / scale_y


def _rotated(is_ellipse: bool, origin: Point, a: float, b: float, degrees: float) -> Corners:
    """Return the bounding box of a rotated region in pixels.

    Args:
        is_ellipse: whether the region is an ellipse with the radii `a` and `b`, else a rectangle with these sides.
        origin: center of the ellipse, or the upper left corner of the rectangle; the region is rotated about it.
        a: horizontal side or radius before the rotation.
        b: vertical side or radius.
        degrees: angle, clockwise.
    """
    if is_ellipse:
        return ellipse_box(origin, a, b, degrees)
    return rotated_box(turned((origin[0] + a / 2, origin[1] + b / 2), origin, degrees), a, b, degrees)


FORMAT = LabelFormat("Label Studio JSON", "json", _matches, _read)
"""JSON and JSON-MIN of Label Studio."""
