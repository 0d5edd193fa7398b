"""Reads XML of "CVAT for images 1.1".

    <annotations><image id="0" name="a.jpg" width="640" height="480">
        <box label="cat" xtl="10" ytl="20" xbr="50" ybr="30"/></image></annotations>

Polygons, polylines, ellipses, masks, cuboids and rotated boxes become their bounding boxes. "CVAT for video" does not
contain the names of the images and is refused.
"""

from pathlib import Path
from xml.etree.ElementTree import Element

from detector.data.image_labels import ImageLabels, LabelFormat
from detector.data.parsing.row_values import class_name, image_size, number, numbers, parse_row, shown
from detector.data.parsing.shapes import bounding_box, ellipse_box, rotated_box
from detector.data.parsing.xml_file import line_of, parse_xml
from detector.data.row_collector import Corners, RowError
from detector.data.split import canonical_name
from detector.errors import LabelError, location

_NOT_OBJECTS = {"tag"}
"""Elements of an image that are not objects: `<tag>` is a label of the whole image."""


def _matches(tag: str) -> bool:
    """Return whether the root element is that of CVAT."""
    return tag == "annotations"


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read an XML file of CVAT.

    Raises:
        InputError: the file is not XML, is not "CVAT for images", or an image has no name.
    """
    root = parse_xml(path)
    images = root.findall("image")
    if (track := root.find("track")) is not None:
        raise LabelError(
            f"{location(path, line_of(track))}: <track> is a part of 'CVAT for video', which has no image names; "
            "export the task as 'CVAT for images 1.1' with 'Save images'"
        )
    if root.tag != "annotations" or not images:
        raise LabelError(f"{location(path, 1)}: not XML of CVAT with images; expected <annotations> with <image>")
    return tuple(_read_image(path, image) for image in images)


def _read_image(path: Path, image: Element) -> ImageLabels:
    """Return the labels of an `<image>` element."""
    name, line = image.get("name", "").strip(), line_of(image)
    if not name:
        raise LabelError(f"{location(path, line)}: <image> has no `name`; expected the file name of the image")
    rows = [
        parse_row(_parse, shape, line_of(shape), f"<{shape.tag}>") for shape in image if shape.tag not in _NOT_OBJECTS
    ]
    hw = image_size(image.get("height"), image.get("width"))
    subset = canonical_name(image.get("subset", "").strip())
    return ImageLabels(path, line, name, tuple(rows), hw, split_name=None if subset in ("", "default") else subset)


def _parse(shape: Element) -> tuple[str, Corners]:
    """Return class name and corners of an element of an image.

    Raises:
        RowError: the element cannot be used.
    """
    return class_name(shape.get("label"), f"`label` of <{shape.tag:.60}>"), _corners(shape)


def _corners(shape: Element) -> Corners:
    """Return the bounding box of an element of an image.

    Raises:
        RowError: a value is missing or is not a number, or the shape is not supported.
    """
    values, name = shape.attrib, f"<{shape.tag:.60}>"
    [degrees] = numbers(values, ("rotation",), name) if "rotation" in values else (0.0,)
    if shape.tag == "box":
        x1, y1, x2, y2 = numbers(values, ("xtl", "ytl", "xbr", "ybr"), name)
        return rotated_box(((x1 + x2) / 2, (y1 + y2) / 2), x2 - x1, y2 - y1, degrees) if degrees else (x1, y1, x2, y2)
    if shape.tag == "ellipse":
        x, y, radius_x, radius_y = numbers(values, ("cx", "cy", "rx", "ry"), name)
        return ellipse_box((x, y), radius_x, radius_y, degrees)
    if shape.tag == "mask":
        x, y, width, height = numbers(values, ("left", "top", "width", "height"), name)
        return x, y, x + width, y + height
    if shape.tag == "cuboid":
        corners = [f"{side}{end}" for side in ("tl", "bl", "tr", "br") for end in (1, 2)]
        xs = numbers(values, [f"x{corner}" for corner in corners], name)
        ys = numbers(values, [f"y{corner}" for corner in corners], name)
        return bounding_box(list(zip(xs, ys, strict=True)))
    if shape.tag in ("polygon", "polyline"):
        return bounding_box(_points(values.get("points", "")))
    raise RowError("malformed_row", f"{name} is not a shape with an area; draw a box")


def _points(text: str) -> list[tuple[float, float]]:
    """Return the points of text such as `10.5,20;30,40`."""
    points = []
    for pair in filter(None, map(str.strip, text.split(";"))):
        x, comma, y = pair.partition(",")
        x_value, y_value = number(x), number(y)
        if not comma or x_value is None or y_value is None:
            raise RowError("malformed_row", f"the point {shown(pair)} is not two numbers with a comma between them")
        points.append((x_value, y_value))
    return points


FORMAT = LabelFormat("CVAT XML", "xml", _matches, _read)
"""XML of "CVAT for images 1.1"."""
