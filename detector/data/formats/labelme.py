"""Reads LabelMe JSON: one file per image.

    {"imagePath": "a.jpg", "imageHeight": 480, "imageWidth": 640, "shapes": [
        {"label": "cat", "shape_type": "rectangle", "points": [[10, 20], [50, 30]]}]}

Polygons, circles, lines and masks become their bounding boxes. `group_id` is not used: if an object consists of several
shapes, each shape is a box. The image name is `imagePath`, which may contain
backslashes; without `imagePath`, it is the name of the label file without suffix.
"""

import math
from pathlib import Path
from typing import Any

from detector.data.image_labels import ImageLabels, LabelFormat
from detector.data.parsing.json_file import read_json_file
from detector.data.parsing.row_values import class_name, image_size, parse_row, shown
from detector.data.parsing.shapes import bounding_box, ellipse_box, points_of
from detector.data.row_collector import Corners, RowError

_POLYGONS = ("polygon", "rectangle", "line", "linestrip", "rotation", "oriented_rectangle")
"""Shapes whose bounding box is that of their points; rotated rectangles have four points."""


def _matches(value: Any) -> bool:
    """Return whether a JSON value is the annotation of one image by LabelMe."""
    if not isinstance(value, dict) or "imagePath" not in value or not isinstance(value.get("shapes"), list):
        return False
    return all(isinstance(shape, dict) and {"label", "points"} <= shape.keys() for shape in value["shapes"][:20])


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read the JSON file of one image.

    Raises:
        InputError: the file is not JSON, or `shapes` or `imagePath` has a wrong type.
    """
    file = read_json_file(path, ("*", "*"))
    value = file.value
    shapes = value.get("shapes") if isinstance(value, dict) else None
    if not isinstance(shapes, list):
        raise file.error(f"not LabelMe JSON: `shapes` is {shown(shapes)}; expected a list, [] if there is no object")
    name = value.get("imagePath") or path.stem
    if not isinstance(name, str):
        raise file.error(f"`imagePath` is {shown(name)}; expected the file name of the image", "imagePath")
    rows = tuple(parse_row(_parse, shape, file.line("shapes", i), f"shape {i}") for i, shape in enumerate(shapes))
    hw = image_size(value.get("imageHeight"), value.get("imageWidth"))
    return (ImageLabels(path, file.line("imagePath"), name, rows, hw),)


def _parse(shape: Any) -> tuple[str, Corners]:
    """Return class name and corners of a shape.

    Raises:
        RowError: the shape cannot be used.
    """
    if not isinstance(shape, dict):
        raise RowError("malformed_row", f"the shape is {shown(shape)}; expected an object")
    name, points = class_name(shape.get("label"), "`label`"), points_of(shape.get("points"))
    kind = shape.get("shape_type") or "polygon"  # old files have only polygons, without `shape_type`
    if kind in _POLYGONS:
        return name, bounding_box(points)
    if kind == "circle":
        if len(points) != 2:
            raise RowError(
                "malformed_row", f"the circle has {len(points)} points; expected its center and an edge point"
            )
        center, (x, y) = points
        radius = math.hypot(x - center[0], y - center[1])
        return name, ellipse_box(center, radius, radius)
    if kind == "mask":
        x1, y1, x2, y2 = bounding_box(points)
        return name, (x1, y1, x2 + 1, y2 + 1)  # the points are the first and the last pixel of the mask
    raise RowError("malformed_row", f"`shape_type` is {shown(kind)}, which has no area; draw a rectangle")


FORMAT = LabelFormat("LabelMe JSON", "json", _matches, _read, per_image=True)
"""LabelMe JSON, one file per image."""
