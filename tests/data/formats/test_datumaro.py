import json
from pathlib import Path
from typing import Any

import pytest

from detector.data.formats.datumaro import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import LabelError


def annotation(kind: Any = "bbox", **more: Any) -> dict[str, Any]:
    return {"id": 0, "type": kind, "label_id": 1, "attributes": {"occluded": False}, "bbox": [10, 20, 40, 10]} | more


def item(*annotations: Any, **more: Any) -> dict[str, Any]:
    return {"id": "x/a", "annotations": list(annotations), "image": {"path": "a.jpg", "size": [40, 60]}} | more


def read(folder: Path, *items: Any, name: str = "train", **more: Any) -> list[ImageLabels]:
    categories = {"label": {"labels": [{"name": "dog", "parent": ""}, {"name": "cat"}]}, "points": {"items": []}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"info": {}, "categories": categories, "items": list(items)} | more, indent=1))
    return list(FORMAT.read(path))


def test_boxes_size_and_split_are_read(tmp_path: Path) -> None:
    a, b = read(tmp_path, item(annotation()), item(image=None))
    assert (a.image_name, a.image_hw, a.split_name) == ("a.jpg", (40, 60), "train")
    [row] = a.rows
    assert row._replace(line=None) == NamedRow(None, "cat", (10, 20, 50, 30))
    assert (tmp_path / "train.json").read_text().split("\n")[(row.line or 0)].strip() == '"id": 0,'
    assert (b.image_name, b.image_hw, b.rows) == ("x/a", None, ())


def test_variant_of_a_split_name_names_the_split(tmp_path: Path) -> None:
    [a] = read(tmp_path, item(), name="validation")
    assert a.split_name == "val"


def test_file_named_default_names_no_split(tmp_path: Path) -> None:
    [a] = read(tmp_path, item(), name="default")
    assert a.split_name is None


def test_crowd_attribute_marks_a_crowd_region(tmp_path: Path) -> None:
    [a] = read(tmp_path, item(annotation(attributes={"is_crowd": True}), annotation(attributes={"is_crowd": False})))
    assert [row.is_crowd for row in a.rows if isinstance(row, NamedRow)] == [True, False]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (annotation("polygon", points=[1, 2, 5, 3, 2, 9.5]), (1, 2, 5, 9.5)),
        (annotation("ellipse", points=[1, 2, 5, 9]), (1, 2, 5, 9)),
        (annotation("rotated_bbox", cx=10, cy=20, w=10, h=4, r=90), (8, 15, 12, 25)),
        # a mask of 3 x 4 pixels: columns 1 and 2, rows 1 and 2
        (annotation("mask", rle={"counts": [4, 2, 1, 2, 3], "size": [3, 4]}), (1, 1, 3, 3)),
    ],
)
def test_shapes_become_their_bounding_boxes(tmp_path: Path, shape: Any, expected: tuple[float, ...]) -> None:
    [a] = read(tmp_path, item(shape))
    [row] = a.rows
    assert isinstance(row, NamedRow), row
    assert row.corners == pytest.approx(expected)


def test_labels_of_whole_images_are_not_rows(tmp_path: Path) -> None:
    [a] = read(tmp_path, item({"type": "label", "label_id": 1}, annotation("caption")))
    assert a.rows == ()


@pytest.mark.parametrize(
    ("bad", "code", "reason"),
    [
        (3, "malformed_row", "the annotation is 3; expected an object"),
        (annotation(label_id=2), "unknown_class", "label_id 2 is not among the 2 labels"),
        (annotation(label_id=None), "unknown_class", "label_id null is not among the 2 labels"),
        (annotation(label_id=-1), "unknown_class", "label_id -1 is not among the 2 labels"),
        (annotation("points", points=[1, 2]), "malformed_row", "`type` is 'points', which has no area; draw a box"),
        (annotation(bbox=[1, 2, 3]), "malformed_row", "`bbox` is not a list of 4 numbers"),
        (annotation("polygon", points=[1, 2, 3]), "malformed_row", "`points` is not a list of pairs of numbers"),
        (annotation("mask"), "malformed_row", "the mask has no `rle` with `counts` and `size`"),
        (annotation("mask", rle={"size": [3, 4], "counts": [13]}), "malformed_row", "the lengths of the runs"),
        (annotation("mask", rle={"size": [3, 4], "counts": [12]}), "no_area", "the mask is empty"),
        (annotation("mask", rle={"size": [3, 4], "counts": 3}), "malformed_row", "`counts` of the mask is 3"),
    ],
)
def test_unusable_annotations_say_why(tmp_path: Path, bad: Any, code: str, reason: str) -> None:
    [a] = read(tmp_path, item(annotation(), bad))
    good, row = a.rows
    assert isinstance(good, NamedRow)
    assert isinstance(row, BadRow)
    assert row.error.code == code
    assert row.error.reason.startswith(reason)


@pytest.mark.parametrize(
    "more",
    [
        {"items": {}},
        {"items": [3]},
        {"items": [{"id": 3, "annotations": []}]},
        {"items": [{"id": "a"}]},
        {"categories": {}},
        {"categories": {"label": {"labels": [{"name": ""}]}}},
    ],
)
def test_wrong_types_are_label_errors(tmp_path: Path, more: Any) -> None:
    with pytest.raises(LabelError, match=r"train\.json"):
        read(tmp_path, **more)


def test_file_that_is_no_object_is_a_label_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(LabelError, match="not Datumaro JSON"):
        FORMAT.read(tmp_path / "a.json")
