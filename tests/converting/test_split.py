import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.converting.split import split
from detector.data.open_data import open_data
from detector.data.training_splits import read_training_splits
from detector.errors import InputError
from detector.images import write_image

COUNT = 40


def write_images(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    paths = []
    for i in range(COUNT):
        cells = np.random.default_rng(i).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
        paths.append(folder / f"{i:02}.png")
        write_image(paths[-1], np.repeat(np.repeat(cells, 4, axis=0), 8, axis=1))
    return paths


def box(i: int) -> tuple[int, int, int, int]:
    return i, 4, i + 16, 20


def coco(folder: Path) -> Path:
    paths = write_images(folder / "images")
    images = [{"id": 7 * i, "file_name": path.name, "width": 64, "height": 32} for i, path in enumerate(paths)]
    rows = [
        {"id": i, "image_id": 7 * i, "category_id": 1 + i % 2, "bbox": [i, 4, 16, 16], "area": 256, "iscrowd": 0}
        for i in range(COUNT)
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    values = {"images": images, "annotations": rows, "categories": categories}
    (folder / "train.json").write_text(json.dumps(values))
    return folder


def yolo(folder: Path) -> Path:
    paths = write_images(folder / "images")
    (folder / "labels").mkdir()
    for i, path in enumerate(paths):
        x1, y1, x2, y2 = box(i)
        row = f"{i % 2} {(x1 + x2) / 128} {(y1 + y2) / 64} {(x2 - x1) / 64} {(y2 - y1) / 32}\n"
        (folder / "labels" / f"{path.stem}.txt").write_text(row)
    (folder / "data.yaml").write_text("train: images\nnames: [a, b]\n")
    return folder


def voc(folder: Path) -> Path:
    paths = write_images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for i, path in enumerate(paths):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box(i), strict=True)
        text = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
        (folder / "Annotations" / f"{path.stem}.xml").write_text(
            f"<annotation><filename>{path.name}</filename><size><width>64</width><height>32</height></size>"
            f"<object><name>{'ab'[i % 2]}</name><bndbox>{text}</bndbox></object></annotation>"
        )
    return folder


FORMATS = (coco, yolo, voc)


def boxes(annotations: tuple[Annotation, ...]) -> dict[str, list[list[float]]]:
    return {a.image_path.name: [*a.boxes.tolist(), a.class_ids.tolist()] for a in annotations}


@pytest.mark.parametrize("write", FORMATS)
def test_lists_divide_every_format_without_loss(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = write(tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    result = split(data, tmp_path / "new", test_fraction=0.2)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    whole = open_data(data).read("train")
    divided = open_data(result.description)
    assert divided.split_names == ("train", "val", "test")
    parts = [divided.read(name) for name in divided.split_names]
    assert {part.name: len(part.annotations) for part in parts} == result.counts
    assert boxes(tuple(a for part in parts for a in part.annotations)) == boxes(whole.annotations)
    assert sum(result.counts.values()) == COUNT
    assert sum(part.ledger.found for part in parts) == whole.ledger.found
    assert all(part.class_names == whole.class_names and part.category_ids == whole.category_ids for part in parts)
    assert min(result.counts.values()) >= 5


@pytest.mark.parametrize("write", FORMATS)
def test_val_list_is_what_train_holds_back(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    data = write(tmp_path / "data")
    result = split(data, tmp_path / "new", val_fraction=0.2)
    held_back = read_training_splits(open_data(data), None, 0.2).val
    assert held_back is not None
    assert boxes(open_data(tmp_path / "new").read("val").annotations) == boxes(held_back.annotations)
    assert open_data(result.description).split_names == ("train", "val")


def test_lists_still_work_after_both_folders_moved(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    split(coco(tmp_path / "old" / "data"), tmp_path / "old" / "new")
    (tmp_path / "old").rename(tmp_path / "moved")
    assert len(open_data(tmp_path / "moved" / "new").read("trainval").annotations) == COUNT


def test_divided_data_can_be_divided_again(tmp_path: Path) -> None:
    split(voc(tmp_path / "data"), tmp_path / "one", val_fraction=0, test_fraction=0.2)
    one, result = open_data(tmp_path / "one"), split(tmp_path / "one", tmp_path / "two")
    two = open_data(result.description)
    assert (one.split_names, two.split_names) == (("train", "test"), ("train", "test", "val"))
    assert boxes(one.read("test").annotations) == boxes(two.read("test").annotations)


def test_existing_val_split_stays_as_it_is(tmp_path: Path) -> None:
    data = yolo(tmp_path / "data")
    (data / "train.txt").write_text("".join(f"images/{i:02}.png\n" for i in range(30)))
    (data / "valid.txt").write_text("".join(f"images/{i:02}.png\n" for i in range(30, 40)))
    (data / "data.yaml").write_text("train: train.txt\nval: valid.txt\nnames: [a, b]\n")
    result = split(data, tmp_path / "new", test_fraction=0.2)
    assert result.counts["val"] == 10
    assert result.counts["train"] + result.counts["test"] == 30
    names = {a.image_path.name for a in open_data(result.description).read("val").annotations}
    assert names == {f"{i}.png" for i in range(30, 40)}


@pytest.mark.parametrize(
    ("line", "message"),
    [("missing.png\n", r"train.txt:\d+: missing.png is not an image"), ("images/00.png\n" * 2, "is listed twice")],
)
def test_wrong_line_of_a_list_is_named(tmp_path: Path, line: str, message: str) -> None:
    result = split(coco(tmp_path / "data"), tmp_path / "new")
    with (tmp_path / "new" / "train.txt").open("a") as file:
        file.write(line)
    with pytest.raises(InputError, match=message):
        open_data(result.description).read("train")


@pytest.mark.parametrize("lists", ["train.txt", "[a]", "{train: [a]}", "{val: a.txt, valid: b.txt}"])
def test_wrong_value_of_splits_is_refused(tmp_path: Path, lists: str) -> None:
    coco(tmp_path / "data")
    (tmp_path / "d.yaml").write_text(f"format: auto\npath: data\nsplits: {lists}\n")
    with pytest.raises(InputError, match="splits"):
        open_data(tmp_path / "d.yaml")


def test_description_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    for one, other in ("ab", "ba"):
        (tmp_path / f"{one}.yaml").write_text(f"format: auto\npath: {other}.yaml\nsplits: {{train: t.txt}}\n")
    with pytest.raises(InputError):
        open_data(tmp_path / "a.yaml")


def test_unusable_output_folder_is_refused(tmp_path: Path) -> None:
    data = coco(tmp_path / "data")
    with pytest.raises(InputError, match="the folder is not empty"):
        split(data, data)
    with pytest.raises(InputError, match="inside the dataset"):
        split(data, data / "new")
    with pytest.raises(InputError, match=r"must be from 0 to 0\.33, got 0\.5"):
        split(data, tmp_path / "new", val_fraction=0.5)
    with pytest.raises(InputError, match="not files"):
        split("scenes", tmp_path / "new")
    assert not (tmp_path / "new").exists()
