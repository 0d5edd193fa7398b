import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.formats.sagemaker import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image


def box(class_id: Any = 0, **more: Any) -> dict[str, Any]:
    return {"class_id": class_id, "left": 1, "top": 2, "width": 3, "height": 4} | more


def line(*boxes: Any, name: str = "s3://bucket/set/a%20b.png", **more: Any) -> dict[str, Any]:
    size = [{"width": 80, "height": 40, "depth": 3}]
    metadata = {"objects": [], "class-map": {"0": "cat", "1": "dog"}, "type": "groundtruth/object-detection"}
    label = {"image_size": size, "annotations": list(boxes)}
    return {"source-ref": name, "my-boxes": label, "my-boxes-metadata": metadata} | more


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(item) for item in lines))
    return path


def read(folder: Path, *lines: Any) -> list[ImageLabels]:
    assert FORMAT.matches(lines)
    return list(FORMAT.read(write(folder / "output.manifest", *lines)))


def test_boxes_become_corners_with_names_of_the_class_map(tmp_path: Path) -> None:
    a, b = read(tmp_path, line(box(1), box("0", left=5.5)), line(name="b.png"))
    assert (a.image_name, a.line, a.image_hw) == ("set/a b.png", 1, (40, 80))
    assert a.rows == (NamedRow(1, "dog", (1, 2, 4, 6)), NamedRow(1, "cat", (5.5, 2, 8.5, 6)))
    assert (b.image_name, b.rows) == ("b.png", ())


def test_a_line_without_boxes_is_not_labeled(tmp_path: Path) -> None:
    failed = {"source-ref": "s3://bucket/b.png", "my-boxes-metadata": {"failure-reason": "ClientError"}}
    [labels] = read(tmp_path, line(box()), failed, {"source-ref": "c.png"})
    assert labels.line == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (3, "the annotation is 3; expected an object"),
        (box(2), "class_id 2 is not in the `class-map` of 2 classes"),
        (box(None), "class_id null is not in the `class-map` of 2 classes"),
        (box(0.5), "class_id 0.5 is not in the `class-map`"),
        (box(left="x"), "left of the annotation is 'x', not a number"),
        (box(width=None), "the annotation has no width"),
    ],
)
def test_unusable_annotations_say_why(tmp_path: Path, bad: Any, reason: str) -> None:
    [labels] = read(tmp_path, line(box(), bad))
    good, row = labels.rows
    assert isinstance(good, NamedRow)
    assert isinstance(row, BadRow)
    assert row.line == 1
    assert row.error.reason.startswith(reason)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"boxes": {"annotations": []}}, "2: `source-ref` is null; expected the URL or the path of the image"),
        (3, "2: `source-ref` is null"),
        (line(name=""), "2: `source-ref` is ''"),
        (line(second={"annotations": []}), "2: image 'set/a b.png': the line has 2 attributes with annotations"),
        (line() | {"my-boxes": {"annotations": 3}}, "2: image 'set/a b.png': `annotations` is 3; expected a list"),
    ],
)
def test_wrong_lines_are_label_errors(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(LabelError, match=rf"output\.manifest:{message}"):
        FORMAT.read(write(tmp_path / "output.manifest", line(), bad))


def test_manifests_of_splits_are_read(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/new.png", "validation/a.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "images" / name, np.zeros((40, 80, 3), np.uint8))
    rows = line(box(1), box(7), name="s3://bucket/train/a.png"), line(box(), name="s3://bucket/train/gone.png")
    write(tmp_path / "manifests/train.manifest", *rows)
    write(tmp_path / "manifests/validation.manifest", line(name="s3://bucket/validation/a.png"))
    data = open_data(tmp_path)
    assert data.description.startswith("SageMaker manifest folder")
    assert data.split_names == ("train", "val")
    train, val = data.read("train"), data.read("val")
    assert train.class_names == val.class_names == ("cat", "dog")
    assert train.annotations[0].boxes.tolist() == [[1, 2, 4, 6]]
    assert [(e.code, e.line) for e in train.ledger.entries] == [("unknown_class", 1), ("image_missing", 2)]
    assert [note for note in train.ledger.notes if "1 image without labels" in note]
    assert (len(val.annotations), val.ledger.background) == (1, 1)
