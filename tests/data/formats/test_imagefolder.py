import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.formats import imagefolder_csv
from detector.data.formats.imagefolder import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image

CARD = """---
license: mit
dataset_info:
  config_name: default
  features:
  - name: label
    dtype:
      class_label:
        names: [day, night]
  - name: objects
    struct:
    - name: {key}
      sequence:
        class_label:
          names:
            '0': cat
            '1': dog
---
# A dataset
"""


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((40, 80, 3), np.uint8))


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def row(name: str = "a.png", **objects: Any) -> dict[str, Any]:
    return {"file_name": name, "objects": objects or {"bbox": [[1, 2, 3, 4]], "categories": [1]}}


def read(folder: Path, *lines: Any) -> list[ImageLabels]:
    return list(FORMAT.read(write(folder / "metadata.jsonl", *lines)))


@pytest.mark.parametrize("boxes", ["bbox", "bboxes"])
@pytest.mark.parametrize("classes", ["category", "categories", "label", "labels", "category_id"])
def test_boxes_are_read_with_any_keys(tmp_path: Path, boxes: str, classes: str) -> None:
    expected = (NamedRow(1, "cat", (1, 2, 4, 6)), NamedRow(1, "7", (5, 6, 7.5, 9)))
    values = [[1, 2, 3, 4], [5, "6", 2.5, 3]]
    as_lists = row() | {"objects": {boxes: values, classes: ["cat", 7]}}
    as_objects = row() | {"objects": [{boxes: values[0], classes: "cat"}, {boxes: values[1], classes: 7}]}
    for line in (as_lists, as_objects):
        assert FORMAT.matches([line])
        [labels] = read(tmp_path, line)
        assert labels.rows == expected
        assert (labels.image_name, labels.line, labels.image_hw) == ("a.png", 1, None)


def test_a_line_without_objects_is_not_labeled(tmp_path: Path) -> None:
    empty = row("b.png", bbox=[], categories=[]) | {"width": 80, "height": 40}
    a, b = read(tmp_path, row(), {"file_name": "x.png"}, "\n", empty, row() | {"objects": None})
    assert (a.image_name, b.image_name, b.rows, b.line, b.image_hw) == ("a.png", "b.png", (), 4, (40, 80))


def test_crowd_regions_and_objects_without_class_are_read(tmp_path: Path) -> None:
    [labels] = read(tmp_path, row(bbox=[[1, 2, 3, 4], [1, 2, 3, 4]], iscrowd=[0, 1]))
    assert [(r.class_name, r.is_crowd) for r in labels.rows if isinstance(r, NamedRow)] == [
        ("object", False),
        ("object", True),
    ]


@pytest.mark.parametrize("key", ["category", "labels"])
def test_numbers_get_the_names_of_the_card(tmp_path: Path, key: str) -> None:
    write(tmp_path / "README.md", CARD.replace("{key}", key))
    write(tmp_path / "classes.txt", "a\nb\n")
    image(tmp_path / "data/train/a.png")
    write(tmp_path / "data/train/metadata.jsonl", row(bbox=[[1, 2, 3, 4]] * 3, category=[1, "cat", 2]))
    split = open_data(tmp_path).read("train")
    assert split.class_names == ("cat", "dog")
    assert split.annotations[0].class_ids.tolist() == [1, 0]
    [entry] = split.ledger.entries
    assert (entry.code, entry.line) == ("unknown_class", 1)
    assert entry.reason == "category 2 is not among the 2 named classes"


@pytest.mark.parametrize(
    "card", ["", "# Cats\n---\nx", "---\n[\n---\n", "---\n- x: [1]\n---\n", "---\nx: {a: &a [*a]}"]
)
def test_numbers_get_the_names_of_a_text_file(tmp_path: Path, card: str) -> None:
    write(tmp_path / "README.md", card)
    [labels] = read(tmp_path, row())
    assert isinstance(labels.rows[0], NamedRow)
    assert labels.rows[0].class_name == "1"
    write(tmp_path / "classes.txt", "cat\ndog\n")
    [labels] = read(tmp_path, row())
    assert isinstance(labels.rows[0], NamedRow)
    assert labels.rows[0].class_name == "dog"


def test_names_are_not_taken_from_other_folders(tmp_path: Path) -> None:
    write(tmp_path / "classes.txt", "cat\ndog\n")
    (tmp_path / "mine").mkdir()
    [labels] = read(tmp_path / "mine", row())
    assert isinstance(labels.rows[0], NamedRow)
    assert labels.rows[0].class_name == "1"
    (tmp_path / "mine/classes.txt").symlink_to(tmp_path / "classes.txt")
    with pytest.raises(LabelError, match=r"classes\.txt: is a link to a file outside of the dataset"):
        read(tmp_path / "mine", row())


def test_two_ways_to_name_the_classes_are_refused(tmp_path: Path) -> None:
    feature = "{name: objects, list: [{name: category, dtype: {class_label: {names: %s}}}]}"
    write(tmp_path / "README.md", f"---\na: [{feature % '[cat]'}]\nb: [{feature % '[dog]'}]\n---\n")
    with pytest.raises(LabelError, match=r"README\.md: `class_label` of the objects names the classes in 2 ways"):
        read(tmp_path, row())


def test_splits_missing_images_and_bad_boxes_are_reported(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/new.png", "validation/a.png", "test/sub/a.png"):
        image(tmp_path / name)
    bad = row(bbox=[[1, 2, 3, 4], [1, 2, 3], [90, 2, 3, 4], [70, 2, 30, 4], None], categories=["cat"] * 4 + [None])
    write(tmp_path / "train/metadata.jsonl", bad, row("gone.png", bbox=[[1, 2, 3, 4]], label=["cat"]))
    write(tmp_path / "validation/metadata.jsonl", row(bbox=[[1, 2, 3, 4]], label=["cat"]))
    write(tmp_path / "test/metadata.jsonl", row("sub/a.png", bbox=[[1, 2, 3, 4]], label=["dog"]))
    data = open_data(tmp_path)
    assert data.description.startswith("Hugging Face JSON lines folder")
    assert data.split_names == ("train", "val", "test")
    train, val, test = (data.read(name) for name in data.split_names)
    assert train.class_names == val.class_names == ("cat", "dog")
    assert train.annotations[0].boxes.tolist() == [[1, 2, 4, 6], [70, 2, 80, 6]]
    assert [(entry.code, entry.line) for entry in train.ledger.entries] == [
        ("malformed_row", 1),
        ("malformed_row", 1),
        ("outside_image", 1),
        ("clipped", 1),
        ("image_missing", 2),
    ]
    assert train.ledger.found == 6
    assert any("1 image without labels, first: " in note and "new.png" in note for note in train.ledger.notes)
    assert [a.image_path for a in (*val.annotations, *test.annotations)] == [
        tmp_path / "validation/a.png",
        tmp_path / "test/sub/a.png",
    ]


def test_corners_and_fractions_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    rng = np.random.default_rng(0)
    corners = [[x, y, x + 35, y + 15] for x, y in rng.integers(5, 20, (20, 2)).tolist()]
    write(tmp_path / "metadata.jsonl", row(bbox=corners, category=["cat"] * 20))
    with pytest.raises(LabelError, match=r"the boxes \(Hugging Face JSON lines\) look like corners"):
        open_data(tmp_path).read("train")
    write(tmp_path / "metadata.jsonl", row(bbox=[[0.1, 0.2, 0.3, 0.4]] * 3, category=["cat"] * 3))
    with pytest.raises(LabelError, match="look like fractions"):
        open_data(tmp_path).read("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{\n", "2: not JSON"),
        ({"objects": {}}, "2: `file_name` is null; expected the path of the image"),
        ([], "2: `file_name` is null"),
        (row() | {"objects": 3}, "2: image 'a.png': `objects` is 3; expected"),
        (row() | {"objects": [3]}, "2: image 'a.png': `objects` is a list; expected"),
        (row(bbox=3), "2: image 'a.png': `bbox` is 3; expected a list of boxes"),
        (row(bbox=[[1, 2, 3, 4]], category=[]), "2: image 'a.png': `category` is 0 values; expected one for each of"),
        (row(bbox=[], label="cat"), "2: image 'a.png': `label` is 'cat'; expected one for each of the 0 boxes"),
        ('{"file_name": "a.png", "file_name": "b.png"}\n', "2: the key 'file_name' occurs twice"),
    ],
)
def test_wrong_lines_are_label_errors(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(LabelError, match=rf"metadata\.jsonl:{message}".replace("[", r"\[")):
        read(tmp_path, row(), line)


@pytest.mark.parametrize(
    ("label", "reason"),
    [(None, "the row has no class: the category is empty or missing"), ([1], "the category is a list")],
)
def test_objects_without_class_say_why(tmp_path: Path, label: Any, reason: str) -> None:
    [labels] = read(tmp_path, row(bbox=[[1, 2, 3, 4]], category=[label]))
    [bad] = labels.rows
    assert isinstance(bad, BadRow)
    assert bad.error.reason.startswith(reason)


def test_a_table_with_objects_is_read(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png")
    rows = 'file_name,width,height,objects\na.png,80,40,"{""bbox"": [[1, 2, 3, 4]], ""label"": [""cat""]}"\nb.png,,,\n'
    write(tmp_path / "train/metadata.csv", rows)
    split = open_data(tmp_path).read("train")
    assert [a.boxes.tolist() for a in split.annotations] == [[[1, 2, 4, 6]]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,objects\n", "1: not metadata of Hugging Face; expected the columns file_name, objects"),
        ("file_name,objects\na.png,{'bbox': []}\n", "2: not JSON"),
        ("file_name,objects\na.png,[1, 2]\n", r"2: the row has 3 columns, expected 2; JSON in a cell needs quotes"),
        ("file_name,objects\n,{}\n", "2: `file_name` is ''"),
    ],
)
def test_wrong_tables_are_label_errors(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(LabelError, match=rf"metadata\.csv:{message}"):
        imagefolder_csv.FORMAT.read(write(tmp_path / "metadata.csv", rows))
