import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detector.data.formats.supervisely import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import LabelError


def item(kind: str = "rectangle", points: Any = ((50, 20), (10, 30)), **more: Any) -> dict[str, Any]:
    return {"classTitle": "cat", "geometryType": kind, "points": {"exterior": points, "interior": []}} | more


def read(folder: Path, *objects: Any, **more: Any) -> ImageLabels:
    value = {"size": {"height": 40, "width": 60}, "tags": [], "objects": list(objects)} | more
    path = folder / "a.jpg.json"
    path.write_text(json.dumps(value, indent=1))
    [labels] = FORMAT.read(path)
    return labels


def bitmap(png: bytes, origin: Any = (3, 4)) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(png)).decode()
    return {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": data, "origin": origin}}


def png_of(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def mask_png() -> bytes:
    """Return a PNG of 5 x 6 pixels as Supervisely writes it; pixels x = 1..3 and y = 2..3 are the mask."""
    image = Image.new("P", (5, 6))
    image.putpalette((0, 0, 0, 255, 255, 255))
    image.paste(1, (1, 2, 4, 4))
    return png_of(image, transparency=0)


def test_rectangles_are_read_in_any_corner_order(tmp_path: Path) -> None:
    labels = read(tmp_path, item(), item("polygon", [[1, 2], [5, 3], [2, 9.5]]), item("line", [[1, 2], [3, 4]]))
    assert (labels.image_name, labels.image_hw, labels.split_name) == ("a.jpg", (40, 60), None)
    boxes = [(10, 20, 50, 30), (1, 2, 5, 9.5), (1, 2, 3, 4)]
    assert [row.corners for row in labels.rows if isinstance(row, NamedRow)] == boxes
    assert labels.rows[0].line == 8


def test_image_without_objects_is_background(tmp_path: Path) -> None:
    assert read(tmp_path).rows == ()


def test_tag_of_the_image_names_the_split(tmp_path: Path) -> None:
    assert read(tmp_path, tags=[{"name": "night"}, {"name": "validation", "value": None}]).split_name == "val"
    assert read(tmp_path, tags=[{"name": "train"}, {"name": "test"}]).split_name is None


def test_bitmap_becomes_the_box_of_its_pixels(tmp_path: Path) -> None:
    expected = (4, 6, 7, 8)
    gray = Image.new("L", (5, 6))
    gray.paste(255, (1, 2, 4, 4))
    labels = read(tmp_path, bitmap(mask_png()), bitmap(png_of(gray)))
    assert [row.corners for row in labels.rows if isinstance(row, NamedRow)] == [expected, expected]


def test_unusable_objects_say_why(tmp_path: Path) -> None:
    huge = struct.pack(">8sIIII", b"\x89PNG\r\n\x1a\n", 13, 0x49484452, 2**31, 2**31)
    objects = [
        3,
        item(classTitle=""),
        item("point", [[1, 2]]),
        item(points=[[1]]),
        item(points=None),
        item(points=[[1, float("nan")], [2, 3]]),
        bitmap(b"x"),
        bitmap(huge),
        bitmap(mask_png()[:60]),
        bitmap(png_of(Image.new("L", (2, 2)))),
        bitmap(mask_png(), origin=None),
        item("bitmap", bitmap={"data": "?", "origin": [1, 2]}),
        item("bitmap", bitmap=[]),
    ]
    starts = [
        "the object is 3",
        "the row has no class",
        "`geometryType` is 'point', which has no area",
        "a point is not [x, y]",
        "the points are null",
        "a coordinate of the shape is not finite",
        "the data of the bitmap is not a PNG",
        "the bitmap has 2147483648 x 2147483648 pixels",
        "the PNG of the bitmap is damaged",
        "the bitmap is empty",
        "a point is not [x, y]",
        "the data of the bitmap cannot be decoded",
        "`bitmap` has no `data`",
    ]
    rows = read(tmp_path, *objects).rows
    for row, start in zip(rows, starts, strict=True):
        assert isinstance(row, BadRow)
        assert row.error.reason.startswith(start)


def test_bitmap_does_not_expand_without_limit(tmp_path: Path) -> None:
    bomb = zlib.compress(b"\0" * 2**28)
    row = {"classTitle": "cat", "bitmap": {"data": base64.b64encode(bomb).decode(), "origin": [0, 0]}}
    [bad] = read(tmp_path, row).rows
    assert isinstance(bad, BadRow)


@pytest.mark.parametrize("value", [[], 3, {}, {"objects": {}}])
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(LabelError, match="not an annotation of Supervisely"):
        FORMAT.read(tmp_path / "a.json")
    assert not FORMAT.matches(value)
