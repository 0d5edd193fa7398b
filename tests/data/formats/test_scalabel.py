import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.formats.scalabel import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image

LANE = {"category": "lane", "poly2d": [{"vertices": [[1, 2], [3, 4]], "closed": False}], "box2d": None}


def label(category: Any = "car", attributes: Any = None, **box: Any) -> dict[str, Any]:
    return {"category": category, "attributes": attributes, "box2d": {"x1": 1, "y1": 2, "x2": 4, "y2": 6} | box}


def frame(*labels: Any, name: Any = "a.png", **more: Any) -> dict[str, Any]:
    return {"name": name, "labels": list(labels), "attributes": {"weather": "clear"}, "timestamp": 1000} | more


def write(path: Path, value: Any, indent: int | None = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent))
    return path


def read(folder: Path, value: Any) -> list[ImageLabels]:
    return list(FORMAT.read(write(folder / "labels.json", value)))


@pytest.mark.parametrize("key", [None, "frames"])
def test_boxes_of_a_list_and_of_frames_are_read(tmp_path: Path, key: str | None) -> None:
    frames = [frame(label(), label("bus", x2="5.5"), size={"width": 80, "height": 40}), frame(name="b.png")]
    value = {"frames": frames, "config": None} if key else frames
    assert FORMAT.matches(value)
    a, b = read(tmp_path, value)
    assert (a.image_name, a.image_hw, b.image_name, b.rows) == ("a.png", (40, 80), "b.png", ())
    assert a.line == (3 if key else 2)
    boxes = [("car", (1, 2, 4, 6)), ("bus", (1, 2, 5.5, 6))]
    assert [(row.class_name, row.corners) for row in a.rows if isinstance(row, NamedRow)] == boxes
    assert None not in [row.line for row in a.rows]


def test_a_frame_without_labels_is_not_labeled(tmp_path: Path) -> None:
    without = {"name": "c.png"}
    assert [a.image_name for a in read(tmp_path, [frame(label()), frame(labels=None), without])] == ["a.png"]


def test_frames_of_videos_are_in_a_folder(tmp_path: Path) -> None:
    [labels] = read(tmp_path, [frame(label(), videoName="v1")])
    assert labels.image_name == "v1/a.png"


def test_crowd_and_ignored_mark_crowd_regions(tmp_path: Path) -> None:
    marks = [{"crowd": True}, {"ignored": True}, {"crowd": False, "occluded": True}, None]
    [labels] = read(tmp_path, [frame(*(label(attributes=mark) for mark in marks))])
    assert [row.is_crowd for row in labels.rows if isinstance(row, NamedRow)] == [True, True, False, False]


def test_labels_without_box_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((40, 80, 3), np.uint8))
    write(tmp_path / "labels.json", [frame(label(), LANE, LANE, {"category": "area"})])
    split = open_data(tmp_path).read("train")
    assert split.class_names == ("car",)
    assert split.ledger.notes == (
        "not used, because they have no `box2d`, class 'lane': 2 labels",
        "not used, because they have no `box2d`, class 'area': 1 label",
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (3, "the label is 3; expected an object"),
        (label(None), "the row has no class: `category` is empty or missing"),
        (label(x1="x"), "x1 of `box2d` is 'x', not a number"),
        (label() | {"box2d": [1, 2]}, "`box2d` is a list; expected x1, y1, x2 and y2"),
    ],
)
def test_unusable_labels_say_why(tmp_path: Path, bad: Any, reason: str) -> None:
    [labels] = read(tmp_path, [frame(label(), bad)])
    good, row = labels.rows
    assert isinstance(good, NamedRow)
    assert isinstance(row, BadRow)
    assert row.error.reason == reason


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "not Scalabel JSON: expected a list of images, got 3"),
        ([3], "image 0: `name` is null; expected the file name of the image"),
        ([frame(name="")], "image 0: `name` is ''"),
        ([frame(labels=3)], "image 'a.png': `labels` is 3; expected a list"),
    ],
)
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(LabelError, match=rf"labels\.json(:\d+)?: {message}"):
        read(tmp_path, value)


def test_splits_and_missing_images_are_reported(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/new.png", "val/b.png"):
        path = tmp_path / "images/100k" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.zeros((40, 80, 3), np.uint8))
    write(tmp_path / "labels/det_train.json", [frame(label(), label("bus", x2=90)), frame(label(), name="gone.png")])
    write(tmp_path / "labels/det_val.json", [frame(label(), name="b.png"), {"name": "c.png", "labels": None}])
    data = open_data(tmp_path)
    assert data.description.startswith("Scalabel JSON folder")
    assert data.split_names == ("train", "val")
    train, val = data.read("train"), data.read("val")
    assert train.class_names == val.class_names == ("bus", "car")
    assert sorted(entry.code for entry in train.ledger.entries) == ["clipped", "image_missing"]
    assert [note for note in train.ledger.notes if "1 image without labels" in note and "new.png" in note]
    assert val.ledger.used == 1
