import os
import unicodedata
from pathlib import Path

import pytest

from detector.data.file_index import FULL, FileIndex, find_end
from detector.errors import LabelError


def make(folder: Path, *names: str) -> FileIndex:
    """Create empty files in `folder`, and return the index of the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return FileIndex(folder)


def find(index: FileIndex, name: str, label_file: str = "labels.json", split: str | None = None) -> str | None:
    """Return the path of the image that a label file names, relative to the folder; None if there is none."""
    match = index.find_image(name, index.folder / label_file, split)
    return match and match.path.relative_to(index.folder).as_posix()


def test_hidden_files_and_folders_are_not_data(tmp_path: Path) -> None:
    index = make(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", ".ipynb_checkpoints/a.jpg", "__MACOSX/a.jpg", "b/.c/d.jpg")
    assert index.files == (tmp_path / "a.jpg",)


def test_images_are_found_by_any_suffix_in_upper_case(tmp_path: Path) -> None:
    index = make(tmp_path, "b/A.JPG", "a.png", "c.txt")
    assert index.images == (tmp_path / "a.png", tmp_path / "b/A.JPG")


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "images/a.jpg", "C:\\data\\images\\a.jpg", "/content/x/images/a.jpg", "../images/a.jpg", "A.JPG"],
)
def test_an_image_is_found_by_the_end_of_its_path(tmp_path: Path, name: str) -> None:
    assert find(make(tmp_path, "images/a.jpg", "images/b.jpg"), name) == "images/a.jpg"


@pytest.mark.parametrize("name", ["c1d2e3f4-a b.jpg", "/data/local-files/?d=x/a%20b.jpg", "https://h/u/a%20b.jpg?v=3"])
def test_names_of_labeling_servers_are_decoded(tmp_path: Path, name: str) -> None:
    assert find(make(tmp_path, "images/a b.jpg"), name) == "images/a b.jpg"


def test_names_match_in_another_unicode_form(tmp_path: Path) -> None:
    name = "größe.jpg"
    index = make(tmp_path, f"images/{unicodedata.normalize('NFD', name)}")
    assert find(index, unicodedata.normalize("NFC", name)) is not None


def test_the_longest_common_end_wins(tmp_path: Path) -> None:
    index = make(tmp_path, "day/cam1/1.jpg", "night/cam1/1.jpg", "night/cam2/1.jpg")
    assert find(index, "D:/record/night/cam1/1.jpg") == "night/cam1/1.jpg"


def test_equally_good_matches_are_refused(tmp_path: Path) -> None:
    index = make(tmp_path, "day/1.jpg", "night/1.jpg")
    with pytest.raises(LabelError, match=r"1\.jpg may be .*night/1\.jpg or .*day/1\.jpg"):
        find(index, "1.jpg")


def test_a_parallel_folder_decides_between_equal_names(tmp_path: Path) -> None:
    index = make(tmp_path, "images/cat/1.jpg", "images/dog/1.jpg")
    assert find(index, "1.jpg", "annotations/cat/1.xml") == "images/cat/1.jpg"
    assert find(index, "1.jpg", "annotations/dog/1.xml") == "images/dog/1.jpg"
    with pytest.raises(LabelError, match=r"1\.jpg may be"):
        find(index, "1.jpg", "annotations/1.xml")


def test_an_image_of_another_split_is_not_a_match(tmp_path: Path) -> None:
    index = make(tmp_path, "train/1.jpg", "train/2.jpg", "valid/2.jpg")
    assert find(index, "1.jpg", "val.json", "val") is None
    assert find(index, "2.jpg", "val.json", "val") == "valid/2.jpg"
    assert find(index, "x/val/1.jpg", "all.json") is None


def test_a_path_that_is_named_exactly_always_matches(tmp_path: Path) -> None:
    index = make(tmp_path, "train/1.jpg")
    match = index.find_image("train/1.jpg", tmp_path / "val.json", "val")
    assert match is not None
    assert match.parts == FULL


def test_another_suffix_matches_only_if_allowed(tmp_path: Path) -> None:
    index = make(tmp_path, "images/a.png")
    label_file = tmp_path / "a.xml"
    assert index.find_image("a.jpg", label_file) is None
    for name in ("a.jpg", "a"):
        match = index.find_image(name, label_file, any_suffix=True)
        assert match is not None
        assert match.path.name == "a.png"


def test_the_end_of_a_path_keeps_the_name_of_the_split(tmp_path: Path) -> None:
    make(tmp_path, "images/a.jpg", "val/images/b.jpg")
    assert find_end("/content/set-3/val/images", [tmp_path]) == tmp_path / "val/images"
    # `images` exists, but may contain the images of another split.
    assert find_end("/content/set-3/train/images", [tmp_path]) is None
    assert find_end("C:\\set\\images", [tmp_path]) == tmp_path / "images"


@pytest.mark.posix
def test_pipes_are_not_files_of_a_data_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.json")
    (tmp_path / "a.txt").write_text("")
    assert FileIndex(tmp_path).files == (tmp_path / "a.txt",)


def test_the_case_decides_between_equal_names(tmp_path: Path) -> None:
    index = make(tmp_path, "images/Cat1.png", "images/cat1.png")
    assert find(index, "x/cat1.png") == "images/cat1.png"
    assert find(index, "x/Cat1.png") == "images/Cat1.png"
