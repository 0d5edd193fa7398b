"""Corrected copies of labels: only accepted rows change something, and the ledger adds up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.cli.commands import main
from detector.data.open_data import open_data
from detector.errors import FileError, LabelError
from detector.reviewing.accept import accept
from detector.reviewing.rows import ACTIONS, Box, ReviewRow, rows_to_csv, to_box
from detector.reviewing.scores import Kind


def row(
    annotation: Annotation, kind: Kind, label: int, suggested_class: str = "", suggested: Box | None = None
) -> ReviewRow:
    names = ("red", "blue")
    name = names[annotation.class_ids[label]] if label >= 0 else suggested_class
    box = to_box(annotation.boxes[label]) if label >= 0 else suggested
    assert box is not None
    return ReviewRow(
        kind, 0.5, ACTIONS[kind], "train", str(annotation.image_path), label, name, box,
        suggested_class or name, suggested or box,
    )  # fmt: skip


def write(path: Path, rows: list[ReviewRow]) -> Path:
    path.write_bytes(rows_to_csv(rows))
    return path


@pytest.fixture
def images(tiny_data: Path) -> tuple[Annotation, ...]:
    return open_data(tiny_data).read("train").annotations


def other(annotation: Annotation, label: int) -> str:
    return ("blue", "red")[annotation.class_ids[label]]


def test_accepted_rows_change_their_labels_and_nothing_else(
    tiny_data: Path, images: tuple[Annotation, ...], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in tiny_data.rglob("*") if path.is_file()}
    rows = [
        row(images[0], "swapped", 0, other(images[0], 0)),
        row(images[0], "loose", 0, suggested=(1.25, 2.5, 30.0, 40.1)),
        row(images[1], "spurious", 1),
        row(images[1], "duplicate", 1),
        row(images[2], "missing", -1, "red", (0.0, 0.0, 10.5, 11.0)),
    ]
    out = tmp_path / "out"
    changes = accept(tiny_data, write(tmp_path / "rows.csv", rows), out)
    assert before == {path: path.read_bytes() for path in tiny_data.rglob("*") if path.is_file()}
    for name in ("train", "val", "test"):
        old, new = open_data(tiny_data).read(name), open_data(out, allow_outside=True).read(name)
        assert (old.class_names, old.category_ids) == (new.class_names, new.category_ids)
        untouched = 3 if name == "train" else 0
        for a, b in zip(old.annotations[untouched:], new.annotations[untouched:], strict=True):
            assert a.image_path.samefile(b.image_path)
            for field in ("boxes", "class_ids", "areas", "is_crowd"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    labels = open_data(out, allow_outside=True).read("train").annotations
    assert to_box(labels[0].boxes[0]) == (1.25, 2.5, 30.0, 40.1)
    assert labels[0].class_ids[0] == 1 - images[0].class_ids[0]
    np.testing.assert_array_equal(labels[0].boxes[1], images[0].boxes[1])
    np.testing.assert_array_equal(labels[1].boxes, images[1].boxes[:1])
    np.testing.assert_array_equal(labels[2].boxes[:2], images[2].boxes)
    assert to_box(labels[2].boxes[2]) == (0.0, 0.0, 10.5, 11.0)
    own = changes["train"]
    assert (own.found, own.kept, own.changed, own.removed, own.added, own.written) == (24, 22, 1, 1, 1, 24)
    assert own.written == sum(len(a.boxes) for a in labels)


def test_ledger_adds_up(tiny_data: Path, images: tuple[Annotation, ...], tmp_path: Path) -> None:
    rows = [row(images[4], "spurious", 0), row(images[5], "swapped", 1, other(images[5], 1))]
    accept(tiny_data, write(tmp_path / "rows.csv", rows), tmp_path / "out")
    ledger: dict[str, Any] = json.loads((tmp_path / "out" / "ledger.json").read_text())
    for own in ledger["splits"].values():
        assert own["found"] == own["kept"] + own["changed"] + own["removed"] == own["source"]["found"]
        assert own["written"] == own["kept"] + own["changed"] + own["added"]
    assert [change["kind"] for change in ledger["changes"]] == ["spurious", "swapped"]


def test_no_accepted_rows_write_the_same_labels(tiny_data: Path, tmp_path: Path) -> None:
    changes = accept(tiny_data, write(tmp_path / "rows.csv", []), tmp_path / "out")
    assert all(own.kept == own.found == own.written for own in changes.values())


@pytest.mark.parametrize("problem", ["changed label", "two boxes", "removed and changed", "class", "outside", "image"])
def test_rows_that_cannot_be_applied_are_errors(
    tiny_data: Path, images: tuple[Annotation, ...], tmp_path: Path, problem: str
) -> None:
    first = row(images[0], "loose", 0, suggested=(1.0, 1.0, 9.0, 9.0))
    rows = {
        "changed label": [row(images[1], "loose", 1, suggested=(1.0, 1.0, 9.0, 9.0))],
        "two boxes": [first, row(images[0], "size", 0, suggested=(1.0, 1.0, 9.0, 10.0))],
        "removed and changed": [first, row(images[0], "spurious", 0)],
        "class": [row(images[0], "swapped", 0, "green")],
        "outside": [row(images[0], "missing", -1, "red", (90.0, 10.0, 97.0, 20.0))],
        "image": [first],
    }[problem]
    path = write(tmp_path / "rows.csv", rows)
    if problem == "image":
        path.write_text(path.read_text().replace(".png", ".jpg"))
    if problem == "changed label":
        path.write_text(path.read_text().replace(f",{to_box(images[1].boxes[1])[0]},", ",0.5,", 1))
    with pytest.raises(LabelError, match=r"rows\.csv"):
        accept(tiny_data, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_corrected_labels_are_never_written_into_the_data_set(tiny_data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [])
    for out in (tiny_data, tiny_data / "new", tiny_data / "images"):
        with pytest.raises(FileError, match="inside of"):
            accept(tiny_data, path, out)


def test_accept_without_out_is_an_error(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "rows.csv", [])
    assert main(["review", "--data", str(tiny_data), "--accept", str(path)]) == 2
    assert "--out" in capsys.readouterr().err
