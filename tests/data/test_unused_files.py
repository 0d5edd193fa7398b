"""Every file that looks like a label file is used, dropped or named."""

import json
from pathlib import Path

import numpy as np
import pytest

from detector.data.ledger import Ledger
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image

ROW = "0 0.5 0.5 0.1 0.1\n"
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
OBJECT = f"<object><name>cat</name>{BOX}</object>"


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((40, 60, 3), np.uint8))


def write(path: Path, text: str = ROW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_yolo(folder: Path, train: str = "images") -> None:
    for name in "ab":
        image(folder / f"images/{name}.png")
    write(folder / "labels/a.txt")
    write(folder / "train.txt", "images/a.png\n")
    write(folder / "data.yaml", f"train: {train}\nnames: [cat]\n")


def make_voc(folder: Path, xml: str = f"<annotation>{OBJECT}</annotation>", name: str = "Annotations/b.xml") -> None:
    for stem in "ab":
        image(folder / f"JPEGImages/{stem}.png")
    write(folder / "Annotations/a.xml", f"<annotation>{OBJECT}</annotation>")
    write(folder / name, xml)


def ledger_of(folder: Path) -> Ledger:
    return open_data(folder).read("train").ledger


@pytest.mark.parametrize("train", ["images", "train.txt"])
@pytest.mark.parametrize("name", ["labels/b.TXT", "images/b.TXT", "labels/z.txt", "images/z.txt", "labels/classes.txt"])
def test_rows_of_label_files_without_image_are_dropped(tmp_path: Path, name: str, train: str) -> None:
    make_yolo(tmp_path, train)
    write(tmp_path / name)
    ledger = ledger_of(tmp_path)
    if name.startswith("images") and train != "images":  # which split the images belong to is unknown
        assert any("not used: 1 label file" in note for note in ledger.notes)
    else:
        assert [(e.code, e.path) for e in ledger.entries] == [("unknown_image", tmp_path / name)]
    assert ledger.used == 1


@pytest.mark.parametrize("name", ["old/z.txt", "old/a.txt", "more/labels/q.txt", "Z.TXT"])
def test_label_files_of_no_split_are_counted(tmp_path: Path, name: str) -> None:
    make_yolo(tmp_path)
    write(tmp_path / name)
    note = f"not used: 1 label file that no image of any split points to, first: {tmp_path / name}"
    assert ledger_of(tmp_path).notes == (note,)
    assert open_data(tmp_path / "data.yaml").read("train").ledger.notes == (note,)


def test_labels_of_images_in_no_list_are_counted(tmp_path: Path) -> None:
    make_yolo(tmp_path, "train.txt")
    write(tmp_path / "labels/b.txt")
    [note] = ledger_of(tmp_path).notes
    assert note == f"not used: 1 label file that no image of any split points to, first: {tmp_path / 'labels/b.txt'}"
    write(tmp_path / "val.txt", "images/b.png\n")
    write(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    assert ledger_of(tmp_path).notes == ()


@pytest.mark.parametrize("form", ["images/../images/{}", "{folder}/images/{}", "./images/{}"])
def test_any_spelling_of_paths_in_lists_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Also of two spellings in one list: no used label file is called unused, and an orphan is counted once."""
    make_yolo(tmp_path, "train.txt")
    write(tmp_path / "labels/b.txt")
    write(tmp_path / "train.txt", f"images/a.png\n{form.format('b.png', folder=tmp_path)}\n")
    monkeypatch.chdir(tmp_path.parent)
    ledger = ledger_of(Path(tmp_path.name))
    assert (ledger.found, ledger.used, ledger.notes) == (2, 2, ())
    write(tmp_path / "labels/z.txt")
    write(tmp_path / "other/q.txt")
    ledger = ledger_of(Path(tmp_path.name))
    assert [(e.code, e.path.name) for e in ledger.entries] == [("unknown_image", "z.txt")]
    assert len(ledger.notes) == 1
    assert "not used: 1 label file that no image of any split points to" in ledger.notes[0]
    assert ledger.notes[0].endswith("q.txt")


def test_two_different_label_files_of_an_image_are_noted(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    write(tmp_path / "images/a.txt", "0 0.5  0.5 0.1 0.1")  # the same rows
    assert ledger_of(tmp_path).notes == ()
    write(tmp_path / "images/a.txt", ROW + ROW)
    [note] = ledger_of(tmp_path).notes
    assert note.startswith("not used: 1 label file beside an image with another label file")
    assert ledger_of(tmp_path).used == 1


def test_other_class_names_anywhere_are_noted(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    write(tmp_path / "labels/sub/classes.txt", "cat\n")
    assert ledger_of(tmp_path).notes == ()
    write(tmp_path / "labels/sub/classes.txt", "dog\n")
    assert ledger_of(tmp_path).notes == (
        f"{tmp_path / 'labels/sub/classes.txt'} names other classes (dog) and is not used",
    )


def test_label_files_of_other_formats_are_in_the_ledger(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    write(tmp_path / "Annotations/a.XML", f"<annotation>{OBJECT}</annotation>")
    for spec in (tmp_path, tmp_path / "data.yaml"):
        assert open_data(spec).read("train").ledger.notes == ("not used: 1 Pascal VOC file",)
    make_voc(tmp_path / "voc")
    write(tmp_path / "voc/labels/a.txt")
    write(tmp_path / "voc/classes.txt", "dog\n")
    assert "not used: YOLO text files, classes.txt" in ledger_of(tmp_path / "voc").notes


def test_usual_files_cause_no_notes(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    for name, text in {
        "README.txt": "1 row\n",
        "README.roboflow.txt": "hello\n",
        "requirements.txt": "numpy\n",
        "classes.txt": "cat\n",
        "labels/classes.txt": "cat\n",
        "notes.json": '{"categories": [{"id": 0, "name": "cat"}]}',
        "LICENSE": "x",
        ".hidden/z.txt": ROW,
        "images/._a.txt": ROW,
        "labels/train.cache": "x",
        "package.json": "{}",
    }.items():
        write(tmp_path / name, text)
    assert ledger_of(tmp_path).notes == ()
    for name in ("val", "test"):
        image(tmp_path / f"images/{name}/{name}.png")
        write(tmp_path / f"labels/{name}/{name}.txt")
    write(tmp_path / "data.yaml", "train: train.txt\nval: images/val\ntest: images/test\nnames: [cat]\n")
    data = open_data(tmp_path)
    assert [data.read(name).ledger.notes for name in data.split_names] == [(), (), ()]


@pytest.mark.parametrize("name", ["Annotations/b.XML", "Annotations/sub/b.xml", "elsewhere/b.xml"])
def test_voc_files_are_found_in_any_folder(tmp_path: Path, name: str) -> None:
    make_voc(tmp_path, name=name)
    assert ledger_of(tmp_path).used == 2
    write(tmp_path / name, "<annotation")
    with pytest.raises(LabelError, match="not XML"):
        ledger_of(tmp_path)


@pytest.mark.parametrize(
    "xml",
    [
        f"<annotation>{OBJECT.replace('object', 'Object')}</annotation>",
        f"<Annotation>{OBJECT.replace('bndbox', 'BndBox')}</Annotation>",
        f"<annotation xmlns='http://x'>{OBJECT}</annotation>",
        f"<v:annotation xmlns:v='http://x'>{OBJECT.replace('<', '<v:').replace('<v:/', '</v:')}</v:annotation>",
    ],
)
def test_voc_tags_have_any_case_and_namespace(tmp_path: Path, xml: str) -> None:
    make_voc(tmp_path, xml)
    ledger = ledger_of(tmp_path)
    assert (ledger.used, ledger.background, ledger.dropped) == (2, 0, 0)


@pytest.mark.parametrize(
    ("xml", "dropped", "reason"),
    [
        (OBJECT.replace(BOX, BOX * 2), 2, "2 <bndbox>; write one <object> for each box"),
        (OBJECT.replace("<name>", "<name>dog</name><name>"), 1, "<object> has 2 <name>"),
        (OBJECT.replace("<xmin>", "<xmin>3</xmin><xmin>"), 1, "<bndbox> has 2 <xmin>"),
        (OBJECT.replace("object", "obj"), 1, "the <bndbox> is in no <object>"),
        (BOX * 3, 3, "the <bndbox> is in no <object>"),
    ],
)
def test_every_box_of_a_voc_file_is_counted(tmp_path: Path, xml: str, dropped: int, reason: str) -> None:
    make_voc(tmp_path, f"<annotation>{OBJECT}{xml}</annotation>")
    ledger = ledger_of(tmp_path)
    assert (ledger.used, ledger.dropped) == (2, dropped)
    assert reason in ledger.entries[0].reason


def test_boxes_of_parts_are_not_objects(tmp_path: Path) -> None:
    part = f"<part><name>head</name>{BOX}</part>"
    make_voc(tmp_path, f"<annotation>{OBJECT.replace('</object>', part + '</object>')}</annotation>")
    assert (ledger_of(tmp_path).used, ledger_of(tmp_path).dropped) == (2, 0)


@pytest.mark.parametrize("key", ["annotations", "bbox", "images", "name"])
def test_a_json_key_twice_is_an_error(tmp_path: Path, key: str) -> None:
    image(tmp_path / "images/a.png")
    values = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write(tmp_path / "train.json", json.dumps(values))
    assert ledger_of(tmp_path).used == 1
    write(tmp_path / "train.json", json.dumps(values).replace(f'"{key}"', f'"{key}": [], "{key}"'))
    with pytest.raises(LabelError, match=f"the key '{key}' occurs twice"):
        ledger_of(tmp_path)
    with pytest.raises(LabelError, match=f"the key '{key}' occurs twice"):
        open_data(tmp_path).ground_truth("train")


def test_a_key_twice_in_other_json_is_an_error(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    box = '{"x": 9, "y": 9, "width": 4, "height": 4}'
    text = f'[{{"image": "a.png", "annotations": [{{"label": "cat", "coordinates": {box}}}]'
    write(tmp_path / "l.json", text + "}]")
    assert ledger_of(tmp_path).used == 1
    write(tmp_path / "l.json", text + ', "annotations": []}]')
    with pytest.raises(LabelError, match="the key 'annotations' occurs twice"):
        ledger_of(tmp_path)
