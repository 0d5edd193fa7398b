from pathlib import Path

import numpy as np
import pytest

from detector.data.formats.visdrone import FORMAT
from detector.data.image_labels import EVERY_CLASS, BadRow, NamedRow
from detector.data.open_data import open_data
from detector.images import write_image


def read(folder: Path, text: str) -> tuple[NamedRow | BadRow, ...]:
    (folder / "a.txt").write_text(text)
    [labels] = FORMAT.read(folder / "a.txt")
    assert (labels.image_name, labels.line) == ("a", None)
    return labels.rows


def test_rows_become_boxes_of_named_classes(tmp_path: Path) -> None:
    text = "1,2,3,4,1,4,0,0\n5,6,7,8,1,1,1,2,\n\n1,2,3,4,1,11,0,0\n1, 2, 3, 4, 1, 10, 0, 0\n"
    assert FORMAT.matches(text.split("\n"))
    assert read(tmp_path, text) == (
        NamedRow(1, "car", (1, 2, 4, 6)),
        NamedRow(2, "pedestrian", (5, 6, 12, 14)),
        NamedRow(4, "others", (1, 2, 4, 6)),
        NamedRow(5, "motor", (1, 2, 4, 6)),
    )


def test_ignored_regions_are_crowd_regions_of_every_class(tmp_path: Path) -> None:
    rows = read(tmp_path, "1,2,3,4,0,0,0,0\n1,2,3,4,0,4,0,0\n1,2,3,4,0,11,0,0\n")
    assert rows == tuple(NamedRow(line, EVERY_CLASS, (1, 2, 4, 6), True) for line in (1, 2, 3))


def test_an_empty_file_is_a_background_image(tmp_path: Path) -> None:
    assert read(tmp_path, "\n") == ()


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("1,2,3,4", "malformed_row", "the row is '1,2,3,4'; expected 8 numbers with commas between them"),
        ("1,2,3,4,1,4,0,0,0", "malformed_row", "the row is '1,2,3,4,1,4,0,0,0'; expected 8 numbers"),
        ("1,2,x,4,1,4,0,0", "malformed_row", "the row is '1,2,x,4,1,4,0,0'; expected 8 numbers"),
        ("1,2,3,4,1,12,0,0", "unknown_class", "category 12 is not a whole number from 0 to 11"),
        ("1,2,3,4,1,0.5,0,0", "unknown_class", "category 0.5 is not a whole number from 0 to 11"),
    ],
)
def test_unusable_rows_say_why(tmp_path: Path, text: str, code: str, reason: str) -> None:
    good, bad = read(tmp_path, f"1,2,3,4,1,4,0,0\n{text}\n")
    assert isinstance(good, NamedRow)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.error.code) == (2, code)
    assert bad.error.reason.startswith(reason)


@pytest.mark.parametrize(
    "row",
    [
        "1,2,3,4,1,4,0",
        "1,1,10,20,30,40,1,1,1",
        "10,20,50,20,50,30,10,30",
        "1,2,3,4,0.9,4,0,0",
        "1,2,3,4,1,12,0,0",
        "1,2,3,4,1,4,0,3",
        "1.5,2,3,4,1,4,0,0",
        "1 2 3 4 1 4 0 0",
        "a,2,3,4,1,4,0,0",
    ],
)
def test_other_rows_of_numbers_are_not_recognized(row: str) -> None:
    assert not FORMAT.matches([row, ""])
    assert not FORMAT.matches(["1,2,3,4,1,4,0,0", row])


def test_splits_and_missing_images_are_reported(tmp_path: Path) -> None:
    folders = [tmp_path / f"VisDrone2019-DET-{name}" for name in ("train", "val", "test-dev")]
    for folder in folders:
        for name in ("images/a.jpg", "images/empty.jpg", "images/bad.jpg", "images/new.jpg", "annotations/a.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".jpg"):
                write_image(folder / name, np.zeros((40, 80, 3), np.uint8))
        (folder / "annotations/a.txt").write_text("1,2,3,4,1,4,0,0\n1,2,300,4,1,1,0,0\n8,8,9,9,0,0,0,0\n")
        (folder / "annotations/empty.txt").write_text("")
        (folder / "annotations/bad.txt").write_text("1,2\n")
    (folders[0] / "annotations/gone.txt").write_text("1,2,3,4,1,4,0,0\n")
    data = open_data(tmp_path)
    assert data.description.startswith("VisDrone text folder")
    assert data.split_names == ("train", "val", "test")
    train = data.read("train")
    assert train.class_names == ("car", "pedestrian")
    a, _, empty = train.annotations
    assert a.boxes.tolist() == [[1, 2, 4, 6], [1, 2, 80, 6], [8, 8, 17, 17], [8, 8, 17, 17]]
    assert a.is_crowd.tolist() == [False, False, True, True]
    assert empty.image_path.name == "empty.jpg"
    assert sorted(entry.code for entry in train.ledger.entries) == ["clipped", "image_missing", "malformed_row"]
    assert train.ledger.found == 6
    assert [note for note in train.ledger.notes if "3 images without labels" in note and "new.jpg" in note]
