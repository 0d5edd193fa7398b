"""Which links a dataset may contain: see SECURITY.md."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detector.data.file_index import FileIndex
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import LabelError
from detector.images import write_image

HW = (40, 60)
OUTSIDE = "outside of the dataset's folder"
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((*HW, 3), len(str(path)) % 256, np.uint8))
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def make_yolo(folder: Path) -> None:
    image(folder / "images/a.png")
    write(folder / "labels/a.txt", "0 0.5 0.5 0.1 0.1\n")


def make_yolo_yaml(folder: Path) -> None:
    make_yolo(folder)
    write(folder / "data.yaml", "train: images\nnames: [cat]\n")


def make_coco(folder: Path, *names: str) -> None:
    image(folder / "images/a.png")
    names = ("a.png", *names)
    images = [{"id": i, "file_name": name, "height": HW[0], "width": HW[1]} for i, name in enumerate(names)]
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in range(len(names))]
    values = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    write(folder / "train.json", json.dumps(values))


def make_voc(folder: Path) -> None:
    image(folder / "JPEGImages/a.png")
    write(
        folder / "Annotations/a.xml",
        f"<annotation><filename>a.png</filename><object><name>cat</name>{BOX}</object></annotation>",
    )


def make_csv(folder: Path) -> None:
    image(folder / "images/a.png")
    write(folder / "train.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,2,5,6\n")


Make = Callable[[Path], None]
MAKERS = [make_yolo, make_yolo_yaml, make_coco, make_voc, make_csv]


def private(tmp_path: Path) -> Path:
    """Create a folder with an image and labels beside the dataset, and return it."""
    make_yolo(tmp_path / "private")
    image(tmp_path / "private/s.png")
    write(tmp_path / "private/s.txt", "0 0.5 0.5 0.1 0.1\n")
    return tmp_path / "private"


def read(folder: Path, **options: bool) -> Split:
    return open_data(folder, **options).read("train")


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["extra", "root", "sub/extra", "deep/er/images", "deep/er/train"])
def test_a_link_to_a_folder_outside_is_refused(tmp_path: Path, make: Make, name: str) -> None:
    make(tmp_path / "set")
    link(tmp_path / "set" / name, Path("/") if name == "root" else private(tmp_path))
    with pytest.raises(LabelError, match=rf"{name}: the link leads to .*{OUTSIDE}.*--allow-outside"):
        read(tmp_path / "set")


@pytest.mark.parametrize("make", MAKERS)
def test_a_link_inside_the_image_folder_is_refused(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "set")
    folder = "JPEGImages" if make is make_voc else "images"
    link(tmp_path / "set" / folder / "extra", private(tmp_path))
    with pytest.raises(LabelError, match=rf"{folder}/extra: the link leads to .*{OUTSIDE}.*--allow-outside"):
        read(tmp_path / "set")


def test_links_are_followed_with_allow_outside(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set")
    link(tmp_path / "set/extra", private(tmp_path))
    link(tmp_path / "set/extra2", private(tmp_path / "2"))
    link(tmp_path / "private/loop", tmp_path / "set")
    assert [a.image_path.name for a in read(tmp_path / "set", allow_outside=True).annotations].count("s.png") == 2


@pytest.mark.parametrize("make", MAKERS)
def test_usual_folders_may_be_links_and_are_named(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "set")
    for folder in [path for path in (tmp_path / "set").iterdir() if path.is_dir()]:
        (tmp_path / "disk").mkdir(exist_ok=True)
        folder.rename(tmp_path / "disk" / folder.name)
        link(folder, f"../disk/{folder.name}")  # a relative link
    split = read(tmp_path / "set")
    assert (split.ledger.used, split.ledger.background, len(split.annotations)) == (1, 0, 1)
    [note] = [note for note in split.ledger.notes if "links out of the folder" in note]
    folders = {"Annotations", "JPEGImages"} if make is make_voc else {"images"}
    for name in folders | ({"labels"} if "yolo" in make.__name__ else set()):
        assert f"{tmp_path / 'set' / name} → {tmp_path / 'disk' / name}" in note


@pytest.mark.parametrize("name", ["train", "val", "test", "valid", "train2017", "training", "Images", "annotations"])
def test_folders_named_like_a_split_may_be_links(tmp_path: Path, name: str) -> None:
    make_yolo(tmp_path / "set")
    for place in (tmp_path / "set" / name, tmp_path / "set/sub" / name):
        link(place, private(tmp_path / f"disk-{place.parent.name}"))
    assert (
        sum(len(open_data(tmp_path / "set").read(s).annotations) for s in open_data(tmp_path / "set").split_names) == 5
    )


@pytest.mark.parametrize("name", ["my_images", "trains", "data", "images2", "test-data", ".."])
def test_other_names_may_not_be_links(tmp_path: Path, name: str) -> None:
    make_coco(tmp_path / "set", f"{name}/s.png" if name != ".." else "../private/s.png")
    if name != "..":
        link(tmp_path / "set" / name, private(tmp_path))
    else:
        private(tmp_path)
    with pytest.raises(LabelError, match=OUTSIDE):
        read(tmp_path / "set")


def test_a_linked_folder_may_not_lead_elsewhere(tmp_path: Path) -> None:
    make_coco(tmp_path / "set")
    (tmp_path / "set/images").rename(tmp_path / "disk")
    link(tmp_path / "set/images", tmp_path / "disk")
    assert read(tmp_path / "set").ledger.used == 1
    link(tmp_path / "disk/x", private(tmp_path))
    with pytest.raises(LabelError, match=rf"images/x: the link leads to .*private, which is {OUTSIDE}"):
        read(tmp_path / "set")
    (tmp_path / "disk/x").unlink()
    link(tmp_path / "disk/again", tmp_path / "disk")  # inside of what may be read
    assert read(tmp_path / "set").ledger.used == 1


def test_a_chain_of_links_counts_by_its_end(tmp_path: Path) -> None:
    make_coco(tmp_path / "set", "extra/s.png")
    link(tmp_path / "set/extra", "second")
    link(tmp_path / "set/second", tmp_path / "third")
    link(tmp_path / "third", private(tmp_path))
    with pytest.raises(LabelError, match=rf"(extra|second): the link leads to .*private, which is {OUTSIDE}"):
        read(tmp_path / "set")
    make_coco(tmp_path / "set2", "extra/b.png")
    image(tmp_path / "set2/images/b.png")
    link(tmp_path / "set2/extra", "second")
    link(tmp_path / "set2/second", tmp_path / "back")
    link(tmp_path / "back", tmp_path / "set2/images")  # leaves the folder and comes back
    assert read(tmp_path / "set2").ledger.used == 2


@pytest.mark.parametrize("name", ["images/b.png", "labels/a.txt", "classes.txt", "obj.names", "train.txt", "data.yaml"])
def test_a_link_to_a_file_outside_is_refused(tmp_path: Path, name: str) -> None:
    make_yolo(tmp_path / "set")
    (tmp_path / "set" / name).unlink(missing_ok=True)
    link(tmp_path / "set" / name, write(tmp_path / "secret", "password\n"))
    with pytest.raises(LabelError, match=rf"{re.escape(name)} is {OUTSIDE}.*--allow-outside") as raised:
        read(tmp_path / "set")
    assert "password" not in str(raised.value)


@pytest.mark.parametrize("name", ["train.json", "annotations/instances_val.json", "train/_annotations.coco.json"])
def test_a_link_to_a_label_file_outside_is_refused(tmp_path: Path, name: str) -> None:
    make_coco(tmp_path / "private")
    link(tmp_path / "set" / name, tmp_path / "private/train.json")
    with pytest.raises(LabelError, match=rf"{name} is {OUTSIDE}"):
        open_data(tmp_path / "set")


def test_other_links_to_files_do_not_matter(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set")
    link(tmp_path / "set/README.md", write(tmp_path / "README.md", "x"))
    link(tmp_path / "set/LICENSE", tmp_path / "README.md")
    link(tmp_path / "set/.venv", private(tmp_path))
    link(tmp_path / "set/images/gone.md", "nowhere")
    link(tmp_path / "set/nowhere", tmp_path / "gone")
    assert (read(tmp_path / "set").ledger.used, read(tmp_path / "set").ledger.notes[1:]) == (1, ())


@pytest.mark.parametrize("make", MAKERS)
def test_links_inside_are_read_once(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "set")
    folder = "JPEGImages" if make is make_voc else "images"
    link(tmp_path / "set/again", folder)
    link(tmp_path / "set" / folder / "up", "..")
    link(tmp_path / "set" / folder / "self", ".")
    link(tmp_path / "set/copy.png", f"{folder}/a.png") if make is make_coco else None
    split = read(tmp_path / "set")
    assert (split.ledger.used, split.ledger.background, len(split.annotations)) == (1, 0, 1)
    assert not [note for note in split.ledger.notes if "without labels" in note and make is not make_coco]


def test_a_linked_second_image_folder_adds_no_background(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set")
    for name in ("JPEGImages", "train", "more"):
        link(tmp_path / "set" / name, "images")
    data = open_data(tmp_path / "set")
    splits = [data.read(name) for name in data.split_names]
    assert [(len(s.annotations), s.ledger.used, s.ledger.background) for s in splits] == [(1, 1, 0)]


def test_a_file_of_two_paths_is_one_image(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set")
    for text in ("[images, images/../images]", "[images, again]", "[again, ./images, labels/../images]", "all.txt"):
        write(tmp_path / "set/data.yaml", f"train: {text}\nnames: [cat]\n")
        write(tmp_path / "set/all.txt", "images/a.png\nimages/../images/a.png\nlabels/../images/a.png\n")
        if not (tmp_path / "set/again").exists():
            link(tmp_path / "set/again", "images")
        split = read(tmp_path / "set")
        assert (len(split.annotations), split.ledger.used, split.ledger.background) == (1, 1, 0)
        assert any("each is used once" in note for note in split.ledger.notes)


def test_splits_may_link_to_the_same_images(tmp_path: Path) -> None:
    """As with all images of COCO in one folder."""
    for name in ("train2017", "val2017"):
        image(tmp_path / f"all/{name}.png")
        link(tmp_path / "set" / name, tmp_path / "all")
        values = {
            "images": [{"id": 1, "file_name": f"{name}.png"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        write(tmp_path / f"set/annotations/instances_{name}.json", json.dumps(values))
    data = open_data(tmp_path / "set")
    assert [data.read(name).ledger.used for name in ("train", "val")] == [1, 1]


def test_hidden_folders_are_read_through_links(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set")
    (tmp_path / "set/images").rename(tmp_path / "set/.cache")
    link(tmp_path / "set/images", ".cache")
    assert read(tmp_path / "set").ledger.used == 1


def test_paths_in_a_yaml_do_not_lead_out_through_links(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set")
    link(tmp_path / "set/extra", private(tmp_path))
    for place in ("extra/images", "extra", "images/../extra/images"):
        write(tmp_path / "set/data.yaml", f"train: {place}\nnames: [cat]\n")
        for spec in (tmp_path / "set", tmp_path / "set/data.yaml"):
            with pytest.raises(LabelError, match=f"{OUTSIDE}.*--allow-outside"):
                read(spec)
    for text in ("path: extra\ntrain: images", f"train: {tmp_path / 'private/images'}"):
        write(tmp_path / "set/data.yaml", f"{text}\nnames: [cat]\n")
        assert read(tmp_path / "set/data.yaml").ledger.used == 1  # the user named this folder
    write(tmp_path / "set/data.yaml", "path: extra\ntrain: images\nnames: [cat]\n")
    assert read(tmp_path / "set").ledger.used == 1


def test_lists_do_not_lead_out_through_links(tmp_path: Path) -> None:
    make_yolo(tmp_path / "set")
    link(tmp_path / "set/extra", private(tmp_path))
    write(tmp_path / "set/data.yaml", "train: all.txt\nnames: [cat]\n")
    write(tmp_path / "set/all.txt", "images/a.png\nextra/s.png\n")
    with pytest.raises(LabelError, match=rf"all\.txt:2: .*extra/s\.png is {OUTSIDE}"):
        read(tmp_path / "set/data.yaml")


def test_links_beside_a_data_yaml_do_not_matter(tmp_path: Path) -> None:
    """A data.yaml is often in the folder of a project, with links to other disks."""
    make_yolo(tmp_path / "disk")
    link(tmp_path / "project/runs", private(tmp_path))
    yaml = write(tmp_path / "project/data.yaml", f"path: {tmp_path / 'disk'}\ntrain: images\nnames: [cat]\n")
    assert read(yaml).ledger.used == 1


def test_description_names_the_folder_of_the_data(tmp_path: Path) -> None:
    make_coco(tmp_path / "disk")
    link(tmp_path / "mine/data", tmp_path / "disk")
    write(tmp_path / "mine/mine.yaml", "format: coco\npath: data\n")
    for spec in (tmp_path / "mine/mine.yaml", tmp_path / "mine"):
        assert read(spec).ledger.used == 1


def test_file_index_reads_linked_folders_once(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        image(tmp_path / name)
    for name, target in (("a/x", "../b"), ("b/y", "../a"), ("train", "."), ("images", "a"), ("ring", "ring")):
        link(tmp_path / name, target)
    names = [os.path.relpath(path, tmp_path) for path in FileIndex(tmp_path).files]
    assert names == ["a/1.png", "b/2.png", "images/1.png", "ring"]
