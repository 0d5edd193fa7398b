"""Reads JSON of Supervisely: one file per image, `ann/NAME.jpg.json`.

    {"size": {"height": 480, "width": 640}, "tags": [], "objects": [{"classTitle": "cat", "geometryType": "rectangle",
        "points": {"exterior": [[10, 20], [50, 30]], "interior": []}}]}

The image name is the name of the label file without `.json`. Polygons, lines and bitmaps become their bounding boxes. A
tag `train`, `val` or `test` of the image is its split. `meta.json` is not needed.
"""

import base64
import binascii
import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from detector.data.image_labels import ImageLabels, LabelFormat
from detector.data.parsing.json_file import read_json_file
from detector.data.parsing.row_values import class_name, parse_row, shown, size_in
from detector.data.parsing.shapes import bounding_box, points_of
from detector.data.row_collector import Corners, RowError
from detector.data.split import canonical_name
from detector.options import MAX_PIXELS

_SPLITS = ("train", "val", "test")
_PNG_HEADER = struct.Struct(">8s8xII")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_PNG = 2**26
"""Largest size of an uncompressed bitmap in bytes, so that a small file does not expand without limit."""


def _matches(value: Any) -> bool:
    """Return whether a JSON value is the annotation of one image by Supervisely."""
    if not isinstance(value, dict) or not isinstance(value.get("objects"), list):
        return False
    size, objects = value.get("size"), value["objects"]
    has_size = isinstance(size, dict) and {"height", "width"} <= size.keys()
    return has_size and all(isinstance(item, dict) and "classTitle" in item for item in objects[:20])


def _read(path: Path) -> tuple[ImageLabels, ...]:
    """Read the JSON file of one image.

    Raises:
        InputError: the file is not JSON or has no list `objects`.
    """
    file = read_json_file(path, ("objects", "*"))
    value = file.value
    objects = value.get("objects") if isinstance(value, dict) else None
    if not isinstance(objects, list):
        raise file.error(f"not an annotation of Supervisely: `objects` is {shown(objects)}; expected a list")
    rows = tuple(parse_row(_parse, item, file.line("objects", i), f"object {i}") for i, item in enumerate(objects))
    hw = size_in(value.get("size"))
    return (ImageLabels(path, None, path.name.removesuffix(".json"), rows, hw, split_name=_split(value.get("tags"))),)


def _split(tags: Any) -> str | None:
    """Return the split that the tags of an image name, or None if no tag or more than one is a split."""
    names = [tag.get("name") if isinstance(tag, dict) else tag for tag in tags] if isinstance(tags, list) else []
    splits = {canonical_name(name) for name in names if isinstance(name, str)} & set(_SPLITS)
    return splits.pop() if len(splits) == 1 else None


def _parse(item: Any) -> tuple[str, Corners]:
    """Return class name and corners of an object.

    Raises:
        RowError: the object cannot be used.
    """
    if not isinstance(item, dict):
        raise RowError("malformed_row", f"the object is {shown(item)}; expected an object with `classTitle`")
    name = class_name(item.get("classTitle"), "`classTitle`")
    kind = item.get("geometryType", "bitmap" if item.get("bitmap") else "polygon")
    if kind == "bitmap":
        return name, _bitmap_box(item.get("bitmap"))
    if kind not in ("rectangle", "polygon", "line"):
        raise RowError("malformed_row", f"`geometryType` is {shown(kind)}, which has no area; draw a rectangle")
    points = item.get("points")
    return name, bounding_box(points_of(points.get("exterior") if isinstance(points, dict) else None))


def _bitmap_box(bitmap: Any) -> Corners:
    """Return the bounding box of a bitmap: base64 of a compressed PNG, and the position of its upper left corner.

    Raises:
        RowError: the bitmap is damaged, too large or empty.
    """
    if not isinstance(bitmap, dict) or not isinstance(bitmap.get("data"), str):
        raise RowError("malformed_row", "`bitmap` has no `data`")
    [(x, y)] = points_of([bitmap.get("origin")])
    try:
        compressed = base64.b64decode(bitmap["data"], validate=True)
        png = zlib.decompressobj().decompress(compressed, _MAX_PNG)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise RowError("malformed_row", f"the data of the bitmap cannot be decoded ({error})") from None
    x1, y1, x2, y2 = _mask_extent(png)
    return x + x1, y + y1, x + x2, y + y2


def _mask_extent(png: bytes) -> tuple[int, int, int, int]:
    """Return the smallest box around the pixels of a PNG that are not transparent, or not black if it is opaque."""
    signature, width, height = _PNG_HEADER.unpack_from(png.ljust(_PNG_HEADER.size, b"\0"))
    if signature != _PNG_SIGNATURE:
        raise RowError("malformed_row", "the data of the bitmap is not a PNG")
    if width * height > MAX_PIXELS:
        raise RowError("malformed_row", f"the bitmap has {width} x {height} pixels, more than {MAX_PIXELS:,}")
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            has_alpha = "A" in image.mode or "transparency" in image.info
            mask = image.convert("RGBA").getchannel("A") if has_alpha else image.convert("L")
            extent = mask.getbbox()
    except Exception as error:  # decoders raise many types of errors on damaged data
        raise RowError("malformed_row", f"the PNG of the bitmap is damaged ({error!s:.80})") from None
    if extent is None:
        raise RowError("no_area", "the bitmap is empty")
    return extent


FORMAT = LabelFormat("Supervisely JSON", "json", _matches, _read, per_image=True)
"""JSON of Supervisely, one file per image."""
