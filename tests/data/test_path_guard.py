import json
import os
from pathlib import Path

import numpy as np
import pytest

from detector.data.open_data import open_data
from detector.data.path_guard import PathGuard
from detector.errors import LabelError
from detector.images import write_image
from detector.options import ReadOptions

HW = (40, 60)
INSIDE_ONLY = ReadOptions()


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


def test_any_path_inside_the_folder_is_allowed(tmp_path: Path) -> None:
    guard = PathGuard([tmp_path / "mine", tmp_path / "gone"], INSIDE_ONLY)  # no folder exists, so every path is allowed
    guard.check(Path("/etc/passwd"), tmp_path)
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    guard = PathGuard([tmp_path / "mine"], INSIDE_ONLY)
    for name in (
        "a.png",
        "deep/a.png",
        "deep/../a.png",
        "../mine/a.png",
        "deep/../../mine/deep/a.png",
        "a" * 300,
        "a\0",
    ):
        assert guard.allows(tmp_path / "mine" / name)
        guard.check(tmp_path / "mine" / name, tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "deep/../../a.png", "/etc/passwd", "..", "../mine2/a.png", "link.png"])
def test_a_path_outside_is_refused_with_file_and_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "link.png").symlink_to(write(tmp_path / "secret", ""))
    path = tmp_path / "mine" / name
    guard = PathGuard([tmp_path / "mine"], INSIDE_ONLY)
    assert not guard.allows(path)
    with pytest.raises(LabelError, match=r"list\.txt:3: .* is outside of .*mine.*--allow-outside"):
        guard.check(path, tmp_path / "list.txt", 3)
    assert PathGuard([tmp_path / "mine"], ReadOptions(allow_outside=True)).allows(path)


def test_a_link_to_itself_is_allowed(tmp_path: Path) -> None:
    """Opening such a link fails later with a better message."""
    (tmp_path / "loop.png").symlink_to("loop.png")
    PathGuard([tmp_path], INSIDE_ONLY).check(tmp_path / "loop.png", tmp_path)


def test_the_data_set_and_its_folders_may_be_links(tmp_path: Path) -> None:
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


def test_paths_in_a_yolo_yaml_may_be_anywhere(tmp_path: Path) -> None:
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


def test_allow_outside_reads_files_outside_of_the_folder(tmp_path: Path) -> None:
    secret = image(tmp_path / "private" / "images" / "s.png")
    image(tmp_path / "private" / "images" / "t.png")
    write(tmp_path / "private" / "labels" / "s.txt", "0 0.5 0.5 0.1 0.1\n")
    coco(tmp_path / "coco" / "train.json", str(secret), "../private/images/t.png")
    write(tmp_path / "yolo" / "train.txt", f"{secret}\n")
    write(tmp_path / "yolo" / "data.yaml", "train: train.txt\nnames: [cat]\n")
    write(
        tmp_path / "voc" / "Annotations" / "s.xml",
        f"<annotation><filename>{secret}</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>",
    )
    (tmp_path / "coco" / "images").mkdir()
    for name, used in (("coco", 2), ("yolo", 1), ("voc", 1)):
        with pytest.raises(LabelError, match="is outside of the dataset's folder"):
            open_data(tmp_path / name).read("train")
        assert open_data(tmp_path / name, allow_outside=True).read("train").ledger.used == used


@pytest.mark.parametrize(
    "name", ["with spaces.png", "q'uo\"tes.png", "new\nline.png", "穂.png", "a" * 200 + ".png", b"caf\xe9.png"]
)
def test_any_valid_file_name_is_read(tmp_path: Path, name: str | bytes) -> None:
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
