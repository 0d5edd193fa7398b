from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from detector.data.file_index import FileIndex
from detector.data.image_labels import BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.named_labels import NamedLabels, split_of
from detector.data.row_collector import RowError
from detector.errors import LabelError
from detector.images import write_image
from detector.options import ReadOptions


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((40, 80, 3), np.uint8))


def open_labels(folder: Path, labels: Iterable[ImageLabels], per_image: bool = False) -> NamedLabels:
    """Return the dataset of a format whose label files contain these labels."""
    by_file: dict[Path, list[ImageLabels]] = {}
    for own in labels:
        by_file.setdefault(own.label_file, []).append(own)

    def read(path: Path) -> Sequence[ImageLabels]:
        return by_file[path]

    label_format = LabelFormat("test format", "txt", matches=bool, read=read, per_image=per_image)
    return NamedLabels(label_format, FileIndex(folder), tuple(by_file), ReadOptions())


def labels_of(file: Path, name: str, *rows: NamedRow | BadRow, split: str | None = None) -> ImageLabels:
    return ImageLabels(file, 1, name, rows or (NamedRow(1, "cat", (20, 10, 60, 30)),), split_name=split)


def test_class_ids_are_the_same_in_all_splits(tmp_path: Path) -> None:
    for name in ("train/a.png", "val/a.png"):
        image(tmp_path / name)
    first = labels_of(tmp_path / "train.txt", "a.png", NamedRow(3, "dog", (1, 2, 3, 4)))
    second = labels_of(tmp_path / "val.txt", "a.png", NamedRow(7, "cat", (5, 6, 7, 8)))
    data = open_labels(tmp_path, [first, second])
    assert data.split_names == ("train", "val")
    train, val = data.read("train"), data.read("val")
    assert train.class_names == val.class_names == ("cat", "dog")
    assert (train.annotations[0].class_ids.tolist(), val.annotations[0].class_ids.tolist()) == ([1], [0])
    assert [split.annotations[0].image_path.parent.name for split in (train, val)] == ["train", "val"]
    assert train.annotations[0].image_id != val.annotations[0].image_id


def test_a_label_file_can_name_the_split_of_each_image(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        image(tmp_path / name)
    file = tmp_path / "labels.txt"
    data = open_labels(tmp_path, [labels_of(file, "a.png", split="val"), labels_of(file, "b.png", split="train")])
    assert data.split_names == ("train", "val")
    assert [a.image_path.name for a in data.read("val").annotations] == ["a.png"]


def test_fractions_are_multiplied_by_the_size_of_the_image(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    rows = (NamedRow(1, "cat", (0.25, 0.25, 0.75, 0.75)),)
    data = open_labels(tmp_path, [ImageLabels(tmp_path / "l.txt", 1, "a.png", rows, are_fractions=True)])
    assert data.read("train").annotations[0].boxes.tolist() == [[20, 10, 60, 30]]


def test_bad_rows_and_rows_of_missing_images_are_counted(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    file = tmp_path / "labels.txt"
    bad = BadRow(None, RowError("malformed_row", "no name"))
    good = NamedRow(2, "cat", (20, 10, 60, 30))
    data = open_labels(tmp_path, [labels_of(file, "a.png", good, bad), labels_of(file, "gone.png", good, good)])
    ledger = data.read("train").ledger
    assert (ledger.found, ledger.used, ledger.dropped) == (4, 1, 3)
    assert {str(entry) for entry in ledger.entries} == {
        f"{file}: dropped: no name",
        f"{file}:2: dropped: image gone.png not found in the dataset",
    }


def test_two_places_that_name_the_same_image_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    boxes = {"one": (20, 10, 60, 30), "two": (20, 10, 60, 31)}
    labels = [labels_of(tmp_path / f"{name}.txt", "a.png", NamedRow(1, "cat", box)) for name, box in boxes.items()]
    with pytest.raises(LabelError, match=r"two\.txt:1: a\.png is the image .*a\.png, which .*one\.txt:1 names too"):
        open_labels(tmp_path, labels).read("train")


def test_of_two_paths_only_the_better_match_is_the_file(tmp_path: Path) -> None:
    image(tmp_path / "day/1.png")
    labels = [labels_of(tmp_path / "l.txt", f"{folder}/1.png") for folder in ("night", "day")]
    split = open_labels(tmp_path, labels).read("train")
    assert [annotation.image_id for annotation in split.annotations] == [2]
    assert split.ledger.dropped == 1


def test_a_file_of_one_image_may_name_another_suffix(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    labels = [labels_of(tmp_path / "a.txt", "renamed later.jpg")]
    assert len(open_labels(tmp_path, labels, per_image=True).read("train").annotations) == 1
    with pytest.raises(LabelError, match=r"image renamed later\.jpg not found"):
        open_labels(tmp_path, labels).read("train")


@pytest.mark.parametrize(
    ("file", "expected"),
    [("valid/a.csv", "val"), ("train/test_a.csv", "test"), ("val/x/all.csv", "val"), ("all.csv", None)],
)
def test_the_split_is_a_word_of_the_nearest_name(file: str, expected: str | None) -> None:
    assert split_of(Path("test-project") / file, Path("test-project")) == expected


def test_labels_that_a_second_file_repeats_are_used_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        image(tmp_path / name)
    first = [labels_of(tmp_path / "project.txt", name) for name in ("a.png", "b.png")]
    second = [
        labels_of(tmp_path / "export.txt", name, NamedRow(9, "cat", (20, 10, 60, 30))) for name in ("a.png", "b.png")
    ]
    split = open_labels(tmp_path, [*first, *second]).read("train")
    assert [a.boxes.tolist() for a in split.annotations] == [[[20, 10, 60, 30]]] * 2
    assert split.ledger.found == 2
    assert [note.partition(" for ")[2] for note in split.ledger.notes] == ["2 images; they are used once"]


def test_the_folder_of_images_beside_annotations_is_preferred(tmp_path: Path) -> None:
    for folder in ("AnnotationsVisualization", "JPEGImages", "SegmentationClassVisualization"):
        image(tmp_path / folder / "a.png")
    data = open_labels(tmp_path, [labels_of(tmp_path / "Annotations/a.txt", "a.png")], per_image=True)
    assert [a.image_path.parent.name for a in data.read("train").annotations] == ["JPEGImages"]


def test_an_image_beside_its_label_file_comes_first(tmp_path: Path) -> None:
    for name in ("labels/a.png", "images/a.png"):
        image(tmp_path / name)
    data = open_labels(tmp_path, [labels_of(tmp_path / "labels/a.txt", "a.png")], per_image=True)
    assert [a.image_path.parent.name for a in data.read("train").annotations] == ["labels"]


def test_a_label_file_that_names_itself_as_image(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    file = tmp_path / "a.txt"
    file.write_text("")
    data = open_labels(tmp_path, [labels_of(file, "a.txt")], per_image=True)
    assert [a.image_path.name for a in data.read("train").annotations] == ["a.png"]


def test_only_default_as_split_name_means_no_split(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        image(tmp_path / name)
    file = tmp_path / "labels.txt"
    first = labels_of(file, "a.png", split="default")
    assert open_labels(tmp_path, [first]).split_names == ("train",)
    second = labels_of(file, "b.png", split="val")
    assert open_labels(tmp_path, [first, second]).split_names == ("val", "default")


def test_a_file_without_split_may_repeat_files_with_splits(tmp_path: Path) -> None:
    names = ("a.png", "b.png", "c.png")
    for name in names:
        image(tmp_path / name)
    everything = [labels_of(tmp_path / "all.txt", name) for name in names]
    parts = [labels_of(tmp_path / f"{split}.txt", f"{name}.png") for split, name in (("train", "a"), ("test", "b"))]
    data = open_labels(tmp_path, [*everything, *parts])
    read = {split: [a.image_path.stem for a in data.read(split).annotations] for split in data.split_names}
    assert read == {"train": ["c", "a"], "test": ["b"]}


def test_labels_in_two_splits_are_kept_in_both(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    data = open_labels(tmp_path, [labels_of(tmp_path / f"{split}.txt", "a.png") for split in ("train", "val")])
    assert [len(data.read(split).annotations) for split in ("train", "val")] == [1, 1]
