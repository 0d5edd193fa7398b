from pathlib import Path

import numpy as np
import pytest

from detector.data.formats.keras_txt import FORMAT
from detector.data.image_labels import BadRow, NamedRow
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image


def write(folder: Path, text: str, names: str = "cat\ndog\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "_classes.txt").write_text(names)
    path = folder / "_annotations.txt"
    path.write_text(text)
    return path


def test_boxes_and_background_images_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a b.jpg 1,2,30,40,1 5,6.5,7,8,0\n\nc.PNG\n")
    first, second = FORMAT.read(path)
    assert (first.image_name, first.line, second.image_name, second.line) == ("a b.jpg", 1, "c.PNG", 3)
    assert first.rows == (NamedRow(1, "dog", (1, 2, 30, 40)), NamedRow(1, "cat", (5, 6.5, 7, 8)))
    assert second.rows == ()


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ("1,2,3,4", "malformed_row"),
        ("1,2,3,4,0,9", "malformed_row"),
        ("1,2,x,4,0", "malformed_row"),
        ("1,2,3,4,2", "class_id_equals_class_count"),
        ("1,2,3,4,0.5", "unknown_class"),
        ("1,2,3,4,nan", "unknown_class"),
    ],
)
def test_an_invalid_box_is_dropped(tmp_path: Path, box: str, code: str) -> None:
    [labels] = FORMAT.read(write(tmp_path, f"a.jpg {box} 1,2,3,4,0\n"))
    bad, good = labels.rows
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.error.code) == (1, code)
    assert good == NamedRow(1, "cat", (1, 2, 3, 4))


def test_without_class_names_the_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jpg 1,2,3,4,0\n")
    (tmp_path / "_classes.txt").unlink()
    with pytest.raises(LabelError, match="no file names them"):
        FORMAT.read(path)


def test_a_line_without_image_is_refused_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"_annotations\.txt:2: expected an image and boxes"):
        FORMAT.read(write(tmp_path, "a.jpg 1,2,3,4,0\n1,2,3,4,0\n"))


@pytest.mark.parametrize("text", ["a.jpg\nb.jpg\n", "0 0.5 0.5 0.2 0.2\n", "a.jpg 0.5\n", "see a.jpg, b and c\n"])
def test_other_text_files_do_not_match(text: str) -> None:
    assert not FORMAT.matches(text.split("\n"))


def test_an_export_with_splits_is_read(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("valid", "b")):
        write(tmp_path / split, f"{name}.png 20,10,60,30,1\n")
        write_image(tmp_path / split / f"{name}.png", np.zeros((40, 80, 3), np.uint8))
    data = open_data(tmp_path)
    assert data.split_names == ("train", "val")
    val = data.read("val")
    assert val.class_names == ("dog",)
    assert [a.boxes.tolist() for a in val.annotations] == [[[20, 10, 60, 30]]]
