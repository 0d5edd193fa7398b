from dataclasses import replace
from pathlib import Path

import numpy as np

from detector.data.open_data import open_data
from detector.data.training_splits import read_training_splits
from detector.images import write_image


def write_yolo(folder: Path, val: str, count: int = 20) -> None:
    """Write a YOLO dataset of random images whose val split is `val`."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(count):
        write_image(folder / f"images/{i}.png", rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))
        (folder / f"labels/{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (folder / "val.txt").write_text("images/0.png\n")
    (folder / "data.yaml").write_text(f"train: images\nval: {val}\nnames: [cat]\n")


def test_a_val_split_with_the_training_images_is_replaced(tmp_path: Path) -> None:
    write_yolo(tmp_path, "images")
    splits = read_training_splits(open_data(tmp_path), None, 0.15)
    assert splits.val is not None
    assert splits.val.held_back
    train, val = ({a.image_path for a in split.annotations} for split in (splits.train, splits.val))
    assert (len(train | val), train & val) == (20, set())
    assert splits.notes[0] == ("the val split of the data has the same images as the training split, so it is not used")
    assert read_training_splits(open_data(tmp_path), None, 0).val is None


def test_a_val_split_with_some_training_images_is_kept(tmp_path: Path) -> None:
    write_yolo(tmp_path, "val.txt")
    splits = read_training_splits(open_data(tmp_path), None, 0.15)
    assert splits.val is not None
    assert [a.image_path.name for a in splits.val.annotations] == ["0.png"]


def test_trainval_is_the_training_split_without_train(tmp_path: Path) -> None:
    source = open_data("scenes")
    data_set = replace(source, readers={"test": source.readers["test"], "trainval": source.readers["train"]})
    splits = read_training_splits(data_set, None, 0)
    assert splits.train.name == "train"
    assert splits.notes == ("the split 'trainval' is used for training",)


def test_held_back_images_keep_the_notes_of_the_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path, "images")
    (tmp_path / "labels/0.txt").write_text("0 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4\n")
    splits = read_training_splits(open_data(tmp_path), None, 0.15)
    assert splits.val is not None
    assert splits.train.ledger.notes == splits.val.ledger.notes
    assert splits.train.ledger.note_lines() == ["bounding boxes replace 1 polygon or oriented box"]


def test_val_images_that_are_also_training_images_are_a_warning(tmp_path: Path) -> None:
    write_yolo(tmp_path, "val.txt")
    [warning] = read_training_splits(open_data(tmp_path), None, 0.15).warnings
    assert warning.startswith("the training split also contains 1 of 1 val image")


def test_copies_of_training_images_in_val_are_a_warning(tmp_path: Path) -> None:
    write_yolo(tmp_path, "other/images")
    (tmp_path / "other/images").mkdir(parents=True)
    (tmp_path / "other/labels").mkdir()
    for i, old in enumerate(("images/3.png", "val.txt")):
        (tmp_path / f"other/images/copy{i}.png").write_bytes((tmp_path / old).read_bytes())
        (tmp_path / f"other/labels/copy{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    write_image(tmp_path / "other/images/copy1.png", np.zeros((32, 32, 3), np.uint8))
    [warning] = read_training_splits(open_data(tmp_path), None, 0.15).warnings
    assert warning.startswith("the training split also contains 1 of 2 val images")
