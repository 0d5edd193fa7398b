import json
from pathlib import Path
from typing import Any

import pytest

from detector.data.formats.labelme import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import LabelError


def shape(points: Any = ((50, 20), (10, 30.5)), kind: Any = "rectangle", label: Any = "cat") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


def read(folder: Path, *shapes: Any, **more: Any) -> ImageLabels:
    value = {"version": "5.0", "shapes": list(shapes), "imagePath": "..\\x\\a.jpg", "imageData": None}
    path = folder / "b.json"
    path.write_text(json.dumps(value | {"imageHeight": 40, "imageWidth": 60} | more, indent=1))
    [labels] = FORMAT.read(path)
    return labels


def test_rectangles_are_read_in_any_corner_order(tmp_path: Path) -> None:
    labels = read(tmp_path, shape(), shape(label=3))
    assert (labels.image_name, labels.image_hw) == ("..\\x\\a.jpg", (40, 60))
    assert labels.rows[0] == NamedRow(4, "cat", (10, 20, 50, 30.5))
    assert isinstance(labels.rows[1], NamedRow)
    assert labels.rows[1].class_name == "3"


@pytest.mark.parametrize(
    ("kind", "points", "expected"),
    [
        ("polygon", [[1, 2], [5, 3], [2, 9]], (1, 2, 5, 9)),
        (None, [[1, 2], [5, 3], [2, 9]], (1, 2, 5, 9)),
        ("circle", [[10, 20], [13, 24]], (5, 15, 15, 25)),
        ("linestrip", [[1, 2], [5, 3]], (1, 2, 5, 3)),
        ("mask", [[1, 2], [5, 3]], (1, 2, 6, 4)),
        ("rotation", [[5, 0], [10, 5], [5, 10], [0, 5]], (0, 0, 10, 10)),
    ],
)
def test_shapes_become_their_bounding_boxes(tmp_path: Path, kind: Any, points: Any, expected: Any) -> None:
    [row] = read(tmp_path, shape(points, kind)).rows
    assert isinstance(row, NamedRow), row
    assert row.corners == pytest.approx(expected)


def test_image_without_shapes_is_background(tmp_path: Path) -> None:
    assert read(tmp_path).rows == ()


def test_missing_size_and_path_are_allowed(tmp_path: Path) -> None:
    labels = read(tmp_path, imageHeight=None, imagePath=None)
    assert (labels.image_name, labels.image_hw) == ("b", None)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (3, "the shape is 3; expected an object"),
        (shape(label=None), "the row has no class: `label` is empty or missing"),
        (shape([[1, 2]], "point"), "`shape_type` is 'point', which has no area; draw a rectangle"),
        (shape([[1, 2]], ["x"]), "`shape_type` is a list, which has no area; draw a rectangle"),
        (shape([[1, 2]], "circle"), "the circle has 1 points; expected its center and an edge point"),
        (shape([[1, 2], [1, 2]], "circle"), "the radii are 0 and 0; both must be above 0"),
        (shape([[1, None]]), "a point is not [x, y] with two numbers"),
        (shape({}), "the points are an object; expected a list of [x, y]"),
        (shape([]), "the shape has no points"),
        (shape([[1, float("nan")], [2, 3]]), "a coordinate of the shape is not finite"),
    ],
)
def test_unusable_shapes_say_why(tmp_path: Path, bad: Any, reason: str) -> None:
    good, row = read(tmp_path, shape(), bad).rows
    assert isinstance(good, NamedRow)
    assert isinstance(row, BadRow)
    assert row.error.reason == reason
    assert row.line is not None


@pytest.mark.parametrize("value", [[], 3, {}, {"shapes": {}}, {"shapes": [], "imagePath": 3}])
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(LabelError, match=r"a\.json: "):
        FORMAT.read(tmp_path / "a.json")
