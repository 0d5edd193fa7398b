import json
import math
from pathlib import Path
from typing import Any

import pytest

from detector.data.formats.label_studio import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.data.parsing.row_values import image_path
from detector.errors import LabelError

RECT = {"x": 10, "y": 20, "width": 40, "height": 10, "rotation": 0}


def result(kind: str = "rectanglelabels", labels: Any = ("cat",), result_id: str = "r", **value: Any) -> dict[str, Any]:
    shape = (RECT if kind in ("rectanglelabels", "labels") else {}) | value
    value = shape | ({kind: labels} if labels is not None else {})
    size = {"original_width": 600, "original_height": 400, "image_rotation": 0}
    return size | {"id": result_id, "type": kind, "from_name": "label", "to_name": "image", "value": value}


def task(*annotations: Any, image: Any = "/data/upload/1/0a1b2c3d-a.jpg", **more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": list(annotations), "predictions": []} | more


def done(*results: Any, **more: Any) -> dict[str, Any]:
    return {"id": 5, "was_cancelled": False, "result": list(results)} | more


def read(folder: Path, *tasks: Any) -> list[ImageLabels]:
    path = folder / "a.json"
    path.write_text(json.dumps(list(tasks), indent=1))
    return list(FORMAT.read(path))


def boxes(labels: ImageLabels) -> list[tuple[float, ...]]:
    return [row.corners for row in labels.rows if isinstance(row, NamedRow)]


def reasons(labels: ImageLabels) -> list[str]:
    return [row.error.reason for row in labels.rows if isinstance(row, BadRow)]


def test_percent_become_fractions(tmp_path: Path) -> None:
    [a] = read(tmp_path, task(done(result(), result("choices", labels=["good"]))))
    assert (a.image_name, a.image_hw, a.are_fractions) == ("/data/upload/1/0a1b2c3d-a.jpg", (400, 600), True)
    assert boxes(a) == [pytest.approx((0.1, 0.2, 0.5, 0.3))]
    assert FORMAT.matches([task(done(result()))])


def test_polygons_and_ellipses_become_boxes(tmp_path: Path) -> None:
    polygon = result("polygonlabels", points=[[10, 20], [50, 30], [20, 90]])
    ellipse = result("ellipselabels", x=50, y=40, radiusX=10, radiusY=20, rotation=0)
    [a] = read(tmp_path, task(done(polygon, ellipse)))
    assert boxes(a) == [pytest.approx((0.1, 0.2, 0.5, 0.9)), pytest.approx((0.4, 0.2, 0.6, 0.6))]


def test_rotation_is_about_the_upper_left_corner(tmp_path: Path) -> None:
    # In pixels: corner (60, 80), 240 wide, 40 high; after a quarter turn, x = 20..60 and y = 80..320.
    [a] = read(tmp_path, task(done(result(rotation=90))))
    assert boxes(a) == [pytest.approx((20 / 600, 80 / 400, 60 / 600, 320 / 400))]


def test_rotated_box_contains_all_turned_corners(tmp_path: Path) -> None:
    [a] = read(tmp_path, task(done(result(rotation=30))))
    angle = math.radians(30)
    corners = [(0, 0), (240, 0), (0, 40), (240, 40)]
    xs = [60 + x * math.cos(angle) - y * math.sin(angle) for x, y in corners]
    ys = [80 + x * math.sin(angle) + y * math.cos(angle) for x, y in corners]
    assert boxes(a) == [pytest.approx((min(xs) / 600, min(ys) / 400, max(xs) / 600, max(ys) / 400))]


def test_rotated_ellipse_exchanges_radii_in_pixels(tmp_path: Path) -> None:
    [a] = read(tmp_path, task(done(result("ellipselabels", x=50, y=50, radiusX=10, radiusY=10, rotation=90))))
    assert boxes(a) == [pytest.approx(((300 - 40) / 600, (200 - 60) / 400, (300 + 40) / 600, (200 + 60) / 400))]


def test_label_in_a_separate_result_is_used_once(tmp_path: Path) -> None:
    shape = result("rectangle", labels=None) | {"value": RECT}
    [a] = read(tmp_path, task(done(shape, result("labels"))))
    assert (len(boxes(a)), reasons(a)) == (1, [])
    [a] = read(tmp_path, task(done(shape)))
    assert reasons(a) == ["the row has no class: the list of labels is empty or missing"]


def test_only_the_first_annotation_of_a_task_is_used(tmp_path: Path) -> None:
    [a] = read(tmp_path, task(done(result(), was_cancelled=True), done(result()), done(result(), result())))
    assert len(boxes(a)) == 1
    assert [reason[:31] for reason in reasons(a)] == ["the task has another annotation"] * 2


def test_unlabeled_tasks_are_left_out(tmp_path: Path) -> None:
    unlabeled, cancelled = task(), task(done(result(), was_cancelled=True))
    [background] = read(tmp_path, unlabeled, cancelled, task(done(), image="b.jpg"))
    assert (background.image_name, background.rows) == ("b.jpg", ())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (3, "the region is 3; expected an object"),
        (result(labels=[]), "the row has no class"),
        (result(labels=["cat", "dog"]), "the region has 2 classes, 'cat', ...; keep one"),
        (result(labels=[["cat"]]), "the list of labels is a list; expected the name of a class"),
        (result("brushlabels", format="rle", rle=[1, 2]), "the region is a brush stroke or a point"),
        (result("keypointlabels", x=1, y=2, width=0.5), "the region is a brush stroke or a point"),
        (result(x=None), "the region has no x"),
        (result("polygonlabels", points=[[1]]), "a point is not [x, y]"),
        (result(rotation=10) | {"original_width": None}, "the region is rotated, and `original_width`"),
    ],
)
def test_unusable_regions_say_why(tmp_path: Path, bad: Any, reason: str) -> None:
    [a] = read(tmp_path, task(done(result(), bad)))
    assert len(boxes(a)) == 1
    assert [text[: len(reason)] for text in reasons(a)] == [reason]


def minimal(*regions: Any, task_id: int = 1, image: str = "s3://bucket/x/a.jpg") -> dict[str, Any]:
    value = {"image": image, "id": task_id, "annotator": 1, "annotation_id": 5}
    return value | ({"label": list(regions)} if regions else {})


def region(**more: Any) -> dict[str, Any]:
    return RECT | {"rectanglelabels": ["cat"], "original_width": 600, "original_height": 400} | more


def test_minimal_export_is_read(tmp_path: Path) -> None:
    tasks = [minimal(region()), minimal(task_id=2, image="b.jpg")]
    a, b = read(tmp_path, *tasks)
    assert FORMAT.matches(tasks)
    assert (a.image_name, a.image_hw) == ("x/a.jpg", (400, 600))
    assert boxes(a) == [pytest.approx((0.1, 0.2, 0.5, 0.3))]
    assert b.rows == ()


def test_minimal_export_uses_one_annotation_per_task(tmp_path: Path) -> None:
    a, b = read(tmp_path, minimal(region()), minimal(region()), minimal(region(), task_id=2))
    assert (len(boxes(a)), len(reasons(a)), len(boxes(b))) == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/upload/1/0a1b2c3d-a.jpg", "/data/upload/1/0a1b2c3d-a.jpg"),
        ("/data/local-files/?d=folder/a%20b.jpg", "folder/a b.jpg"),
        ("http://localhost:8080/data/local-files/?d=folder/a.jpg", "folder/a.jpg"),
        ("https://host/x/a%20b.jpg?token=1#2", "x/a b.jpg"),
        ("gs://bucket/x/a.jpg", "x/a.jpg"),
        ("C:\\x\\a.jpg", "C:\\x\\a.jpg"),
        ("http://[", "http://["),
    ],
)
def test_image_name_is_the_path_of_the_url(text: str, expected: str) -> None:
    assert image_path(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        {},
        [3],
        [{}],
        [{"data": {"text": "some text"}, "annotations": []}],
        [{"data": {"image": ""}, "annotations": []}],
        [{"data": {"image": "a.jpg"}, "annotations": {}}],
        [{"data": {"image": "a.jpg"}, "annotations": [3]}],
        [{"data": {"image": "a.jpg"}, "annotations": [{"result": None}]}],
    ],
)
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(LabelError, match=r"a\.json: "):
        FORMAT.read(tmp_path / "a.json")
