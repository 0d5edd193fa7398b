from pathlib import Path

import numpy as np
import pytest

from detector.data.formats.kitti import FORMAT
from detector.data.image_labels import EVERY_CLASS, BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.images import write_image

CAR = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"


def read(folder: Path, text: str) -> ImageLabels:
    path = folder / "000001.txt"
    path.write_text(text)
    [labels] = FORMAT.read(path)
    return labels


def test_boxes_are_read_with_and_without_score(tmp_path: Path) -> None:
    labels = read(tmp_path, f"{CAR}\n\n{CAR} 0.9\n")
    assert (labels.image_name, labels.image_hw) == ("000001", None)
    box = (587.01, 173.33, 614.12, 200.12)
    assert labels.rows == (NamedRow(1, "Car", box), NamedRow(3, "Car", box))


def test_dont_care_is_a_crowd_region_of_every_class(tmp_path: Path) -> None:
    labels = read(tmp_path, "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n")
    assert labels.rows == (NamedRow(1, EVERY_CLASS, (1, 2, 3, 4), is_crowd=True),)


def test_dont_care_is_not_a_class_of_the_data_set(tmp_path: Path) -> None:
    for name, text in (("a", f"{CAR}\nDontCare -1 -1 -10 1 2 30 40 -1 -1 -1 -1000 -1000 -1000 -10\n"), ("b", CAR)):
        (tmp_path / "label_2").mkdir(exist_ok=True)
        (tmp_path / f"label_2/{name}.txt").write_text(text.replace("Car", "Van") if name == "b" else text)
        (tmp_path / "image_2").mkdir(exist_ok=True)
        write_image(tmp_path / f"image_2/{name}.png", np.full((300, 700, 3), len(text) % 256, np.uint8))
    split = open_data(tmp_path).read("train")
    assert split.class_names == ("Car", "Van")
    first = split.annotations[0]
    assert first.is_crowd.tolist() == [False, True, True]
    assert first.class_ids[first.is_crowd].tolist() == [0, 1]
    assert first.boxes[first.is_crowd].tolist() == [[1, 2, 30, 40]] * 2


def test_empty_label_file_of_a_folder_is_background(tmp_path: Path) -> None:
    (tmp_path / "image_2").mkdir()
    (tmp_path / "label_2").mkdir()
    for name, text in (("a", CAR), ("b", "")):
        (tmp_path / f"label_2/{name}.txt").write_text(text)
        write_image(tmp_path / f"image_2/{name}.png", np.zeros((300, 700, 3), np.uint8))
    (tmp_path / "label_2/README.txt").write_text("The labels of two images.")
    split = open_data(tmp_path).read("train")
    assert [len(annotation.boxes) for annotation in split.annotations] == [1, 0]
    assert (split.ledger.background, split.ledger.entries) == (1, ())


def test_empty_file_is_a_background_image(tmp_path: Path) -> None:
    assert read(tmp_path, "").rows == ()


def test_unusable_rows_say_why(tmp_path: Path) -> None:
    labels = read(tmp_path, f"Big {CAR} 0.9\n{CAR.replace('173.33', 'x')}\n")
    assert [(row.line, row.error.reason) for row in labels.rows if isinstance(row, BadRow)] == [
        (1, "the row has 17 columns, expected 15 or 16; a class name cannot contain spaces"),
        (2, "'x' is not a number; only the first column is text, so a class name cannot contain spaces"),
    ]


@pytest.mark.parametrize(
    "text", ["", "\n", "0 0.5 0.5 0.1 0.1", CAR.replace("Car", "1"), f"{CAR}\nother text", CAR + " 0.5 0.5"]
)
def test_other_text_does_not_match(text: str) -> None:
    assert FORMAT.matches([CAR, "", CAR + " 0.5"])
    assert not FORMAT.matches(text.split("\n"))


def test_class_with_a_space_does_not_move_the_box(tmp_path: Path) -> None:
    [row] = read(tmp_path, f"Traffic {CAR.lower()}\n").rows
    assert isinstance(row, BadRow)
    assert row.error.reason.startswith("'car' is not a number; only the first column is text")
