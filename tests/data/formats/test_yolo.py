from pathlib import Path

import numpy as np
import pytest

from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import FileError, LabelError
from detector.images import write_image

HW = (40, 80)
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((*HW, 3), np.uint8))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read_rows(folder: Path, rows: str) -> Split:
    image(folder / "images/train/a.png")
    write(folder / "labels/train/a.txt", rows)
    return open_data(write(folder / "data.yaml", YAML)).read("train")


def test_fractions_become_pixels(tmp_path: Path) -> None:
    split = read_rows(tmp_path, "1 0.5 0.5 0.25 0.5\n0 0.1 0.5 0.1 1\n")
    assert split.class_names == ("cat", "dog")
    assert split.category_ids == (0, 1)
    [only] = split.annotations
    assert (only.image_hw, only.class_ids.tolist()) == (HW, [1, 0])
    np.testing.assert_allclose(only.boxes, [[30, 10, 50, 30], [4, 0, 12, 40]], atol=1e-5)


def test_a_polygon_becomes_its_bounding_box(tmp_path: Path) -> None:
    split = read_rows(tmp_path, "1 0.5 0.25 0.75 0.5 0.25 0.75\n")
    assert split.annotations[0].boxes.tolist() == [[20, 10, 60, 30]]


def test_blank_lines_comments_and_byte_order_marks_are_skipped(tmp_path: Path) -> None:
    split = read_rows(tmp_path, "\ufeff# made by hand\r\n\r\n  \t\r\n0\t0.5\t0.5\t0.25\t0.5\r\n # end")
    assert (split.ledger.found, split.ledger.used) == (1, 1)


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ("0 0.5 0.5 0.1", "malformed_row", "4 columns; expected `class cx cy width height`"),
        ("0 0.5 0.5 0.1 0.1 0.9", "malformed_row", "6 columns"),
        ("0 0.5 x 0.1 0.1", "malformed_row", "'x' is not a number; expected `class cx cy width height`"),
        ("cat 0.5 0.5 0.1 0.1", "malformed_row", "'cat' is not a number"),
        ("2 0.5 0.5 0.1 0.1", "class_id_equals_class_count", "class 2 is not a whole number from 0 to 1"),
        ("3 0.5 0.5 0.1 0.1", "unknown_class", "class 3 is not a whole number from 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "unknown_class", "class -1 is not"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown_class", r"class 0\.5 is not"),
        ("nan 0.5 0.5 0.1 0.1", "unknown_class", "class nan is not"),
        ("0 40 20 10 10", "pixel_coordinates", "coordinates 40 20 10 10 look like pixels"),
        ("0 0.5 0.5 0 0.1", "no_area", "is 0 wide and 4 high"),
        ("0 0.5 0.5 0.1 -0.1", "no_area", "is 8 wide and -4 high"),
        ("0 nan 0.5 0.1 0.1", "not_finite", "is not finite"),
        ("0 0.5 0.5 0.1 inf", "not_finite", "is not finite"),
        ("0 1.5 0.5 0.1 0.1", "outside_image", "has no area inside the image of 80 x 40 pixels"),
    ],
)
def test_an_invalid_row_is_dropped_with_line_and_reason(tmp_path: Path, row: str, code: str, reason: str) -> None:
    split = read_rows(tmp_path, f"0 0.5 0.5 0.1 0.1\n\n{row}\n")
    [entry] = split.ledger.entries
    assert (entry.action, entry.code, entry.line) == ("dropped", code, 3)
    assert entry.path == tmp_path / "labels/train/a.txt"
    with pytest.raises(LabelError, match=reason):
        split.ledger.check(0)
    assert len(split.annotations[0].boxes) == 1


def test_a_box_beyond_the_image_border_is_clipped(tmp_path: Path) -> None:
    split = read_rows(tmp_path, "0 0.05 0.5 0.2 0.5\n0 0.050000 0.5 0.100001 0.5\n")
    assert split.annotations[0].boxes[0].tolist() == [0, 10, 12, 30]
    [entry] = split.ledger.entries
    assert (entry.action, entry.line) == ("clipped", 1)


def test_an_image_without_a_label_file_is_background(tmp_path: Path) -> None:
    image(tmp_path / "images/train/b.png")
    split = read_rows(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    assert [a.image_path.name for a in split.annotations] == ["a.png", "b.png"]
    assert split.ledger.background == 1


def test_a_split_without_any_label_file_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/train/a.png")
    with pytest.raises(
        LabelError, match=r"none of the 1 image of the split train has a label file; .* expected .*labels/train/a"
    ):
        open_data(write(tmp_path / "data.yaml", YAML)).read("train")


def test_rows_of_a_label_file_without_an_image_are_dropped(tmp_path: Path) -> None:
    orphan = write(tmp_path / "labels/train/z.txt", "\n0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "labels/train/classes.txt", "cat\ndog\n")
    split = read_rows(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    assert [str(e) for e in split.ledger.entries] == [f"{orphan}:2: dropped: there is no image for this label file"]
    assert split.ledger.entries[0].code == "unknown_image"


def test_rows_of_an_unreadable_image_are_dropped(tmp_path: Path) -> None:
    write(tmp_path / "images/train/b.png", "not an image")
    write(tmp_path / "labels/train/b.txt", "0 0.5 0.5 0.1 0.1\n")
    split = read_rows(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    assert [path.name for path in split.ledger.missing] == ["b.png"]
    assert "not an image in a supported format" in split.ledger.entries[0].reason
    assert split.ledger.entries[0].code == "image_unusable"


def test_a_label_file_not_in_utf8_is_refused(tmp_path: Path) -> None:
    read_rows(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "labels/train/a.txt").write_bytes(b"0 0.5 0.5 0.1 0.1\n# caf\xe9\n")
    with pytest.raises(FileError, match=r"a\.txt:2: not UTF-8"):
        open_data(tmp_path).read("train")


def test_a_list_of_images_is_read_and_missing_ones_reported(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "labels/b.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "lists/train.txt", "./images/b.png\n\nimages/a.png\n")
    split = open_data(write(tmp_path / "data.yaml", "train: lists/train.txt\nnames: [cat]\n")).read("train")
    assert [a.image_path for a in split.annotations] == [tmp_path / "images/a.png"]
    [entry] = split.ledger.entries
    assert (entry.path, entry.line) == (tmp_path / "labels/b.txt", 1)
    assert entry.reason.endswith("b.png not found")


def test_an_image_listed_twice_is_used_once(tmp_path: Path) -> None:
    read_rows(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    yaml = write(tmp_path / "data.yaml", "train: [images, images/train]\nnames: [cat]\n")
    split = open_data(yaml).read("train")
    assert (len(split.annotations), split.ledger.found) == (1, 1)
    assert split.ledger.notes == ("1 repeated line in the lists of the split train; each image is used once",)


@pytest.mark.parametrize(
    ("yaml", "place"),
    [
        ("train: ../train/images\nval: ../valid/images\nnames: [cat]\n", "train/images"),
        ("train: train\nnames: {0: cat}\n", "train/images"),
        ("path: gone/elsewhere\ntrain: [train/images]\nnames: [cat]\n", "train/images"),
        (
            "path: inner\ntrain: images\nnames: [cat]\nnc: 1\ntest:\ndownload: rm -rf .\nroboflow: {a: 1}\n",
            "inner/images",
        ),
        ("train: images\nnames: [cat]\n", "images"),
    ],
)
def test_paths_are_found_as_other_tools_write_them(tmp_path: Path, yaml: str, place: str) -> None:
    image(tmp_path / place / "a.png")
    write(tmp_path / place.replace("images", "labels") / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    split = open_data(write(tmp_path / "data.yaml", yaml)).read("train")
    assert (split.ledger.used, len(split.annotations)) == (1, 1)


def test_a_class_named_no_keeps_its_name(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 0.1 0.1\n")
    split = open_data(write(tmp_path / "data.yaml", "train: images\nnames: [no, 3]\n")).read("train")
    assert split.class_names == ("no", "3")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\nnames: [a, b\n", r"data\.yaml:3: column 1: not YAML"),
        ("train: images\nnames: {1: a}\n", "the class ids in `names` must be 0, 1, 2"),
        ("train: images\nnames: 3\n", "`names` must list the classes"),
        ("names: [a]\n", "expected at least one of `train`"),
        ("train: images\nnames: {0: a, 1: b, 1: c}\n", "the key '1' occurs twice"),
        ("train: {a: b}\nnames: [a]\n", "`train` must be a folder"),
        ("val: a\nvalid: b\nnames: [a]\n", "two keys define the split val; remove `valid`"),
        ("- a\n", "expected the keys of a YOLO data.yaml"),
    ],
)
def test_an_invalid_data_yaml_is_refused(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        open_data(write(tmp_path / "data.yaml", yaml))


def test_a_data_yaml_without_any_of_its_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no images: train at images/train, val at images/val does not exist"):
        open_data(write(tmp_path / "data.yaml", YAML))


def test_an_absent_split_is_reported_and_refused_only_when_read(tmp_path: Path) -> None:
    assert read_rows(tmp_path, "0 0.5 0.5 0.1 0.1\n").ledger.used == 1
    data_set = open_data(tmp_path)
    assert data_set.split_names == ("train",)
    assert data_set.description.endswith(": train (named, but absent: val at images/val)")
    with pytest.raises(LabelError, match="the images of val are not there: images/val"):
        data_set.read("val")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    with pytest.raises(LabelError, match=r"data\.yaml: the split contains no images"):
        open_data(write(tmp_path / "data.yaml", YAML)).read("train")
