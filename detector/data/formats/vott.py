"""Reads JSON of VoTT (Visual Object Tagging Tool): the export `NAME-export.json`, or one `ID-asset.json` per image.

    {"name": "mine", "assets": {"6b6b": {"asset": {"name": "a.jpg", "size": {"width": 640, "height": 480}, "state": 2},
        "regions": [{"type": "RECTANGLE", "tags": ["cat"],
            "boundingBox": {"left": 10, "top": 20, "width": 40, "height": 10}}]}}}

An asset file is one value of `assets`. Polygons have a bounding box too. An image that was visited and has no region is
a background image; one that was not visited is not labeled: it is left out.
"""

from pathlib import Path
from typing import Any

from detector.data.image_labels import ImageLabels, LabelFormat
from detector.data.parsing.json_file import JsonFile, Key, read_json_file
from detector.data.parsing.row_values import class_name, numbers, parse_row, shown, size_in
from detector.data.row_collector import Corners, RowError

_NOT_VISITED = 0
"""`state` of an asset that nobody has looked at."""


def _matches_export(value: Any) -> bool:
    """Return whether a JSON value is an export of a project. The project file `.vott` has no regions."""
    assets = value.get("assets") if isinstance(value, dict) else None
    return isinstance(assets, dict) and bool(assets) and all(map(_matches_asset, list(assets.values())[:20]))


def _matches_asset(value: Any) -> bool:
    """Return whether a JSON value is an asset with its regions."""
    return isinstance(value, dict) and isinstance(value.get("asset"), dict) and isinstance(value.get("regions"), list)


def _read_export(path: Path) -> tuple[ImageLabels, ...]:
    """Read an export of a project.

    Raises:
        InputError: the file is not JSON, or an asset has no image or no list of regions.
    """
    file = read_json_file(path, ("assets", "*", "regions", "*"))
    assets = file.value.get("assets") if isinstance(file.value, dict) else None
    if not isinstance(assets, dict):
        raise file.error(f"not an export of VoTT: `assets` is {shown(assets)}; expected an object")
    images = (_read_asset(file, value, ("assets", key)) for key, value in assets.items())
    return tuple(image for image in images if image is not None)


def _read_asset_file(path: Path) -> tuple[ImageLabels, ...]:
    """Read the file of one image.

    Raises:
        InputError: the file is not JSON, or has no image or no list of regions.
    """
    file = read_json_file(path, ("regions", "*"))
    image = _read_asset(file, file.value, ())
    return () if image is None else (image,)


def _read_asset(file: JsonFile, value: Any, keys: tuple[Key, ...]) -> ImageLabels | None:
    """Return the labels of an asset; None if it is not labeled.

    Args:
        file: the file.
        value: the asset with its regions.
        keys: place of the value in the file.
    """
    asset = value.get("asset") if isinstance(value, dict) else None
    name = asset.get("name") if isinstance(asset, dict) else None
    if not isinstance(value, dict) or not isinstance(asset, dict) or not isinstance(name, str) or not name:
        raise file.error(f"the name of the asset is {shown(name)}; expected the file name of the image", *keys)
    regions = value.get("regions")
    if not isinstance(regions, list):
        expected = "expected a list, [] if there is no object"
        raise file.error(f"image {shown(name)}: `regions` is {shown(regions)}; {expected}", *keys)
    if not regions and asset.get("state") == _NOT_VISITED:
        return None
    rows = tuple(
        parse_row(_parse, region, file.line(*keys, "regions", i), f"image {shown(name)}, region {i}")
        for i, region in enumerate(regions)
    )
    hw = size_in(asset.get("size"))
    return ImageLabels(file.path, file.line(*keys), name, rows, hw)


def _parse(region: Any) -> tuple[str, Corners]:
    """Return class name and corners of a region.

    Raises:
        RowError: the region cannot be used.
    """
    if not isinstance(region, dict):
        raise RowError("malformed_row", f"the region is {shown(region)}; expected an object")
    tags = region.get("tags")
    if isinstance(tags, list) and len(tags) > 1:
        raise RowError("malformed_row", f"the region has {len(tags)} tags, {shown(tags[0])}, ...; keep one")
    name = class_name(tags[0] if isinstance(tags, list) and tags else None, "`tags`")
    box = region.get("boundingBox")
    if not isinstance(box, dict):
        raise RowError("malformed_row", f"`boundingBox` is {shown(box)}; expected left, top, width and height")
    x, y, width, height = numbers(box, ("left", "top", "width", "height"), "`boundingBox`")
    return name, (x, y, x + width, y + height)


FORMAT = LabelFormat("VoTT JSON", "json", _matches_export, _read_export)
"""Export of a project of VoTT."""

ASSET_FORMAT = LabelFormat("VoTT asset JSON", "json", _matches_asset, _read_asset_file, per_image=True)
"""JSON of VoTT, one file per image."""
