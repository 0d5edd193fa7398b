import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.formats.superannotate import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image


def item(kind: str = "bbox", points: Any = None, name: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"type": kind, "className": name, "points": points or {"x1": 1, "y1": 2, "x2": 4, "y2": 6}} | more


def annotation(*items: Any, name: str = "a.png", **metadata: Any) -> dict[str, Any]:
    own = {"name": name, "width": 80, "height": 40, "status": "Completed"} | metadata
    return {"metadata": own, "instances": list(items), "comments": [], "tags": []}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
    return path


def read(folder: Path, *items: Any) -> ImageLabels:
    value = annotation(*items)
    [labels] = FORMAT.read(write(folder / "a.png___objects.json", value))
    return labels


def test_shapes_become_boxes(tmp_path: Path) -> None:
    rotated = {"x1": 3, "y1": 1, "x2": 5, "y2": 3, "x3": 3, "y3": 5, "x4": 1, "y4": 3}
    cuboid = {"f1": {"x": 1, "y": 2}, "f2": {"x": 4, "y": 5}, "r1": {"x": 2, "y": 1}, "r2": {"x": 6, "y": 4}}
    labels = read(
        tmp_path,
        item(),
        item("polygon", [1, 2, 5, 3, 2, "9.5"]),
        item("polyline", [1, 2, 3, 4]),
        item("rbbox", rotated),
        item("ellipse", cx=10, cy=20, rx=3, ry=4, angle=90),
        item("cuboid", cuboid),
    )
    boxes = [(1, 2, 4, 6), (1, 2, 5, 9.5), (1, 2, 3, 4), (1, 1, 5, 5), (6, 17, 14, 23), (1, 1, 6, 5)]
    assert [row.corners for row in labels.rows if isinstance(row, NamedRow)] == boxes
    assert (labels.image_name, labels.image_hw) == ("a.png", (40, 80))
    assert None not in [row.line for row in labels.rows]


@pytest.mark.parametrize(("status", "count"), [("NotStarted", 0), ("Skipped", 0), ("InProgress", 1), (None, 1)])
def test_an_image_that_nobody_labeled_is_left_out(tmp_path: Path, status: str | None, count: int) -> None:
    assert len(list(FORMAT.read(write(tmp_path / "a.json", annotation(status=status))))) == count
    assert len(list(FORMAT.read(write(tmp_path / "a.json", annotation(item(), status=status))))) == 1


def test_unusable_instances_say_why(tmp_path: Path) -> None:
    bad = {
        "the instance is 3; expected an object": 3,
        "the row has no class: `className` is empty or missing": item(name=""),
        "`type` is 'point', which has no area; draw a box": item("point", x=1, y=2),
        "`points` of the bbox is a list; expected an object with corners": item(points=[1, 2]),
        "the box has no x2": item(points={"x1": 1, "y1": 2}),
        "`points` of the polygon is a list; expected pairs of numbers": item("polygon", [1, 2, 3]),
        "`points` of the polyline is an object; expected pairs of numbers": item("polyline"),
        "the ellipse has no cx": item("ellipse"),
        "a corner of the cuboid has no x": item("cuboid", {"f1": 3}),
    }
    rows = read(tmp_path, *bad.values()).rows
    assert [row.error.reason for row in rows if isinstance(row, BadRow)] == list(bad)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "`name` in `metadata` is null; expected the file name of the image"),
        (annotation(name=""), "`name` in `metadata` is ''"),
        (annotation() | {"instances": {}}, "`instances` is an object; expected a list"),
    ],
)
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(LabelError, match=rf"a\.json: {message}"):
        FORMAT.read(write(tmp_path / "a.json", value))


@pytest.mark.parametrize("suffix", ["___objects.json", ".json"])
def test_splits_and_missing_images_are_reported(tmp_path: Path, suffix: str) -> None:
    for name in ("train/a.png", "train/new.png", "train/later.png", "val/b.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.zeros((40, 80, 3), np.uint8))
    write(tmp_path / f"train/a.png{suffix}", annotation(item(), item("point")))
    write(tmp_path / f"train/gone.png{suffix}", annotation(item(), name="gone.png"))
    write(tmp_path / f"train/later.png{suffix}", annotation(name="later.png", status="NotStarted"))
    write(tmp_path / f"val/b.png{suffix}", annotation(item(name="dog"), name="b.png"))
    write(tmp_path / "classes/classes.json", [{"id": 1, "name": "cat", "color": "#ff0000"}])
    data = open_data(tmp_path)
    assert data.description.startswith("SuperAnnotate JSON folder")
    assert data.split_names == ("train", "val")
    train = data.read("train")
    assert train.class_names == data.read("val").class_names == ("cat", "dog")
    assert [a.boxes.tolist() for a in train.annotations] == [[[1, 2, 4, 6]]]
    assert sorted(entry.code for entry in train.ledger.entries) == ["image_missing", "malformed_row"]
    assert [note for note in train.ledger.notes if "2 images without labels" in note]
