import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.data.formats.coco_scoring import read_ground_truth, to_coco
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import FileError, LabelError
from detector.images import write_image

HW = (40, 60)


def read_split(path: Path, name: str) -> Split:
    """Read a COCO file as the split `name`, which its file name contains."""
    return open_data(path).read(name)


def annotation(annotation_id: int, bbox: Any, **others: Any) -> dict[str, Any]:
    return {"id": annotation_id, "image_id": 5, "category_id": 3, "bbox": bbox, **others}


def data_of(*annotations: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 5, "file_name": "a.png", "height": HW[0], "width": HW[1]}],
        "annotations": list(annotations),
        "categories": [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write(folder: Path, data: Any, images: tuple[str, ...] = ("a.png",)) -> Path:
    """Write val.json, with one annotation per line from line 4 on, and the image files; return the path of val.json."""
    for name in images:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / "images" / name, np.zeros((*HW, 3), np.uint8))
    head = json.dumps({key: value for key, value in data.items() if key != "annotations"})
    rows = ",\n".join(json.dumps(row) for row in data["annotations"])
    path = folder / "val.json"
    path.write_text(f'{{ "info": {{"annotations": [1, 2]}},\n{head[1:-1]},\n"annotations": [\n{rows}\n]\n}}\n')
    return path


def test_classes_are_categories_sorted_by_id_with_original_ids(tmp_path: Path) -> None:
    split = read_split(write(tmp_path, data_of(annotation(1, [1, 2, 3, 4]))), "val")
    assert split.class_names == ("cat", "dog")
    assert split.category_ids == (3, 17)
    [only] = split.annotations
    assert (only.image_id, only.image_hw, only.boxes.tolist(), only.class_ids.tolist()) == (5, HW, [[1, 2, 4, 6]], [0])
    assert split.read_image(only).shape == (*HW, 3)


def test_crowd_and_ignore_regions_are_marked_and_counted(tmp_path: Path) -> None:
    rows = annotation(1, [1, 1, 9, 9], iscrowd=1), annotation(2, [1, 1, 9, 9], ignore=1), annotation(3, [1, 1, 9, 9])
    split = read_split(write(tmp_path, data_of(*rows)), "val")
    assert split.annotations[0].is_crowd.tolist() == [True, True, False]
    assert (split.ledger.used, split.ledger.crowd, split.ledger.background) == (3, 2, 0)


def test_an_image_with_only_crowd_regions_is_background(tmp_path: Path) -> None:
    assert read_split(write(tmp_path, data_of(annotation(1, [1, 1, 9, 9], iscrowd=1))), "val").ledger.background == 1


def test_an_image_whose_only_row_was_dropped_is_not_background(tmp_path: Path) -> None:
    assert read_split(write(tmp_path, data_of(annotation(1, [1, 1, 0, 9]))), "val").ledger.background == 0


def test_an_invalid_area_is_replaced_by_the_box_area(tmp_path: Path) -> None:
    areas: list[Any] = [7.5, None, -1, float("nan"), 10**400, "12"]
    rows = [annotation(i, [1, 1, 4, 5], area=area) for i, area in enumerate(areas)]
    split = read_split(write(tmp_path, data_of(*rows)), "val")
    assert split.annotations[0].areas.tolist() == [7.5, 20, 20, 20, 20, 20]


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        (annotation(8, [1, 2, 0, 4]), "no_area", r"annotation 8: box \(1, 2, 1, 6\) is 0 wide and 4 high"),
        (annotation(8, [1, 2, 3, -4]), "no_area", r"is 3 wide and -4 high"),
        (annotation(8, [float("nan"), 2, 3, 4]), "not_finite", r"box \(nan, 2, nan, 6\) is not finite"),
        (annotation(8, [1, 2, float("inf"), 4]), "not_finite", r"is not finite"),
        (
            annotation(8, [60, 2, 3, 4]),
            "outside_image",
            r"\(60, 2, 63, 6\) has no area inside the image of 60 x 40 pixels",
        ),
        (annotation(8, [-9, -9, 3, 4]), "outside_image", r"has no area inside"),
        (annotation(8, None), "malformed_row", "bbox is missing"),
        (annotation(8, [1, 2, 3]), "malformed_row", r"bbox \[1, 2, 3\] is not four numbers"),
        (annotation(8, [1, 2, "x", 4]), "malformed_row", "is not four numbers"),
        (annotation(8, [1, 2, 10**400, 4]), "not_finite", "is not finite"),
        (
            annotation(8, [1, 2, 3, 4], category_id=4),
            "unknown_class",
            "annotation 8: category_id 4 is not among the categories",
        ),
        (annotation(8, [1, 2, 3, 4], category_id=[3]), "unknown_class", r"category_id \[3\] is not among"),
        (annotation(8, [1, 2, 3, 4], image_id=6), "unknown_image", "annotation 8: image_id 6 is not among the images"),
        (annotation(8, [1, 2, 3, 4], image_id={}), "unknown_image", "is not among the images"),
        ("text", "malformed_row", "annotation: expected an object, got 'text'"),
    ],
)
def test_an_invalid_row_is_dropped_with_line_and_reason(tmp_path: Path, row: Any, code: str, reason: str) -> None:
    good = annotation(1, [1, 2, 3, 4])
    path = write(tmp_path, data_of(good, good, row, good))
    split = read_split(path, "val")
    [entry] = split.ledger.entries
    assert (entry.action, entry.code, entry.path, entry.line) == ("dropped", code, path, 6)
    with pytest.raises(LabelError, match=reason):
        split.ledger.check(0)
    assert (split.ledger.used, split.ledger.found) == (3, 4)
    assert split.ground_truth is None


def test_a_box_beyond_the_image_border_is_clipped(tmp_path: Path) -> None:
    path = write(tmp_path, data_of(annotation(1, [50, 30, 10.009, 10]), annotation(2, [-2, 30, 10, 20])))
    split = read_split(path, "val")
    assert split.annotations[0].boxes.tolist() == [[50, 30, 60, 40], [0, 30, 8, 40]]
    assert (split.ledger.used, split.ledger.clipped) == (1, 1)
    expected = f"{path}:5: clipped: annotation 2: box (-2, 30, 8, 50) extends beyond the image of 60 x 40 pixels"
    assert str(split.ledger.entries[0]) == expected
    assert split.ledger.entries[0].code == "clipped"


def test_rows_of_a_missing_image_are_dropped(tmp_path: Path) -> None:
    data = data_of(annotation(1, [1, 2, 3, 4]), annotation(2, [1, 2, 3, 4], image_id=6))
    data["images"] += [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 9} for i in (6, 7)]
    split = read_split(write(tmp_path, data), "val")
    assert [a.image_id for a in split.annotations] == [5]
    assert [path.name for path in split.ledger.missing] == ["6.png", "7.png"]
    [entry] = split.ledger.entries
    assert (entry.line, entry.code) == (5, "image_missing")
    assert entry.reason == "annotation 2: image 6.png not found in the dataset"


def test_images_may_be_in_subfolders_or_next_to_the_file(tmp_path: Path) -> None:
    data = data_of()
    data["images"] = [{"id": 2, "file_name": "deep/a.png"}, {"id": 1, "file_name": "b.png"}]
    write_image(tmp_path / "b.png", np.zeros((4, 5, 3), np.uint8))
    split = read_split(write(tmp_path, data, ("deep/a.png",)), "val")
    assert [(a.image_id, a.image_hw) for a in split.annotations] == [(1, (4, 5)), (2, HW)]
    assert split.ledger.background == 2


def test_ground_truth_is_the_contents_of_the_file(tmp_path: Path) -> None:
    data = data_of(annotation(1, [1, 2, 3, 4], area=12, iscrowd=0), annotation(2, [1, 2, 3, 4], area=9))
    ground_truth = read_split(write(tmp_path, data), "val").ground_truth
    assert ground_truth is not None
    assert {key: ground_truth[key] for key in data} == data


@pytest.mark.parametrize("second", [{"id": 1, "area": 12}, {"id": 2}, {"id": 2, "area": 12, "ignore": 1}])
def test_a_file_that_cannot_be_scored_has_no_ground_truth(tmp_path: Path, second: dict[str, int]) -> None:
    data = data_of(annotation(1, [1, 2, 3, 4], area=12), annotation(0, [1, 2, 3, 4]) | second)
    split = read_split(write(tmp_path, data), "val")
    assert split.ledger.used == 2
    assert split.ground_truth is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bbox": [float("nan"), 1, 2, 3]},
            ":5: expected a bbox of four finite numbers",
        ),
        (
            {"bbox": [1, 2, float("inf"), 3]},
            ":5: expected a bbox of four finite numbers",
        ),
        ({"bbox": "1 2 3 4"}, ":5: expected a bbox of four finite numbers"),
        ({"image_id": "x"}, ":5: image_id 'x' is not among the images"),
        ({"image_id": 2**70}, "is not among the images"),
        ({"category_id": None}, ":5: category_id None is not among the categories"),
    ],
)
def test_annotations_that_cannot_be_scored_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    valid = annotation(1, [1, 2, 3, 4], area=12)
    path = write(tmp_path, data_of(valid, annotation(2, [1, 2, 3, 4], area=12) | change))
    with pytest.raises(LabelError, match=message):
        read_ground_truth(path)
    assert read_split(path, "val").ground_truth is None


@pytest.mark.parametrize(
    "change",
    [
        {"iscrowd": []},
        {"iscrowd": "x"},
        {"area": float("nan")},
        {"area": -5},
        {"area": None},
        {"id": 1},
        {"id": None},
        {"ignore": 1},
        {"bbox": [50, 30, 20, 20]},
        {"bbox": [1, 2, 0, 4]},
        {"bbox": [70, 2, 3, 4], "area": 12},
    ],
)
def test_ground_truth_without_images_equals_that_of_the_split(tmp_path: Path, change: dict[str, Any]) -> None:
    valid = annotation(1, [1.1, 2.3, 3.7, 4.2], area=12)
    path = write(tmp_path, data_of(valid, annotation(2, [1, 2, 3, 4]) | change))
    split = read_split(path, "val")
    assert split.ground_truth is None
    assert read_ground_truth(path)["annotations"] == to_coco(split)["annotations"]


def test_boxes_left_out_of_the_ground_truth_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, data_of(annotation(1, [1, 2, 3, 4], area=12), annotation(2, [70, 2, 3, 4], area=12)))
    assert len(read_ground_truth(path)["annotations"]) == 1
    assert "1 of 2 boxes left out: no area inside the image" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "annotations" []}', r"val\.json:2: not JSON: Expecting ':' delimiter in column 16"),
        ("", r"val\.json:1: not JSON"),
        ("[]", "expected an object with the list `images`"),
        ('{"images": [], "annotations": []}', "expected an object with the list `categories`"),
        ('{"images": {}, "annotations": [], "categories": []}', "expected an object with the list `images`"),
        ("[" * 100_000, "the values are nested too deeply"),
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_split(tmp_path / "val.json", "val")


def test_a_file_not_in_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_bytes(b'{\n"info": "caf\xe9"}')
    with pytest.raises(FileError, match=r"val\.json:2: not UTF-8"):
        read_split(tmp_path / "val.json", "val")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, data_of(annotation(1, [1, 2, 0, 4])))
    path.write_text("\ufeff" + path.read_text())
    assert read_split(path, "val").ledger.entries[0].line == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "images",
            [{"id": 5, "file_name": "a.png"}, {"id": 5, "file_name": "b.png"}],
            "`images` contains the id 5 twice",
        ),
        ("images", [{"id": 5, "file_name": "a.png"}, {"id": 6, "file_name": "a.png"}], "file_name 'a.png'"),
        ("images", [{"id": 5}], "image 5 has no `file_name`"),
        ("images", [{"id": [5], "file_name": "a.png"}], "whole number as `id`"),
        ("images", [], "the split contains no images"),
        ("images", [{"id": 5, "file_name": "z.png"}], "the only image cannot be used: .*z.png"),
        ("categories", [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "`categories` contains the id 3 twice"),
        ("categories", [], "`categories` is empty"),
        ("categories", [7], "`categories` contains 7; expected an object"),
    ],
)
def test_invalid_images_or_categories_are_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = write(tmp_path, data_of() | {key: value})
    with pytest.raises(LabelError, match=message) as caught:
        read_split(path, "val")
    assert str(path) in str(caught.value)


side = st.floats(0.5, 19.5, width=32)
boxes = st.lists(st.tuples(side, side, side, side, st.sampled_from([3, 17]), st.integers(0, 1)), max_size=5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boxes)
def test_writing_and_reading_coco_changes_nothing(tmp_path: Path, rows: list[tuple[float, ...]]) -> None:
    data = data_of(
        *(
            annotation(i, [x, y, w, h], area=w * h / 2, iscrowd=crowd) | {"category_id": category}
            for i, (x, y, w, h, category, crowd) in enumerate(rows)
        )
    )
    first = read_split(write(tmp_path, data), "val")
    second = read_split(write(tmp_path, to_coco(first)), "val")
    assert (first.category_ids, first.class_names) == (second.category_ids, second.class_names)
    for one, other in zip(first.annotations, second.annotations, strict=True):
        assert (one.image_id, one.image_path, one.image_hw) == (other.image_id, other.image_path, other.image_hw)
        for field in ("boxes", "class_ids", "is_crowd", "areas"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_rows_of_a_one_line_file_are_named_by_id_only(tmp_path: Path) -> None:
    path = write(tmp_path, data_of(annotation(1, [1, 2, 3, 4]), annotation(17, [1, 2, 0, 4])))
    path.write_text(json.dumps(json.loads(path.read_text())) + "\n")
    [entry] = read_split(path, "val").ledger.entries
    assert str(entry).startswith(f"{path}: dropped: annotation 17: box (")
