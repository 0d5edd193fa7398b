import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((40, 80, 3), np.uint8))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def coco(file_name: str = "a.png", **changes: Any) -> str:
    """Return a COCO file with one image and the box (20, 10, 60, 30) of a dog."""
    row = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [20, 10, 40, 20], "area": 800, "iscrowd": 0}
    images = [{"id": 1, "file_name": file_name, "width": 80, "height": 40}]
    return json.dumps({"images": images, "annotations": [row], "categories": CATEGORIES} | changes)


def voc(name: str = "dog", size: str = "<width>80</width><height>40</height>") -> str:
    box = "<bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60</xmax><ymax>30</ymax></bndbox>"
    return f"<annotation><size>{size}</size><object><name>{name}</name>{box}</object></annotation>"


@pytest.mark.parametrize(
    ("labels", "images", "split"),
    [
        ("result.json", "images", "train"),
        ("annotations/instances_default.json", "images", "train"),
        ("annotations/instances_default.json", "images/default", "train"),
        ("annotations/custom_train.json", "images/train", "train"),
        ("train.json", "train", "train"),
        ("train.json", "images/train", "train"),
        ("train/labels.json", "train/data", "train"),
        ("_annotations.coco.json", ".", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("export/set.json", "photos/deep/down", "train"),
    ],
)
def test_coco_files_of_any_name_are_recognized(tmp_path: Path, labels: str, images: str, split: str) -> None:
    image(tmp_path / images / "a.png")
    write(tmp_path / labels, coco())
    data_set = open_data(tmp_path)
    assert data_set.split_names == (split,)
    [annotation] = data_set.read(split).annotations
    assert annotation.boxes.tolist() == [[20, 10, 60, 30]]
    assert annotation.image_path == (tmp_path / images / "a.png")


def test_two_coco_files_of_one_split_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    for name in ("my_train.json", "train_set.json"):
        write(tmp_path / name, coco())
    with pytest.raises(LabelError, match=r"both .* contain the split train"):
        open_data(tmp_path)


def test_val_may_have_only_some_of_the_categories(tmp_path: Path) -> None:
    for stem in "ab":
        image(tmp_path / f"images/{stem}.png")
    write(tmp_path / "train.json", coco())
    write(tmp_path / "val.json", coco("b.png", categories=CATEGORIES[1:]))
    data_set = open_data(tmp_path)
    for name in ("val", "train"):
        split = data_set.read(name)
        assert split.class_names == ("cat", "dog")
        assert split.annotations[0].class_ids.tolist() == [1]


@pytest.mark.parametrize("changed", [[{"id": 2, "name": "cow"}], [{"id": 3, "name": "dog"}, *CATEGORIES[:1]]])
def test_categories_that_contradict_each_other_are_refused(tmp_path: Path, changed: list[Any]) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "train.json", coco())
    write(tmp_path / "val.json", coco(categories=changed))
    with pytest.raises(LabelError, match="the classes differ between splits"):
        open_data(tmp_path).read("train")


def test_an_unused_supercategory_is_not_a_class(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png")
    children = [category | {"supercategory": "pets"} for category in CATEGORIES]
    categories = [{"id": 0, "name": "pets", "supercategory": "none"}, *children]
    write(tmp_path / "train/_annotations.coco.json", coco(categories=categories))
    split = open_data(tmp_path).read("train")
    assert (split.class_names, split.category_ids) == (("cat", "dog"), (1, 2))
    assert split.annotations[0].class_ids.tolist() == [1]
    assert "category 0 (pets) has no object" in split.ledger.notes[0]
    # If another split uses it, it is a class in all splits.
    image(tmp_path / "valid/b.png")
    row = {"id": 1, "image_id": 1, "category_id": 0, "bbox": [20, 10, 40, 20]}
    write(tmp_path / "valid/_annotations.coco.json", coco("b.png", categories=categories, annotations=[row]))
    assert open_data(tmp_path).read("train").class_names == ("pets", "cat", "dog")


@pytest.mark.parametrize("convert", [float, str, lambda number: f"{number:06d}", lambda number: f"{number}.0"])
def test_numbers_written_as_text_or_as_floats_are_read(tmp_path: Path, convert: Any) -> None:
    image(tmp_path / "images/a.png")
    row = {"id": convert(1), "image_id": convert(1), "category_id": convert(2), "bbox": [20, 10.0, "40", "20.0"]}
    images = [{"id": convert(1), "file_name": "a.png", "width": convert(80), "height": convert(40)}]
    categories = [{"id": convert(category["id"]), "name": category["name"]} for category in CATEGORIES]
    write(tmp_path / "train.json", json.dumps({"images": images, "annotations": [row], "categories": categories}))
    split = open_data(tmp_path).read("train")
    assert split.annotations[0].boxes.tolist() == [[20, 10, 60, 30]]
    assert split.annotations[0].class_ids.tolist() == [1]
    assert split.ground_truth is None


def test_image_ids_that_are_names_are_numbered(tmp_path: Path) -> None:
    for stem in "ab":
        image(tmp_path / f"images/{stem}.png")
    images = [{"id": stem, "file_name": f"{stem}.png", "width": 80, "height": 40} for stem in "ba"]
    row = {"id": 1, "image_id": "a", "category_id": 2, "bbox": [20, 10, 40, 20]}
    write(tmp_path / "train.json", coco(images=images, annotations=[row]))
    split = open_data(tmp_path).read("train")
    assert [(a.image_path.name, len(a.boxes)) for a in split.annotations] == [("b.png", 0), ("a.png", 1)]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[20, 10, 60, 20, 30, 30]],
        [[20, 10, 30, 10, 30, 30], [50, 12, 60, 12, 60, 20]],
        # 20 columns of 40 background pixels and 10 more; then 40 columns with 20 pixels each.
        {"size": [40, 80], "counts": [810, *[20, 20] * 39, 20, 810]},
    ],
)
def test_masks_without_boxes_give_their_bounding_boxes(tmp_path: Path, segmentation: Any) -> None:
    image(tmp_path / "images/a.png")
    row = {"id": 1, "image_id": 1, "category_id": 2, "segmentation": segmentation}
    write(tmp_path / "train.json", coco(annotations=[row]))
    split = open_data(tmp_path).read("train")
    assert split.annotations[0].boxes.tolist() == [[20, 10, 60, 30]]
    assert split.ledger.notes == ("bounding boxes of masks are used for 1 annotation without bbox",)


@pytest.mark.parametrize(
    "segmentation",
    [None, [], "x", [[1, 2, 3]], [["a", "b"]], [[10**400, 1]], {}, {"size": [2], "counts": [4]},
     {"size": [2, 2], "counts": [5]}, {"size": [2, 2], "counts": [1, -1]}, {"size": [2, 2], "counts": "P"},
     {"size": [0, 2], "counts": [0]}, {"size": ["2", 2], "counts": [4]}],
)  # fmt: skip
def test_an_annotation_without_box_and_mask_is_dropped(tmp_path: Path, segmentation: Any) -> None:
    image(tmp_path / "images/a.png")
    row = {"id": 1, "image_id": 1, "category_id": 2, "segmentation": segmentation}
    write(tmp_path / "train.json", coco(annotations=[row]))
    [entry] = open_data(tmp_path).read("train").ledger.entries
    assert (entry.code, entry.reason) == ("malformed_row", "annotation 1: bbox is missing")


def test_fractions_and_corners_in_coco_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    rng = np.random.default_rng(0)
    corners = [[x, y, x + 35, y + 15] for x, y in rng.integers(5, 20, (20, 2)).tolist()]
    rows = [{"id": i, "image_id": 1, "category_id": 1, "bbox": bbox} for i, bbox in enumerate(corners)]
    write(tmp_path / "train.json", coco(annotations=rows))
    with pytest.raises(LabelError, match="look like corners"):
        open_data(tmp_path).read("train")
    rows = [row | {"bbox": [0.1, 0.2, 0.3, 0.4]} for row in rows]
    write(tmp_path / "train.json", coco(annotations=rows))
    with pytest.raises(LabelError, match="look like fractions of the image size"):
        open_data(tmp_path).read("train")


def test_only_one_of_two_names_can_be_the_same_file(tmp_path: Path) -> None:
    image(tmp_path / "images/day/1.png")
    images = [{"id": i, "file_name": f"{folder}/1.png"} for i, folder in enumerate(("night", "day"))]
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [20, 10, 40, 20]} for i in range(2)]
    write(tmp_path / "train.json", coco(images=images, annotations=rows))
    split = open_data(tmp_path).read("train")
    assert [a.image_id for a in split.annotations] == [1]
    [entry] = split.ledger.entries
    assert entry.code == "image_missing"


@pytest.mark.parametrize(
    ("labels", "images"),
    [("Annotations", "JPEGImages"), ("annots", "images"), ("annotations", "Images"), ("all", "all"), (".", ".")],
)
def test_voc_files_are_paired_with_images_anywhere(tmp_path: Path, labels: str, images: str) -> None:
    for stem in "ab":
        image(tmp_path / images / f"{stem}.png")
        write(tmp_path / labels / f"{stem}.xml", voc())
    split = open_data(tmp_path).read("train")
    assert [a.image_path.name for a in split.annotations] == ["a.png", "b.png"]
    assert split.annotations[0].boxes.tolist() == [[20, 10, 60, 30]]


def test_voc_splits_follow_from_folders(tmp_path: Path) -> None:
    for folder, name in (("train", "dog"), ("valid", "cat"), ("test", "dog")):
        image(tmp_path / folder / "a.png")
        write(tmp_path / folder / "a.xml", voc(name))
    data_set = open_data(tmp_path)
    assert data_set.description.endswith(": train, val, test (splits by label files and folders)")
    val = data_set.read("val")
    assert val.class_names == ("cat", "dog")
    assert [a.image_path.parent.name for a in val.annotations] == ["valid"]


def test_words_in_the_names_of_images_are_not_splits(tmp_path: Path) -> None:
    for stem in ("test_1", "val-2", "train 3"):
        image(tmp_path / f"{stem}.png")
        write(tmp_path / f"{stem}.xml", voc())
    data_set = open_data(tmp_path)
    assert data_set.split_names == ("train",)
    assert len(data_set.read("train").annotations) == 3


def test_images_in_another_folder_than_named_are_reported(tmp_path: Path) -> None:
    image(tmp_path / "csv/photos/a.png")
    rows = "filename,width,height,class,xmin,ymin,xmax,ymax\nC:\\set\\images\\a.png,80,40,dog,20,10,60,30\n"
    write(tmp_path / "csv/labels.csv", rows)
    write(tmp_path / "coco/train.json", coco("images/a.png"))
    image(tmp_path / "coco/photos/a.png")
    for folder, file in ((tmp_path / "csv", "labels.csv"), (tmp_path / "coco", "train.json")):
        [note] = open_data(folder / file).read("train").ledger.notes
        assert note.startswith("1 image found by the file name only, in another folder than the label file says")


def test_an_empty_file_of_another_format_is_not_chosen(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    write(tmp_path / "empty.json", json.dumps([{"image": "a.png", "annotations": []}]))
    write(tmp_path / "labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,80,40,dog,20,10,60,30\n")
    data_set = open_data(tmp_path)
    assert data_set.description.endswith(": train (not used: 1 CreateML JSON file in the same folder)")
    assert data_set.read("train").annotations[0].boxes.tolist() == [[20, 10, 60, 30]]


def test_one_label_file_per_image_names_no_split(tmp_path: Path) -> None:
    for stem in ("test_a", "train_b"):
        image(tmp_path / f"{stem}.png")
        box = {"label": "cat", "coordinates": {"x": 40, "y": 20, "width": 40, "height": 20}}
        write(tmp_path / f"{stem}.json", json.dumps([{"image": f"{stem}.png", "annotations": [box]}]))
    data_set = open_data(tmp_path)
    assert data_set.split_names == ("train",)
    assert len(data_set.read("train").annotations) == 2


def test_fractions_in_a_format_of_pixels_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    box = "<bndbox><xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.5</xmax><ymax>0.7</ymax></bndbox>"
    write(tmp_path / "a.xml", f"<annotation>{f'<object><name>cat</name>{box}</object>' * 3}</annotation>")
    with pytest.raises(LabelError, match=r"all 3 boxes \(Pascal VOC\) lie within 0\.\.1: they look like fractions"):
        open_data(tmp_path).read("train")


def test_a_damaged_xml_file_beside_others_is_reported(tmp_path: Path) -> None:
    for stem in "ab":
        image(tmp_path / f"{stem}.png")
        write(tmp_path / f"{stem}.xml", voc())
    write(tmp_path / "b.xml", "<annotation><object>")
    with pytest.raises(LabelError, match=r"b\.xml:1: not XML"):
        open_data(tmp_path).read("train")


@pytest.mark.parametrize("size", ["", "<width>0</width><height>0</height>", "<width>?</width><height>1</height>"])
def test_a_missing_size_in_voc_is_accepted(tmp_path: Path, size: str) -> None:
    image(tmp_path / "a.png")
    write(tmp_path / "a.xml", voc(size=size))
    assert open_data(tmp_path).read("train").ledger.used == 1


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_an_image_of_another_size_is_left_out_in_every_split(tmp_path: Path, kind: str, split: str) -> None:
    for stem in "ab":
        image(tmp_path / f"{split}/{stem}.png")
        if kind == "voc":
            write(tmp_path / f"{split}/{stem}.xml", voc())
    if kind == "coco":
        images = [{"id": i, "file_name": f"{stem}.png", "width": 80, "height": 40} for i, stem in enumerate("ab", 1)]
        write(tmp_path / f"{split}.json", coco(images=images))
    write_image(tmp_path / f"{split}/a.png", np.zeros((20, 40, 3), np.uint8))
    found = open_data(tmp_path).read(split)
    assert [a.image_path.name for a in found.annotations] == ["b.png"]
    [entry] = [entry for entry in found.ledger.entries if entry.code == "image_unusable"]
    assert "a.png has 40x20 pixels, but its label file says 80x40: the image was resized after labeling" in entry.reason


def test_labels_of_the_stored_image_name_the_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for stem in "ab":
        Image.new("RGB", (80, 40)).save(tmp_path / f"{stem}.jpg")
        write(tmp_path / f"{stem}.xml", voc())
    Image.new("RGB", (80, 40)).save(tmp_path / "a.jpg", exif=exif)
    [entry] = open_data(tmp_path).read("train").ledger.entries
    assert "has 40x80 pixels, but its label file says 80x40: it has the EXIF orientation 6" in entry.reason
    assert "the labels were made on the stored image" in entry.reason


def test_images_without_labels_are_not_used_and_reported(tmp_path: Path) -> None:
    for stem in "abc":
        image(tmp_path / f"{stem}.png")
    write(tmp_path / "a.xml", voc())
    split = open_data(tmp_path).read("train")
    assert len(split.annotations) == 1
    assert split.ledger.notes[0].startswith(f"not used: 2 images without labels, first: {tmp_path / 'b.png'}")


def test_a_folder_with_only_an_archive_names_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.txt", "")
    with pytest.raises(LabelError, match=r"set\.zip: is a zip archive, not a folder; unpack it"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("labels.tfrecord", "TFRecord files are not read: export"),
        ("labels.parquet", "Parquet files are not read"),
        ("notes.txt", "the label files may be .*notes.txt"),
        ("labels.json", "labels.json, which is not valid JSON"),
        ("b.png", "2 images, and no label file"),
    ],
)
def test_an_unknown_folder_is_described(tmp_path: Path, file: str, message: str) -> None:
    image(tmp_path / "a.png")
    write(tmp_path / file, "")
    with pytest.raises(LabelError, match=message):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("t.csv", "file,xmin,ymin,xmax,ymax,kind\n", "no column for the class; if it is `kind`, call it `class`"),
        ("t.csv", "xmin,ymin,xmax,ymax,class,photo\n", "no column for the image; if it is `photo`"),
        ("t.csv", "filename;class\n", "no columns for the box; call them `xmin`"),
        ("t.csv", "epoch,loss\n", "the first line is 'epoch,loss'"),
        ("a.txt", "0,0.5,0.5,0.5,0.5\n", "its rows are YOLO rows with commas; separate the numbers by spaces"),
        ("a.txt", "dog 0.5 0.5 0.5 0.5\n", "its rows begin with a class name, such as 'dog'"),
        ("a.txt", "0,-,e,.,1\n", "its rows are YOLO rows with commas"),
        ("gt.txt", "1,1,10,20,30,40,1,1,1\n", "the first line is '1,1,10,20,30,40,1,1,1'; a row of YOLO is"),
        ("a.txt", "", r"\(it is empty\)"),
        ("all.json", '{"images": [], "annotations": []}', "it has `images` and `annotations`; add `categories`"),
        (
            "all.json",
            '[{"name": "a.png", "labels": []}]',
            "it may be Scalabel JSON, but the first images have no label",
        ),
        ("a.json", '{"item": {}, "annotations": []}', "V7 Darwin JSON is not read: export"),
        ("project.json", '{"name": "x", "assets": {"1": {"name": "a.png"}}}', "an object with the keys assets, name"),
        ("all.json", '[{"photo": "a.png", "things": []}]', "a list of objects with the keys photo, things"),
        (
            "output.manifest",
            '{"source-ref": "s3://x/a.png"}',
            "no manifest of SageMaker Ground Truth for bounding boxes",
        ),
        ("all.jsonl", '{"image": "a.png", "text": "a cat"}', "JSON lines are only read as Hugging Face writes them"),
    ],
)
def test_the_message_says_what_an_unknown_file_lacks(tmp_path: Path, file: str, text: str, message: str) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "README.txt", "Hello")
    write(tmp_path / "labels" / file, text)
    with pytest.raises(LabelError, match=message):
        open_data(tmp_path)


@pytest.mark.parametrize("name", ["Annotation/dog/a", "Annotation/a"])
def test_voc_files_may_have_no_suffix(tmp_path: Path, name: str) -> None:
    image(tmp_path / "Images/dog/a.png")
    write(tmp_path / "LICENSE", "Free")
    write(tmp_path / name, voc())
    write(Path(tmp_path / name).parent / "README", "Hello")
    split = open_data(tmp_path).read("train")
    assert (len(split.annotations), split.ledger.used) == (1, 1)


def test_xml_of_an_app_is_no_damaged_label_file(tmp_path: Path) -> None:
    for name in ("images/a.png", "res/icon.png"):
        image(tmp_path / name)
    write(tmp_path / "images/a.xml", voc())
    write(tmp_path / "res-v24/icon.xml", "<vector/>")
    assert open_data(tmp_path).read("train").ledger.used == 1
    write(tmp_path / "images/icon.xml", "<vector/>")
    with pytest.raises(LabelError, match="the root element is <vector>"):
        open_data(tmp_path).read("train")


def test_text_files_with_class_names_are_read(tmp_path: Path) -> None:
    for name in ("train/Traffic light/a.png", "validation/Traffic light/a.png", "train/b.png"):
        image(tmp_path / name)
    write(tmp_path / "train/Traffic light/Label/a.txt", "Traffic light 20.0 10 60 30\ndog 1 2 3 4 difficult\n")
    write(
        tmp_path / "validation/Traffic light/Label/a.txt",
        "dog 1 2 30 20\ncat 1 2 3 x\ncat 2 1 2 3 4\n" + "dog 1 2 3 4\n" * 2,
    )
    write(tmp_path / "train/b.txt", "")
    data_set = open_data(tmp_path)
    train, val = data_set.read("train"), data_set.read("val")
    assert train.class_names == ("Traffic light", "dog")
    boxes = {a.image_path.name: (a.boxes.tolist(), a.is_crowd.tolist()) for a in train.annotations}
    assert boxes == {"a.png": ([[20, 10, 60, 30], [1, 2, 3, 4]], [False, True])}
    assert [a.boxes.tolist() for a in val.annotations] == [[[1, 2, 30, 20], [1, 2, 3, 4], [1, 2, 3, 4]]]
    assert [entry.code for entry in val.ledger.entries] == ["malformed_row"] * 2


def test_coco_images_may_have_another_suffix(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    write(tmp_path / "result.json", coco("a.png"))
    assert open_data(tmp_path).read("train").annotations[0].image_path.name == "a.jpg"
    image(tmp_path / "images/a.png")
    assert open_data(tmp_path).read("train").annotations[0].image_path.name == "a.png"


def test_class_name_files_may_be_in_upper_case(tmp_path: Path) -> None:
    image(tmp_path / "Images/a.png")
    write(tmp_path / "Labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "Classes.txt", "cat\n")
    assert open_data(tmp_path).read("train").class_names == ("cat",)


def test_other_label_files_in_the_folder_are_named(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "train.json", coco())
    write(tmp_path / "my_val.json", coco()[:-9])
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "boxes.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n")
    text = open_data(tmp_path).description
    assert "not used: my_val.json (not valid JSON), YOLO text files, 1 CSV table file in the same folder" in text


def test_a_file_of_another_encoding_beside_csv_is_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    text = "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n"
    write(tmp_path / "train.csv", text)
    (tmp_path / "val.csv").write_bytes(text.encode("utf-16"))
    assert "not used: val.csv in the same folder" in open_data(tmp_path).description


def test_coco_layouts_with_different_splits_are_joined(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"images/{name}.png")
    write(tmp_path / "annotations/instances_train.json", coco("a.png"))
    write(tmp_path / "test.json", coco("b.png"))
    assert open_data(tmp_path).split_names == ("train", "test")


def test_coco_file_of_unknown_split_beside_val_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "annotations/coco.json", coco())
    write(tmp_path / "annotations/coco_val.json", coco())
    with pytest.raises(LabelError, match=r"the split of .*coco\.json is unknown"):
        open_data(tmp_path)


def test_coco_files_of_the_same_name_are_different_splits(tmp_path: Path) -> None:
    for name in ("one", "two"):
        image(tmp_path / name / f"{name}.png")
        write(tmp_path / name / "labels.json", coco(f"{name}.png"))
    assert open_data(tmp_path).split_names == ("one", "two")


def test_a_stray_json_named_test_is_not_a_split(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "test.json", "{}")
    assert open_data(tmp_path).description.startswith("YOLO dataset")


def test_class_names_that_differ_in_case_are_noted(tmp_path: Path) -> None:
    for name in ("Cat", "cat"):
        image(tmp_path / f"{ord(name[0])}.png")
        write(tmp_path / f"{ord(name[0])}.xml", voc(name))
    assert "Cat, cat are different classes; if they are one class, give it one name" in (
        open_data(tmp_path).read("train").ledger.notes
    )


@pytest.mark.parametrize("is_link", [False, True])
def test_class_names_are_not_read_from_outside(tmp_path: Path, is_link: bool) -> None:
    image(tmp_path / "set/images/a.png")
    write(tmp_path / "set/labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    secret = write(tmp_path / "secret.txt", "password\n")
    if is_link:
        (tmp_path / "set/classes.txt").symlink_to(secret)
    else:
        write(tmp_path / "set/data.yaml", f"train: images\nnames: {secret}\n")
    with pytest.raises(LabelError, match=r"secret\.txt is outside|classes\.txt is outside"):
        open_data(tmp_path / "set")
    assert open_data(tmp_path / "set", allow_outside=True).read("train").class_names == ("password",)
