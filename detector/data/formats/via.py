"""Reads JSON of the VGG Image Annotator (VIA), versions 1 and 2: exported annotations, and whole project files.

    {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [
        {"shape_attributes": {"name": "rect", "x": 10, "y": 20, "width": 40, "height": 10},
         "region_attributes": {"class": "cat"}}]}}

Circles, ellipses, polygons and polylines become their bounding boxes. If the regions of the file have one attribute, it
is the class; if they have several, the class is the one whose name is in `CLASS_ATTRIBUTES`; if they have none, all
objects have the class "object". VIA 3 has another format, which is not read.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.parsing.json_file import JsonFile, Key, read_json_file
from detector.data.parsing.row_values import class_name, number, numbers, parse_row, shown
from detector.data.parsing.shapes import bounding_box, ellipse_box
from detector.data.row_collector import Corners, RowError
from detector.errors import LabelError
from detector.wording import few_names

CLASS_ATTRIBUTES = (
    *("class", "class_name", "classname", "label", "label_name", "labels", "name", "names", "type", "category"),
    *("object", "object_name", "classes"),
)
"""Names of the attribute that contains the class, in lower case; if regions have several of them, the first one."""

ONLY_CLASS = "object"
"""Class of all objects if no region has an attribute."""

_PROJECT_KEY = "_via_img_metadata"
_MAX_CHECKED = 20


def _matches(value: Any) -> bool:
    """Return whether a JSON value is a VIA project or exported annotations of VIA 1 or 2."""
    if isinstance(value, dict) and isinstance(value.get(_PROJECT_KEY), dict):
        return True
    if not isinstance(value, dict) or not value:
        return False
    items = [item for item, _ in zip(value.values(), range(_MAX_CHECKED), strict=False)]
    return all(
        isinstance(item, dict)
        and isinstance(item.get("filename"), str)
        and "size" in item
        and isinstance(item.get("regions"), list | dict)
        for item in items
    )


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read a VIA file.

    Raises:
        InputError: the file is not JSON, an element does not have the name of an image, or the class attribute is
            unknown.
    """
    file = read_json_file(path, ("*", "*", "*", "*"))
    prefix: tuple[Key, ...] = ()
    images = file.value
    if isinstance(images, dict) and _PROJECT_KEY in images:
        images, prefix = images[_PROJECT_KEY], (_PROJECT_KEY,)
    if not isinstance(images, dict):
        raise file.error(f"not VIA JSON: expected an object with one element per image, got {shown(images)}")
    for key, image in images.items():
        _check_image(file, (*prefix, key), image)
    attributes = {key: _region_attributes(image) for key, image in images.items()}
    attribute = find_class_attribute(file.path, (region for regions in attributes.values() for region in regions))
    return tuple(
        ImageLabels(
            path,
            file.line(*prefix, key),
            image["filename"],
            _rows(file, (*prefix, key, "regions"), image, attribute),
        )
        for key, image in images.items()
    )


def _check_image(file: JsonFile, keys: tuple[Key, ...], image: Any) -> None:
    """Raise LabelError if an element of the file is not an image with regions."""
    name = image.get("filename") if isinstance(image, dict) else None
    if not isinstance(name, str) or not name:
        raise file.error(f"{shown(keys[-1])}: `filename` is {shown(name)}; expected the file name of the image", *keys)
    if not isinstance(image.get("regions"), list | dict):
        regions = shown(image.get("regions"))
        raise file.error(
            f"image {shown(name)}: `regions` is {regions}; expected a list, [] if there is no object", *keys
        )


def _items(image: Mapping[str, Any]) -> list[tuple[Key, Any]]:
    """Return the key and the value of each region of an image: VIA 2 has a list, VIA 1 an object."""
    regions = image["regions"]
    return list(enumerate(regions)) if isinstance(regions, list) else list(regions.items())


def _region_attributes(image: Mapping[str, Any]) -> list[Any]:
    """Return the attributes of each region of an image, values of any type."""
    return [region.get("region_attributes") for _, region in _items(image) if isinstance(region, dict)]


def _rows(
    file: JsonFile, keys: tuple[Key, ...], image: Mapping[str, Any], attribute: str | None
) -> tuple[NamedRow | BadRow, ...]:
    """Return the rows of an image.

    Args:
        file: the file.
        keys: path of the regions in the file.
        image: the image.
        attribute: the attribute that contains the class; None: all objects have the same class.
    """
    return tuple(
        parse_row(
            lambda region: _parse(region, attribute),
            region,
            file.line(*keys, key),
            f"image {shown(image['filename'])}, region {key!s:.20}",
        )
        for key, region in _items(image)
    )


def _parse(region: Any, attribute: str | None) -> tuple[str, Corners]:
    """Return class name and corners of a region.

    Raises:
        RowError: the region cannot be used.
    """
    if not isinstance(region, dict):
        raise RowError("malformed_row", f"the region is {shown(region)}; expected an object")
    return class_of(region.get("region_attributes"), attribute), box_of(region.get("shape_attributes"))


def find_class_attribute(path: Path, regions: Iterable[Any]) -> str | None:
    """Return the name of the attribute that contains the class, or None if no region has an attribute.

    Args:
        path: the label file, for messages.
        regions: the attributes of all regions of the file: name → value, or values of any other type.

    Raises:
        LabelError: the regions have several attributes, and none has a known name.
    """
    names: dict[str, None] = {}  # an ordered set
    for attributes in regions:
        if isinstance(attributes, dict):
            names.update(dict.fromkeys(attributes))
    if len(names) <= 1:
        return next(iter(names), None)
    lower = {name.strip().lower(): name for name in reversed(names)}
    for known in CLASS_ATTRIBUTES:
        if known in lower:
            return lower[known]
    listed = few_names([shown(name) for name in names])
    problem = f"which attribute contains the class? The regions have {listed}; rename the attribute to 'class'"
    raise LabelError(f"{path}: {problem}")


def class_of(attributes: Any, attribute: str | None) -> str:
    """Return the class name of a region.

    Args:
        attributes: attributes of the region, a value of any type.
        attribute: the attribute that contains the class; None: `ONLY_CLASS` is the class.

    Raises:
        RowError: the region has no class or several.
    """
    if attribute is None:
        return ONLY_CLASS
    value = attributes.get(attribute) if isinstance(attributes, dict) else None
    if isinstance(value, dict):  # checkboxes
        checked = [key for key, is_checked in value.items() if is_checked is True]
        if len(checked) > 1:
            raise RowError("malformed_row", f"the region has {len(checked)} classes: {shown(checked[0])}, ...")
        value = checked[0] if checked else None
    return class_name(value, f"the attribute {shown(attribute)}")


def box_of(shape: Any) -> Corners:
    """Return the bounding box of a region.

    Args:
        shape: the `shape_attributes` of the region, a value of any type.

    Raises:
        RowError: the shape is damaged, unknown, or a point.
    """
    kind = shape.get("name") if isinstance(shape, dict) else None
    if kind == "rect":
        x, y, width, height = numbers(shape, ("x", "y", "width", "height"), "the rectangle")
        return x, y, x + width, y + height
    if kind == "circle":
        x, y, radius = numbers(shape, ("cx", "cy", "r"), "the circle")
        return ellipse_box((x, y), radius, radius)
    if kind == "ellipse":
        x, y, radius_x, radius_y = numbers(shape, ("cx", "cy", "rx", "ry"), "the ellipse")
        [radians] = numbers(shape, ("theta",), "the ellipse") if "theta" in shape else (0.0,)  # VIA 1 has no angle
        return ellipse_box((x, y), radius_x, radius_y, math.degrees(radians))
    if kind in ("polygon", "polyline"):
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise RowError("malformed_row", "`all_points_x` and `all_points_y` are not two lists of the same length")
        points = [
            (x, y) for x, y in zip(map(number, xs), map(number, ys), strict=True) if x is not None and y is not None
        ]
        if len(points) != len(xs):
            raise RowError("malformed_row", "a coordinate of a point is not a number")
        return bounding_box(points)
    if kind == "point":
        raise RowError("malformed_row", "the region is a point; draw a rectangle")
    raise RowError("malformed_row", f"the shape is {shown(kind)}; expected a rect, circle, ellipse or polygon")


FORMAT = LabelFormat("VIA JSON", "json", _matches, _read)
"""JSON of the VGG Image Annotator 1 and 2."""
