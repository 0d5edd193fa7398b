"""Tests that every example in docs/data.md is read as the page says; the expected boxes are written by hand."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from detector.cli.parser import make_parser
from detector.data.formats.named_formats import NAMED_FORMATS
from detector.data.open_data import open_data
from detector.data.split import Split, split_in
from detector.errors import LabelError
from detector.images import IMAGE_SUFFIXES, write_image
from detector.optional_formats import AVIF_SUFFIXES, HEIC_SUFFIXES

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
LISTING = re.compile(r"\n*```text\n((?:[\w./-]+(?: +(?:\d+ x \d+ pixels|empty))?\n)+)```\n")
CONTENT = re.compile(r"^`([\w./-]+)`:\n\n```[a-z]+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Objects = list[tuple[str, float, float, float, float]]
"""Class name, x1, y1, x2, y2 of each object of an image."""

DOG = ("dog", 100, 120, 300, 200)
CAT = ("cat", 320, 240, 480, 360)


class Example(NamedTuple):
    """An example in the page: path → (width, height) of each image, and path → text of each other file."""

    images: dict[str, tuple[int, int]]
    files: dict[str, str]


class Expected(NamedTuple):
    """What must be read: the beginning of the description, split → image → objects, and a file to pass alone."""

    format: str
    splits: dict[str, dict[str, Objects]]
    classes: tuple[str, ...] = ("cat", "dog")
    file: str = ""


EXPECTED: Mapping[str, Expected] = {
    "COCO JSON": Expected(
        "COCO JSON folder",
        {"train": {"train2017/a.jpg": [DOG]}, "val": {"val2017/b.jpg": []}},
        file="annotations/instances_train2017.json",
    ),
    "YOLO with data.yaml": Expected(
        "YOLO dataset",
        {"train": {"train/images/a.jpg": [DOG, CAT]}, "val": {"valid/images/b.jpg": []}},
        file="data.yaml",
    ),
    "YOLO without data.yaml": Expected(
        "YOLO dataset",
        {"train": {"images/train/a.jpg": [DOG]}, "val": {"images/val/b.jpg": [("cat", 160, 120, 480, 360)]}},
    ),
    "darknet": Expected("YOLO dataset", {"train": {"obj_train_data/a.jpg": [DOG]}}, file="obj.data"),
    "Keras YOLO text": Expected(
        "Keras YOLO text folder",
        {"train": {"train/a.jpg": [DOG, CAT], "train/b.jpg": []}},
        file="train/_annotations.txt",
    ),
    "Pascal VOC": Expected("Pascal VOC folder", {"val": {"JPEGImages/a.jpg": [DOG]}}, ("dog",)),
    "CSV": Expected(
        "CSV table folder",
        {
            "train": {"images/a.jpg": [DOG, CAT], "images/b.jpg": []},
            "test": {"images/c.jpg": [("dog", 10, 20, 50, 60)]},
        },
        file="train_labels.csv",
    ),
    "CSV without header": Expected(
        "CSV table folder",
        {"train": {"train/a.jpg": [DOG], "train/b.jpg": []}},
        ("dog",),
        file="train/_annotations.csv",
    ),
    "CreateML": Expected(
        "CreateML JSON folder",
        {"train": {"train/a.jpg": [DOG], "train/b.jpg": []}},
        ("dog",),
        file="train/_annotations.createml.json",
    ),
    "VIA": Expected(
        "VIA JSON folder",
        {"train": {"train/a.jpg": [DOG]}, "val": {"val/b.jpg": [("dog", 10, 20, 50, 60)]}},
        ("dog",),
        file="train/via_region_data.json",
    ),
    "VIA as CSV": Expected(
        "VIA CSV folder",
        {"train": {"train/a.jpg": [DOG], "train/b.jpg": []}},
        ("dog",),
        file="train/via_region_data.csv",
    ),
    "LabelMe": Expected("LabelMe JSON folder", {"train": {"train/a.jpg": [DOG, ("cat", 360, 260, 440, 340)]}}),
    "CVAT": Expected(
        "CVAT XML folder",
        {"train": {"images/a.jpg": [DOG]}, "val": {"images/b.jpg": [("cat", 10, 20, 50, 60)]}},
        file="annotations.xml",
    ),
    "Label Studio": Expected(
        "Label Studio JSON folder",
        {"train": {"images/a.jpg": [("dog", 100, 120, 300, 240)]}},
        ("dog",),
        file="project-1.json",
    ),
    "Supervisely": Expected("Supervisely JSON folder", {"train": {"train/img/a.jpg": [DOG]}}, ("dog",)),
    "KITTI": Expected(
        "KITTI text folder",
        {"train": {"training/image_2/000001.png": [("Car", 100, 120, 300, 200), ("Car crowd", 320, 240, 480, 360)]}},
        ("Car",),
    ),
    "Class name text": Expected(
        "class name text folder",
        {"train": {"train/a.jpg": [DOG, ("cat crowd", 320, 240, 480, 360)]}},
    ),
    "OpenImages": Expected(
        "Open Images CSV folder",
        {"train": {"train/000a1249af2bc5f0.jpg": [("Dog", 100, 120, 300, 240)]}},
        ("Dog",),
        file="train-annotations-bbox.csv",
    ),
    "Datumaro": Expected(
        "Datumaro JSON folder",
        {"train": {"images/train/a.jpg": [DOG]}},
        ("dog",),
        file="annotations/train.json",
    ),
    "VoTT": Expected(
        "VoTT JSON folder",
        {"train": {"vott-json-export/a.jpg": [DOG], "vott-json-export/b.jpg": []}},
        ("dog",),
        file="vott-json-export/mine-export.json",
    ),
    "Scalabel": Expected(
        "Scalabel JSON folder",
        {"train": {"images/100k/train/a.jpg": [DOG, ("cat crowd", 320, 240, 480, 360)]}},
        file="labels/det_train.json",
    ),
    "SuperAnnotate": Expected("SuperAnnotate JSON folder", {"train": {"images/a.jpg": [DOG, ("cat", 10, 20, 50, 60)]}}),
    "VisDrone": Expected(
        "VisDrone text folder",
        {
            "train": {
                "VisDrone2019-DET-train/images/a.jpg": [("car", 100, 120, 300, 200), ("car crowd", 320, 240, 480, 360)]
            }
        },
        ("car",),
    ),
    "DOTA": Expected(
        "DOTA text folder", {"train": {"train/images/P0001.png": [DOG, ("cat crowd", 320, 240, 480, 360)]}}
    ),
    "MOTChallenge": Expected(
        "MOT text folder",
        {
            "train": {
                "train/MOT17-02/img1/000001.jpg": [
                    ("pedestrian", 100, 120, 300, 200),
                    ("pedestrian crowd", 320, 240, 480, 360),
                ]
            }
        },
        ("pedestrian",),
    ),
    "Hugging Face imagefolder": Expected(
        "Hugging Face JSON lines folder",
        {"train": {"train/a.jpg": [DOG, CAT], "train/b.jpg": []}, "val": {"validation/c.jpg": [DOG]}},
        file="train/metadata.jsonl",
    ),
    "Hugging Face imagefolder as CSV": Expected(
        "Hugging Face CSV folder", {"train": {"data/a.jpg": [DOG]}}, ("dog",), file="data/metadata.csv"
    ),
    "SageMaker": Expected(
        "SageMaker manifest folder",
        {"train": {"images/a.jpg": [DOG], "images/b.jpg": []}},
        ("dog",),
    ),
    "Descriptions": Expected(
        "Pascal VOC folder",
        {"train": {"voc/JPEGImages/a.jpg": [("cat", 100, 120, 300, 200)]}},
        ("dog", "cat"),
        file="mine.yaml",
    ),
}
"""Heading of an example → what must be read."""

TITLES = {
    "Pascal VOC": "Pascal VOC",
    "CreateML JSON": "CreateML",
    "VIA JSON": "VIA JSON",
    "Supervisely JSON": "Supervisely",
    "LabelMe JSON": "LabelMe",
    "Label Studio JSON": "Label Studio",
    "Datumaro JSON": "Datumaro",
    "VoTT JSON": "VoTT",
    "VoTT asset JSON": "VoTT asset",
    "Scalabel JSON": "Scalabel",
    "SuperAnnotate JSON": "SuperAnnotate",
    "Hugging Face JSON lines": "Hugging Face",
    "SageMaker manifest": "SageMaker",
    "CVAT XML": "CVAT",
    "VIA CSV": "VIA CSV",
    "Open Images CSV": "OpenImages",
    "Hugging Face CSV": "Hugging Face CSV",
    "CSV table": "CSV",
    "KITTI text": "KITTI",
    "VisDrone text": "VisDrone",
    "DOTA text": "DOTA",
    "MOT text": "MOT",
    "class name text": "class name text",
    "Keras YOLO text": "Keras YOLO text",
}
"""Name of a format in the package → its name in the page."""


def sections() -> dict[str, str]:
    """Return heading → text of the page up to the next heading."""
    parts = re.split(r"^##+ (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def read_example(text: str) -> Example | None:
    """Return the example of a section, or None if the section does not begin with a list of files or a sentence."""
    match = LISTING.search(text)
    if match is None:
        return None
    images, files = {}, {}
    for line in match[1].splitlines():
        path, *rest = line.split()
        if Path(path).suffix in IMAGE_SUFFIXES:
            images[path] = (int(rest[0]), int(rest[2]))
        else:
            files[path] = "" if rest == ["empty"] else None
    contents = dict(CONTENT.findall(text))
    assert {path for path, content in files.items() if content is None} == set(contents), "a file without contents"
    return Example(images, {path: contents.get(path, "") for path in files})


EXAMPLES = {heading: example for heading, text in sections().items() if (example := read_example(text))}


def write_example(example: Example, folder: Path) -> None:
    """Write the files and images of an example into a new folder."""
    for path, text in example.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    for path, (width, height) in example.images.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / path, np.zeros((height, width, 3), np.uint8))


def check_split(split: Split, expected: Mapping[str, Objects], folder: Path) -> None:
    """Assert that a split has exactly the expected images and objects, and that no row was clipped or dropped."""
    assert not split.ledger.entries
    assert not split.ledger.missing
    assert {a.image_path.relative_to(folder).as_posix() for a in split.annotations} == set(expected)
    for annotation in split.annotations:
        objects = expected[annotation.image_path.relative_to(folder).as_posix()]
        names = [
            split.class_names[i] + (" crowd" if is_crowd else "")
            for i, is_crowd in zip(annotation.class_ids, annotation.is_crowd, strict=True)
        ]
        assert names == [name for name, *_ in objects]
        np.testing.assert_allclose(annotation.boxes, np.array([box for _, *box in objects]).reshape(-1, 4), atol=0.01)


def test_every_format_of_the_page_has_an_example() -> None:
    assert set(EXAMPLES) == set(EXPECTED)


@pytest.mark.parametrize("heading", sorted(EXPECTED))
def test_example_is_read_as_the_page_says(heading: str, tmp_path: Path) -> None:
    expected = EXPECTED[heading]
    write_example(EXAMPLES[heading], tmp_path)
    data = open_data(tmp_path)
    assert data.description.startswith(expected.format)
    assert data.split_names == tuple(expected.splits)
    for name, images in expected.splits.items():
        split = data.read(name)
        assert split.class_names == expected.classes
        check_split(split, images, tmp_path)


@pytest.mark.parametrize("heading", sorted(heading for heading, expected in EXPECTED.items() if expected.file))
def test_one_file_of_an_example_can_be_passed(heading: str, tmp_path: Path) -> None:
    expected = EXPECTED[heading]
    write_example(EXAMPLES[heading], tmp_path)
    data = open_data(tmp_path / expected.file)
    assert data.split_names[0] == next(iter(expected.splits))
    check_split(data.read(data.split_names[0]), expected.splits[data.split_names[0]], tmp_path)


@pytest.mark.parametrize("heading", ["COCO JSON", "Pascal VOC", "CVAT"])
def test_another_image_size_makes_an_example_unusable(heading: str, tmp_path: Path) -> None:
    example = EXAMPLES[heading]
    turned = {path: (height, width) for path, (width, height) in example.images.items()}
    write_example(example._replace(images=turned), tmp_path)
    data = open_data(tmp_path)
    with pytest.raises(LabelError, match="rotated"):
        data.read(data.split_names[0])


def test_page_lists_all_suffixes_of_images() -> None:
    text = sections()["How image files are found"]
    assert set(re.findall(r"`(\.[a-z0-9]+)`", text)) == IMAGE_SUFFIXES | HEIC_SUFFIXES | AVIF_SUFFIXES


def test_table_links_to_every_example() -> None:
    table = sections()["Find your format"]
    headings = [heading for heading in EXAMPLES if f"\n## {heading}\n" in PAGE.read_text(encoding="utf-8")]
    anchors = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\((#[\w-]+)\) \|", table)) == anchors


def test_page_has_the_order_in_which_formats_are_searched() -> None:
    text = " ".join(sections()["Find your format"].split())
    order = text.partition("in this order is used: ")[2].partition(". ")[0].split(", ")
    assert [name for name in order if name in TITLES.values()] == [TITLES[f.name] for f in NAMED_FORMATS]


def test_help_of_data_names_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["train", "--help"])
    assert "docs/data.md" in capsys.readouterr().out


def test_csv_columns_of_the_page_are_accepted(tmp_path: Path) -> None:
    rows = dict(re.findall(r"^\| ([a-z: ()]+) \| (.+) \|$", sections()["CSV"], re.MULTILINE))
    names = {meaning: re.findall(r"`(\w+)`", text) for meaning, text in rows.items()}
    write_example(Example({"a.jpg": (640, 480)}, {}), tmp_path)
    tables = [(image, "class", "xmin,ymin,xmax,ymax") for image in names["image"]]
    tables += [("image", name, "xmin,ymin,xmax,ymax") for name in names["class"]]
    tables += [("image", "class", box) for box in ("x1,y1,x2,y2", "left,top,right,bottom", "x_min,y_min,x_max,y_max")]
    assert set(",".join(box for *_, box in tables).split(",")) - {"y_min", "x_max", "y_max"} <= set(names["corners"])
    for image, class_name, box in tables:
        (tmp_path / "labels.csv").write_text(f"{class_name},{image},{box}\ndog,a.jpg,100,120,300,200\n")
        check_split(open_data(tmp_path).read("train"), {"a.jpg": [DOG]}, tmp_path)
    for box in ("bbox_x,bbox_y,bbox_width,bbox_height", "bbox_left,bbox_top,bbox_w,bbox_h"):
        assert set(box.split(",")) <= set(names["or: corner and size"])
        (tmp_path / "labels.csv").write_text(f"class,image,{box}\ndog,a.jpg,100,120,200,80\n")
        check_split(open_data(tmp_path).read("train"), {"a.jpg": [DOG]}, tmp_path)


ROW = "0 0.5 0.5 0.25 0.25\n"
HEADER = "filename,class,xmin,ymin,xmax,ymax\n"


def test_note_about_unnamed_classes_is_the_one_on_the_page(tmp_path: Path) -> None:
    images = {"images/train/a.jpg": (640, 480), "images/val/b.jpg": (640, 480)}
    labels = {"labels/train/a.txt": ROW, "labels/val/b.txt": ROW.replace("0 ", "2 ", 1)}
    write_example(Example(images, labels), tmp_path)
    [note] = open_data(tmp_path).read("train").ledger.notes
    assert f"```text\n{note.replace(str(tmp_path), 'my_images')}\n```" in sections()["Class names"]


@pytest.mark.parametrize("name", ["a\u0308.jpg", "\u00c4.JPG", r"C:\photos\images\ä.jpg", "/content/images/ä.jpg", "ä"])
def test_image_is_found_by_the_end_of_its_path(name: str, tmp_path: Path) -> None:
    images = {"images/ä.jpg": (640, 480), ".hidden/ä.jpg": (64, 48), "__MACOSX/images/ä.jpg": (64, 48)}
    write_example(Example(images, {"labels.csv": f"{HEADER}{name},dog,100,120,300,200\n"}), tmp_path)
    check_split(open_data(tmp_path).read("train"), {"images/ä.jpg": [DOG]}, tmp_path)


def test_image_of_another_split_is_not_used(tmp_path: Path) -> None:
    images = {"train/a.jpg": (640, 480), "val/b.jpg": (640, 480)}
    rows = f"{HEADER}a.jpg,dog,100,120,300,200\nb.jpg,dog,100,120,300,200\n"
    write_example(Example(images, {"val.csv": rows}), tmp_path)
    val = open_data(tmp_path).read("val")
    assert [annotation.image_path.name for annotation in val.annotations] == ["b.jpg"]
    assert [entry.code for entry in val.ledger.entries] == ["image_missing"]


def test_two_images_that_fit_equally_well_are_refused(tmp_path: Path) -> None:
    images = {"x/a.jpg": (640, 480), "y/a.jpg": (640, 480)}
    write_example(Example(images, {"labels.csv": f"{HEADER}a.jpg,dog,100,120,300,200\n"}), tmp_path)
    with pytest.raises(LabelError, match="write the folder of the image"):
        open_data(tmp_path).read("train")


def test_every_split_word_of_the_page_is_a_split() -> None:
    text = sections()["Splits"].partition(". A word")[2]
    before, _, after = text.partition("Words end")
    words = re.findall(r"`(\w+)`", before)
    assert len(words) == 8
    assert {split_in(word.upper()) for word in words} == {"train", "val", "test"}
    named = {name: split_in(name) for name in re.findall(r"`([\w-]+)`", after.partition("The name of")[0])}
    assert named == {"my-train-set": "train", "labels_val": "val", "trains": None, "train_val": None}
