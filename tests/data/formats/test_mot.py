from pathlib import Path

import numpy as np
import pytest

from detector.data.formats.mot import FORMAT
from detector.data.image_labels import EVERY_CLASS, BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image


def read(folder: Path, text: str) -> list[ImageLabels]:
    (folder / "gt.txt").write_text(text)
    return list(FORMAT.read(folder / "gt.txt"))


def test_rows_are_grouped_by_frame(tmp_path: Path) -> None:
    text = "1,1,1,2,3,4,1,1,1\n2,1,1.5,2,3,4,1,3,0.5\n1,2,5,6,7,8,1,1,0.86\n"
    assert FORMAT.matches(text.split("\n"))
    first, second = read(tmp_path, text)
    assert (first.image_name, first.line) == ("../img1/000001.jpg", 1)
    assert first.rows == (NamedRow(1, "pedestrian", (1, 2, 4, 6)), NamedRow(3, "pedestrian", (5, 6, 12, 14)))
    assert (second.image_name, second.line) == ("../img1/000002.jpg", 2)
    assert second.rows == (NamedRow(2, "car", (1.5, 2, 4.5, 6)),)


def test_rows_of_mot15_are_pedestrians(tmp_path: Path) -> None:
    [labels] = read(tmp_path, "1,1,1,2,3,4,1,-1,-1,-1\n1,2,1,2,3,4,0,-1,-1,-1\n")
    assert labels.rows == (
        NamedRow(1, "pedestrian", (1, 2, 4, 6)),
        NamedRow(2, EVERY_CLASS, (1, 2, 4, 6), is_crowd=True),
    )


def test_a_file_beside_the_labels_names_the_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    [labels] = read(tmp_path, "1,1,1,2,3,4,1,2,1\n1,1,1,2,3,4,1,3,1\n1,1,1,2,3,4,0,8,1\n")
    good, bad, ignored = labels.rows
    assert good == NamedRow(1, "dog", (1, 2, 4, 6))
    assert isinstance(bad, BadRow)
    assert (bad.error.code, bad.error.reason) == ("unknown_class", "class 3 is not among the 2 class names")
    assert isinstance(ignored, NamedRow)


@pytest.mark.parametrize("row", ["1,1,1,2,3", "1,1,1,2,3,x,1,1,1", "1,1,1,2,3,4,1,1,1,1,1"])
def test_unusable_rows_say_why(tmp_path: Path, row: str) -> None:
    [labels] = read(tmp_path, f"1,1,1,2,3,4,1,1,1\n\n{row}\n")
    good, bad = labels.rows
    assert isinstance(good, NamedRow)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.error.code) == (3, "malformed_row")
    assert bad.error.reason == f"the row is '{row}'; expected 9 or 10 numbers with commas between them"
    assert not FORMAT.matches([row])


@pytest.mark.parametrize("row", ["x,1,1,2,3,4,1,1,1", "0.5,1,1,2,3,4,1,1,1", "-1,1,1,2,3,4,1,1,1", "1e999,1", "frame"])
def test_a_row_without_a_frame_is_an_error(tmp_path: Path, row: str) -> None:
    with pytest.raises(LabelError, match=r"gt\.txt:2: the row begins with .*; expected the number of a frame"):
        read(tmp_path, f"1,1,1,2,3,4,1,1,1\n{row}\n")


def test_videos_with_the_same_frames_are_kept_apart(tmp_path: Path) -> None:
    rows = "1,1,1,2,3,4,1,1,1\n2,1,70,2,30,4,1,1,1\n2,1\n"
    for video, suffix, text in (
        ("train/MOT17-02", "jpg", rows),
        ("train/MOT17-04", "png", f"{rows}3,1,1,2,3,4,1,1,1\n"),
        ("test/MOT17-01", "jpg", rows),
    ):
        for frame in (1, 2, 3)[: 2 if suffix == "png" else 3]:
            path = tmp_path / video / f"img1/{frame:06d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, np.zeros((40, 80, 3), np.uint8))
        for name in ("gt/gt.txt", "det/det.txt"):
            (tmp_path / video / name).parent.mkdir()
            (tmp_path / video / name).write_text(text)
        (tmp_path / video / "seqinfo.ini").write_text("[Sequence]\nimDir=img1\n")
    data = open_data(tmp_path)
    assert data.description.startswith("MOT text folder")
    assert data.split_names == ("train", "test")
    train = data.read("train")
    assert train.class_names == ("pedestrian",)
    names = [a.image_path.relative_to(tmp_path / "train").as_posix() for a in train.annotations]
    frames = ("MOT17-02/img1/000001.jpg", "MOT17-02/img1/000002.jpg")
    assert names == [*frames, "MOT17-04/img1/000001.png", "MOT17-04/img1/000002.png"]
    assert [a.boxes.tolist() for a in train.annotations] == [[[1, 2, 4, 6]], [[70, 2, 80, 6]]] * 2
    # Frame 3 of the second video is missing; the first video has an image of this name, but no rows for it.
    assert sorted(entry.code for entry in train.ledger.entries) == [
        *["clipped"] * 2,
        "image_missing",
        *["malformed_row"] * 2,
    ]
    assert [note for note in train.ledger.notes if "2 images without labels" in note]


def test_other_tables_of_numbers_are_not_recognized(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", np.zeros((40, 80, 3), np.uint8))
    (tmp_path / "a.txt").write_text("1,1,1,2,3,4,1,1,1\n")
    with pytest.raises(LabelError, match="not a dataset in a known format"):
        open_data(tmp_path)
