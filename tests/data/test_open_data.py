import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data.near_duplicates import read_thumbnails
from detector.data.open_data import open_data
from detector.errors import ConfigError, FileError, LabelError
from detector.images import write_image

HW = (48, 64)
NAMES = ("bird", "cat")
Row = tuple[int, int, int, int, int]
Images = dict[str, list[Row]]
IMAGES: Images = {"a": [(0, 3, 4, 20, 30)], "b": []}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((*HW, 3), np.uint8))


def write_coco(file: Path, image_folder: Path, images: Images = IMAGES, first_id: int = 1) -> None:
    data: dict[str, Any] = {"categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]}
    data |= {"images": [], "annotations": []}
    for image_id, (stem, rows) in enumerate(images.items(), start=first_id):
        image(image_folder / f"{stem}.png")
        data["images"].append({"id": image_id, "file_name": f"{stem}.png", "height": HW[0], "width": HW[1]})
        for class_id, x1, y1, x2, y2 in rows:
            annotation = {"image_id": image_id, "category_id": class_id + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            data["annotations"].append(annotation | {"id": len(data["annotations"]) + 1})
    write(file, json.dumps(data))


def write_yolo(folder: Path, images: Images) -> None:
    h, w = HW
    for stem, rows in images.items():
        image(folder / f"images/{stem}.png")
        text = [
            f"{c} {(x1 + x2) / 2 / w} {(y1 + y2) / 2 / h} {(x2 - x1) / w} {(y2 - y1) / h}\n"
            for c, x1, y1, x2, y2 in rows
        ]
        write(folder / f"labels/{stem}.txt", "".join(text))
    write(folder / "data.yaml", "train: images\nnames:\n  0: bird\n  1: cat\n")


def write_voc(folder: Path, images: Images) -> None:
    for stem, rows in images.items():
        image(folder / f"JPEGImages/{stem}.png")
        objects = [
            f"<object><name>{NAMES[c]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for c, x1, y1, x2, y2 in rows
        ]
        write(folder / f"Annotations/{stem}.xml", f"<annotation>{''.join(objects)}</annotation>")


def row(class_id: int, x: int, y: int, width: int, height: int) -> Row:
    return class_id, x, y, x + width, y + height


rows = st.builds(row, st.integers(0, 1), st.integers(0, 30), st.integers(0, 20), st.integers(1, 30), st.integers(1, 20))
EVERY_CLASS: list[Row] = [(0, 0, 0, 5, 5), (1, 0, 0, 64, 48)]  # the classes of a VOC folder are those of its objects


@settings(max_examples=10)
@given(st.lists(rows, max_size=4))
def test_all_formats_read_the_same_boxes(tmp_path_factory: pytest.TempPathFactory, found: list[Row]) -> None:
    images = {"a": EVERY_CLASS, "b": found}
    folders = [tmp_path_factory.mktemp(name) for name in ("coco", "yolo", "voc")]
    write_coco(folders[0] / "train.json", folders[0] / "images", images)
    write_yolo(folders[1], images)
    write_voc(folders[2], images)
    splits = [open_data(folder).read("train") for folder in folders]
    for split in splits:
        assert split.class_names == NAMES
        assert split.ledger.used == split.ledger.found == 2 + len(found)
        for annotation, expected in zip(split.annotations, images.values(), strict=True):
            assert annotation.image_hw == HW
            assert annotation.class_ids.tolist() == [row[0] for row in expected]
            np.testing.assert_allclose(annotation.boxes, np.reshape([row[1:] for row in expected], (-1, 4)), atol=1e-4)


def test_three_layouts_of_coco_folders_are_recognized(tmp_path: Path) -> None:
    write_coco(tmp_path / "plain/train.json", tmp_path / "plain/images")
    write_coco(tmp_path / "plain/val.json", tmp_path / "plain/images")
    write_coco(tmp_path / "standard/annotations/instances_train2017.json", tmp_path / "standard/train2017")
    write_coco(tmp_path / "standard/annotations/instances_val2017.json", tmp_path / "standard/val2017")
    write_coco(tmp_path / "export/train/_annotations.coco.json", tmp_path / "export/train")
    write_coco(tmp_path / "export/valid/_annotations.coco.json", tmp_path / "export/valid")
    for name in ("plain", "standard", "export"):
        data_set = open_data(tmp_path / name)
        assert data_set.description == f"COCO JSON folder {name}: train, val"
        assert data_set.split_names == ("train", "val")
        assert data_set.read("val").ledger.used == 1
        assert data_set.read("valid").name == "val"


@pytest.mark.parametrize(
    ("file", "images", "name"),
    [
        ("val.json", "images", "val"),
        ("mine.json", ".", "train"),
        ("annotations/instances_val2017.json", "val2017", "val"),
    ],
)
def test_a_single_coco_file_is_one_split(tmp_path: Path, file: str, images: str, name: str) -> None:
    write_coco(tmp_path / file, tmp_path / images)
    data_set = open_data(tmp_path / file)
    assert data_set.split_names == (name,)
    assert len(data_set.read(name).annotations) == 2


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for year in (2014, 2017):
        write_coco(tmp_path / f"annotations/instances_train{year}.json", tmp_path / f"train{year}")
    with pytest.raises(LabelError, match=r"both .*train2014\.json and .*train2017\.json contain the split train"):
        open_data(tmp_path)


def test_yolo_and_voc_folders_are_recognized(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", IMAGES)
    write_voc(tmp_path / "voc", IMAGES)
    assert open_data(tmp_path / "yolo").description == "YOLO dataset yolo: train"
    assert open_data(str(tmp_path / "voc")).description == "Pascal VOC folder voc: train"


def test_built_in_scenes_open_by_name_and_by_description(tmp_path: Path) -> None:
    by_name = open_data("scenes")
    by_file = open_data(write(tmp_path / "mine.yaml", "format: scenes\n"))
    assert by_name.split_names == by_file.split_names == ("train", "val", "test")
    both = by_name.read("trainval")
    val = by_name.read("val")
    last = both.annotations[-1]
    np.testing.assert_array_equal(both.read_image(last), val.read_image(val.annotations[-1]))


@pytest.mark.parametrize("name", ["nothing", ".", "notes.txt"])
def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    write(tmp_path / "notes.txt", "")
    with pytest.raises(
        FileError if name == "nothing" else LabelError, match=r"read are COCO JSON, YOLO, .*see docs/data.md"
    ):
        open_data(tmp_path / name)


def test_an_unknown_split_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    write_coco(tmp_path / "train.json", tmp_path / "images")
    data_set = open_data(tmp_path)
    for name, hint in (
        ("trian", "; did you mean 'train'"),
        ("test", "; known: train"),
        ("trainval", ": it is train and val together, and the dataset has only train; to train on all images of"),
    ):
        with pytest.raises(LabelError, match=rf"no split '{name}' in this dataset \(COCO.*\){hint}"):
            data_set.read(name)


@pytest.mark.parametrize(("first_id", "ids"), [(3, [1, 2, 3, 4]), (1, [1, 2, 3, 4]), (2, [1, 2, 3, 4])])
def test_trainval_is_train_and_val_with_unique_ids(tmp_path: Path, first_id: int, ids: list[int]) -> None:
    write_coco(tmp_path / "train.json", tmp_path / "images")
    write_coco(tmp_path / "val.json", tmp_path / "images", {"c": [(1, 1, 1, 99, 9)], "d": []}, first_id)
    both = open_data(tmp_path).read("trainval")
    assert [annotation.image_id for annotation in both.annotations] == ids
    assert [annotation.image_path.stem for annotation in both.annotations] == ["a", "b", "c", "d"]
    assert (both.name, both.ledger.used, both.ledger.clipped, both.ledger.background) == ("trainval", 1, 1, 2)
    assert both.ground_truth is None
    assert both.from_files
    read_image = pickle.loads(
        pickle.dumps(both.read_image)
    )  # data loaders pass the function to worker processes by pickling
    assert read_image(both.annotations[3]).shape == (*HW, 3)


def test_splits_with_different_classes_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "train.json", tmp_path / "images")
    write_coco(tmp_path / "val.json", tmp_path / "images")
    write(tmp_path / "val.json", (tmp_path / "val.json").read_text().replace('"cat"', '"cow"'))
    data_set = open_data(tmp_path)
    with pytest.raises(LabelError, match=r"only in train\.json: \['2 cat'\]; only in .*val\.json: \['2 cow'\]"):
        data_set.read("train")


def test_a_description_can_point_to_any_format(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco/train.json", tmp_path / "coco/images")
    write_yolo(tmp_path / "yolo", IMAGES)
    write_voc(tmp_path / "voc", IMAGES)
    for name, more in (("coco", ""), ("yolo", ""), ("voc", "names: [cat, bird]\n")):
        text = (
            f"format: {name}\npath: {name}\nlicense: MIT\nsource: here\nexpected: {{train: {{images: 2, boxes: 1}}}}\n"
        )
        split = open_data(write(tmp_path / f"{name}.yaml", text + more)).read("train")
        assert split.ledger.used == 1
        assert split.class_names == (("cat", "bird") if name == "voc" else NAMES)


@pytest.mark.parametrize("count", ["images: 3", "boxes: 2"])
def test_a_copy_with_unexpected_counts_is_refused(tmp_path: Path, count: str) -> None:
    write_coco(tmp_path / "mine/train.json", tmp_path / "mine/images")
    data_set = open_data(write(tmp_path / "mine.yaml", f"format: coco\npath: mine\nexpected: {{train: {{{count}}}}}\n"))
    with pytest.raises(
        LabelError, match=r"train has \d \w+, expected \d: the copy is incomplete or a different version"
    ):
        data_set.read("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: cooc\npath: .\n", "unknown format 'cooc'; did you mean 'coco'"),
        ("format: coco\npath: .\nexpcted: 3\n", "unknown key 'expcted'; did you mean 'expected'"),
        ("format: coco\n", "`path` must be the folder or file of the data"),
        (
            "format: coco\npath: gone\nsource: https://a.b\n",
            r"`path` is .*gone, which does not exist; get the data from https://a\.b",
        ),
        ("format: coco\npath: empty\n", "not a dataset in a known format: the folder is empty"),
        ("format: yolo\npath: empty\n", "not a dataset in a known format: the folder is empty"),
        ("format: coco\npath: empty\nnames: [a]\n", "`names` must be a list"),
        ("format: scenes\nexpected: {train: 5}\n", "`expected` must look like"),
        ("format: scenes\nexpected: {train: {images: many}}\n", "`expected` must look like"),
        ("format: scenes\nexpected: {tarin: {images: 5}}\n", "`expected` must look like"),
    ],
)
def test_an_invalid_description_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileError, LabelError), match=message) as caught:
        open_data(write(tmp_path / "mine.yaml", text))
    assert "mine.yaml" in str(caught.value) or "empty" in str(caught.value)


def test_the_descriptions_in_datasets_are_valid(tmp_path: Path) -> None:
    shipped = sorted((Path(__file__).parents[2] / "datasets").glob("*.yaml"))
    assert [path.stem for path in shipped] == ["bccd", "carla", "fod31", "scenes"]
    for path in shipped:
        copy = write(tmp_path / path.name, path.read_text())
        if path.stem == "scenes":
            assert open_data(copy).split_names == ("train", "val", "test")
        else:
            with pytest.raises(
                FileError, match=rf"`path` is .*{path.stem}, which does not exist; get the data from https://"
            ):
                open_data(copy)
            write_coco(tmp_path / path.stem / "train.json", tmp_path / path.stem / "images")
            with pytest.raises(LabelError, match=r"train has 2 images, expected \d+"):
                open_data(copy).read("train")


def test_images_with_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco" / "train.json", tmp_path / "coco" / "images")
    write_coco(tmp_path / "coco" / "val.json", tmp_path / "coco" / "images", first_id=5)
    write_yolo(tmp_path / "yolo", IMAGES)
    write_voc(tmp_path / "voc", IMAGES)
    pixels = HW[0] * HW[1]
    for name, split_name in (("coco", "train"), ("coco", "trainval"), ("yolo", "train"), ("voc", "train")):
        split = open_data(tmp_path / name, max_pixels=pixels).read(split_name)
        assert split.read_image(split.annotations[0]).shape == (*HW, 3)
        assert read_thumbnails([split])[0].unreadable == ()
    for name in ("coco", "yolo", "voc"):
        with pytest.raises(LabelError, match="none of the 2 images can be used; the first: "):
            open_data(tmp_path / name, max_pixels=pixels - 1).read("train")


def test_max_pixels_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_pixels"):
        open_data("scenes", max_pixels=0)
