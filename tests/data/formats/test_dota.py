from pathlib import Path

import numpy as np
import pytest

from detector.data.formats.dota import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.images import write_image

HEADER = "imagesource:GoogleEarth\ngsd:0.146\n"
UPRIGHT = "1.0 2.0 4.0 2.0 4.0 6.0 1.0 6.0"
ROTATED = "3 1 5 3 3 5 1 3"


def read(folder: Path, text: str) -> ImageLabels:
    (folder / "a.txt").write_text(text)
    [labels] = FORMAT.read(folder / "a.txt")
    assert labels.image_name == "a"
    return labels


def test_corners_become_bounding_boxes(tmp_path: Path) -> None:
    text = f"{HEADER}{UPRIGHT} small-vehicle 0\n\n{ROTATED} ship 1\n{UPRIGHT} ship\n"
    assert FORMAT.matches(text.split("\n"))
    labels = read(tmp_path, text)
    assert labels.rows == (
        NamedRow(3, "small-vehicle", (1, 2, 4, 6)),
        NamedRow(5, "ship", (1, 1, 5, 5), is_crowd=True),
        NamedRow(6, "ship", (1, 2, 4, 6)),
    )
    assert labels.remarks == ("bounding boxes replace rotated boxes",)


@pytest.mark.parametrize("text", ["", HEADER, "imagesource: None\ngsd:null\n"])
def test_a_file_without_rows_is_a_background_image(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).rows == ()
    assert not FORMAT.matches(text.split("\n"))


@pytest.mark.parametrize(
    "row",
    [
        "1 2 4 2 4 6 1 ship 0",
        "1 2 4 2 4 6 1 6",
        "1 2 4 2 4 6 1 6 9 0",
        "1 2 4 2 4 6 1 6 ship yes",
        "1 2 4 2 4 6 1 6 small vehicle 0",
        "0 1 2 4 2 4 6 1 6",
    ],
)
def test_unusable_rows_say_why(tmp_path: Path, row: str) -> None:
    good, bad = read(tmp_path, f"{UPRIGHT} ship 0\n{row}\n").rows
    assert isinstance(good, NamedRow)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.error.code) == (2, "malformed_row")
    assert bad.error.reason == f"the row is '{row}'; expected x1 y1 x2 y2 x3 y3 x4 y4 class difficulty"
    assert not FORMAT.matches([row])


def test_values_that_are_not_finite_are_dropped(tmp_path: Path) -> None:
    [bad] = read(tmp_path, "nan 2 4 2 4 6 1 6 ship 0").rows
    assert isinstance(bad, BadRow)
    assert bad.error.code == "not_finite"


@pytest.mark.parametrize("folder", ["labelTxt", "labelTxt-v1.0/labelTxt"])
def test_splits_and_missing_images_are_reported(tmp_path: Path, folder: str) -> None:
    for split in ("train", "val"):
        for stem in ("P0001", "P0002", "new"):
            path = tmp_path / split / "images" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, np.zeros((40, 80, 3), np.uint8))
        (tmp_path / split / folder).mkdir(parents=True)
        (tmp_path / split / folder / "P0001.txt").write_text(f"{HEADER}{UPRIGHT} ship 0\n{ROTATED} plane 0\n")
        (tmp_path / split / folder / "P0002.txt").write_text(f"{HEADER}1 2 ship\n")
    (tmp_path / "train" / folder / "gone.txt").write_text(f"{HEADER}{UPRIGHT} ship 0\n")
    data = open_data(tmp_path)
    assert data.description.startswith("DOTA text folder")
    assert data.split_names == ("train", "val")
    train = data.read("train")
    assert train.class_names == data.read("val").class_names == ("plane", "ship")
    assert [a.boxes.tolist() for a in train.annotations] == [[[1, 2, 4, 6], [1, 1, 5, 5]], []]
    assert sorted(entry.code for entry in train.ledger.entries) == ["image_missing", "malformed_row"]
    assert "bounding boxes replace rotated boxes: 1 label" in train.ledger.notes
    assert [note for note in train.ledger.notes if "2 images without labels" in note and "new.png" in note]
