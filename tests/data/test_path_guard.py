import json
import os
from pathlib import Path

import numpy as np
import pytest

from detector.data.open_data import open_data
from detector.data.path_guard import PathGuard
from detector.errors import InputError
from detector.images import write_image

HW = (40, 60)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((*HW, 3), np.uint8))
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def coco(file: Path, *names: str) -> Path:
    images = [{"id": i, "file_name": name, "height": HW[0], "width": HW[1]} for i, name in enumerate(names)]
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in range(len(names))]
    return write(file, json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}]}))


def test_what_lies_inside_passes_however_it_is_named(tmp_path: Path) -> None:
    fence = PathGuard([tmp_path / "mine", tmp_path / "gone"])  # neither is there: no fence at all
    fence.check(Path("/etc/passwd"), tmp_path)
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    fence = PathGuard([tmp_path / "mine"])
    for name in (
        "a.png",
        "deep/a.png",
        "deep/../a.png",
        "../mine/a.png",
        "deep/../../mine/deep/a.png",
        "a" * 300,
        "a\0",
    ):
        fence.check(tmp_path / "mine" / name, tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "deep/../../a.png", "/etc/passwd", "..", "../mine2/a.png", "link.png"])
def test_what_lies_outside_is_refused_by_name_and_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "link.png").symlink_to(write(tmp_path / "secret", ""))
    with pytest.raises(InputError, match=r"list\.txt:3: .* lies outside of .*mine.*--allow-outside"):
        PathGuard([tmp_path / "mine"]).check(tmp_path / "mine" / name, tmp_path / "list.txt", 3)


def test_a_ring_of_links_is_left_to_who_opens_it(tmp_path: Path) -> None:
    (tmp_path / "ring.png").symlink_to("ring.png")
    PathGuard([tmp_path]).check(tmp_path / "ring.png", tmp_path)


def test_a_data_set_that_is_a_link_or_is_put_together_of_linked_folders_is_read(tmp_path: Path) -> None:
    image(tmp_path / "disk" / "images" / "sub" / "a.png")
    coco(tmp_path / "mine" / "train.json", "sub/a.png")
    (tmp_path / "mine" / "images").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for folder in (tmp_path / "mine", tmp_path / "link"):
        assert open_data(folder).read("train").ledger.used == 1
    write(tmp_path / "mine.yaml", "format: coco\npath: link\n")
    assert open_data(tmp_path / "mine.yaml").read("train").ledger.used == 1


def test_standard_coco_folders_may_be_links(tmp_path: Path) -> None:
    image(tmp_path / "disk" / "a.png")
    coco(tmp_path / "mine" / "annotations" / "instances_val2017.json", "a.png")
    (tmp_path / "mine" / "val2017").symlink_to(tmp_path / "disk")
    assert open_data(tmp_path / "mine").read("val").ledger.used == 1


def test_yolo_reads_where_its_yaml_says_and_lists_within_linked_folders(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / part).symlink_to(tmp_path / "disk" / part)
    image(tmp_path / "disk" / "images" / "a.png")
    write(tmp_path / "disk" / "labels" / "a.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "mine" / "train.txt", "./images/a.png\n")
    for place in ("train.txt", "images", str(tmp_path / "disk" / "images")):
        yaml = write(tmp_path / "mine" / "data.yaml", f"train: {place}\nnames: [cat]\n")
        assert open_data(yaml).read("train").ledger.used == 1
    elsewhere = write(tmp_path / "elsewhere" / "my.yaml", f"path: {tmp_path / 'disk'}\ntrain: images\nnames: [cat]\n")
    assert open_data(elsewhere).read("train").ledger.used == 1


def test_who_allows_it_reads_what_lies_outside(tmp_path: Path) -> None:
    secret = image(tmp_path / "private" / "images" / "s.png")
    write(tmp_path / "private" / "labels" / "s.txt", "0 0.5 0.5 0.1 0.1\n")
    coco(tmp_path / "coco" / "train.json", str(secret), "../private/images/../images/s.png")
    write(tmp_path / "yolo" / "train.txt", f"{secret}\n")
    write(tmp_path / "yolo" / "data.yaml", "train: train.txt\nnames: [cat]\n")
    write(
        tmp_path / "voc" / "Annotations" / "s.xml",
        f"<annotation><filename>{secret}</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>",
    )
    (tmp_path / "coco" / "images").mkdir()
    for form, used in (("coco", 2), ("yolo", 1), ("voc", 1)):
        with pytest.raises(InputError, match="lies outside of the data set's folder"):
            open_data(tmp_path / form).read("train")
        assert open_data(tmp_path / form, allow_outside=True).read("train").ledger.used == used


@pytest.mark.parametrize(
    "name", ["with spaces.png", "q'uo\"tes.png", "new\nline.png", "穂.png", "a" * 200 + ".png", b"caf\xe9.png"]
)
def test_any_name_a_file_system_allows_is_read(tmp_path: Path, name: str | bytes) -> None:
    text = os.fsdecode(name)
    try:
        image(tmp_path / "images" / text)
    except OSError:
        pytest.skip("this file system does not allow such a name")
    write(tmp_path / "labels" / (Path(text).stem + ".txt"), "0 0.5 0.5 0.1 0.1\n0 0.9 0.5 0.9 0.1\nx\n")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat]\n")
    split = open_data(tmp_path).read("train")
    assert (split.ledger.used, split.ledger.clipped, split.ledger.dropped) == (1, 1, 1)
    assert split.read_image(split.annotations[0]).shape == (*HW, 3)
    assert json.loads(json.dumps(split.ledger.to_json()))["found"] == 3
