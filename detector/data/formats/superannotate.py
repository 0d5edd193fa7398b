"""Reads JSON of SuperAnnotate: one file per image, `a.jpg___objects.json` or `a.jpg.json`.

    {"metadata": {"name": "a.jpg", "width": 640, "height": 480}, "instances": [
        {"type": "bbox", "className": "cat", "points": {"x1": 10, "y1": 20, "x2": 50, "y2": 30}}]}

Polygons, polylines, rotated boxes, ellipses and cuboids become their bounding boxes. An image whose status says that
nobody has labeled it, and that has no instances, is not labeled: it is left out.
"""

from pathlib import Path
from typing import Any

from detector.data.image_labels import ImageLabels, LabelFormat
from detector.data.parsing.json_file import read_json_file
from detector.data.parsing.row_values import class_name, number, numbers, parse_row, shown, size_in
from detector.data.parsing.shapes import bounding_box, ellipse_box
from detector.data.row_collector import Corners, RowError

_UNLABELED = ("NotStarted", "Skipped")
"""Values of `status` of an image that nobody has labeled."""

_FACES = ("f1", "f2", "r1", "r2")
"""Keys of the corners of a cuboid: two of its front and two of its rear."""


def _matches(value: Any) -> bool:
    """Return whether a JSON value is the annotation of one image by SuperAnnotate."""
    if not isinstance(value, dict) or not isinstance(value.get("instances"), list):
        return False
    metadata = value.get("metadata")
    has_name = isinstance(metadata, dict) and isinstance(metadata.get("name"), str)
    return has_name and all(isinstance(item, dict) and "type" in item for item in value["instances"][:20])


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read the JSON file of one image.

    Raises:
        InputError: the file is not JSON, or has no name of an image or no list `instances`.
    """
    file = read_json_file(path, ("instances", "*"))
    value = file.value
    metadata = value.get("metadata") if isinstance(value, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        raise file.error(f"`name` in `metadata` is {shown(name)}; expected the file name of the image")
    instances = value.get("instances")
    if not isinstance(instances, list):
        raise file.error(f"`instances` is {shown(instances)}; expected a list, [] if there is no object")
    if not instances and metadata.get("status") in _UNLABELED:
        return ()
    rows = tuple(
        parse_row(_parse, item, file.line("instances", i), f"instance {i}") for i, item in enumerate(instances)
    )
    return (ImageLabels(path, None, name, rows, size_in(metadata)),)


def _parse(item: Any) -> tuple[str, Corners]:
    """Return class name and corners of an instance.

    Raises:
        RowError: the instance cannot be used.
    """
    if not isinstance(item, dict):
        raise RowError("malformed_row", f"the instance is {shown(item)}; expected an object")
    name = class_name(item.get("className"), "`className`")
    kind, points = item.get("type"), item.get("points")
    if kind == "ellipse":
        cx, cy, rx, ry, angle = numbers({"angle": 0} | item, ("cx", "cy", "rx", "ry", "angle"), "the ellipse")
        return name, ellipse_box((cx, cy), rx, ry, angle)
    if kind in ("polygon", "polyline"):
        values = [number(value) for value in points] if isinstance(points, list) else [None]
        if None in values or len(values) % 2:
            raise RowError("malformed_row", f"`points` of the {kind} is {shown(points)}; expected pairs of numbers")
        flat = [value for value in values if value is not None]
        return name, bounding_box(list(zip(flat[::2], flat[1::2], strict=True)))
    if kind not in ("bbox", "rbbox", "cuboid"):
        raise RowError("malformed_row", f"`type` is {shown(kind)}, which has no area; draw a box")
    if not isinstance(points, dict):
        raise RowError("malformed_row", f"`points` of the {kind} is {shown(points)}; expected an object with corners")
    if kind == "bbox":
        x1, y1, x2, y2 = numbers(points, ("x1", "y1", "x2", "y2"), "the box")
        return name, (x1, y1, x2, y2)
    if kind == "cuboid":
        corners = [corner if isinstance(corner := points.get(key), dict) else {} for key in _FACES]
        pairs = [numbers(corner, ("x", "y"), "a corner of the cuboid") for corner in corners]
        return name, bounding_box([(x, y) for x, y in pairs])
    xs = numbers(points, ("x1", "x2", "x3", "x4"), "the rotated box")
    ys = numbers(points, ("y1", "y2", "y3", "y4"), "the rotated box")
    return name, bounding_box(list(zip(xs, ys, strict=True)))


FORMAT = LabelFormat("SuperAnnotate JSON", "json", _matches, _read, per_image=True)
"""JSON of SuperAnnotate, one file per image."""
