from pathlib import Path

import numpy as np
import pytest

from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import LabelError
from detector.images import write_image

HW = (40, 60)


def item(name: str = "cat", corners: str = "1 2 30 20", more: str = "") -> str:
    """Return the XML text of an object on one line."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    fields = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners.split(), strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{fields}</bndbox></object>\n"


def write(folder: Path, stem: str, *objects: str, image: bool = True) -> Path:
    """Write an XML file with objects from line 3 on, and its image file; return the path of the XML file."""
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(exist_ok=True)
    if image:
        write_image(folder / "JPEGImages" / f"{stem}.png", np.zeros((*HW, 3), np.uint8))
    path = folder / "Annotations" / f"{stem}.xml"
    path.write_text(f"<annotation>\n<filename>{stem}.png</filename>\n{''.join(objects)}</annotation>\n")
    return path


def write_list(folder: Path, name: str, text: str) -> None:
    (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (folder / f"ImageSets/Main/{name}.txt").write_text(text)


def read_split(folder: Path, name: str, class_names: tuple[str, ...] = ()) -> Split:
    if not class_names:
        return open_data(folder).read(name)
    description = folder / "described.yaml"
    description.write_text(f"format: voc\npath: .\nnames: [{', '.join(class_names)}]\n")
    return open_data(description).read(name)


def read_objects(folder: Path, *objects: str) -> Split:
    write(folder, "a", *objects)
    return read_split(folder, "train")


def test_corners_are_unchanged_and_classes_are_sorted(tmp_path: Path) -> None:
    split = read_objects(tmp_path, item("dog"), item("cat", "0 0 60 40"), item("cat", "1.5 2 3 4.25"))
    assert split.class_names == ("cat", "dog")
    assert split.category_ids == (1, 2)
    [only] = split.annotations
    assert only.image_hw == HW
    assert only.boxes.tolist() == [[1, 2, 30, 20], [0, 0, 60, 40], [1.5, 2, 3, 4.25]]
    assert only.class_ids.tolist() == [1, 0, 0]
    assert split.ledger.entries == ()


def test_difficult_objects_are_crowd_regions_and_parts_are_ignored(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"
    split = read_objects(tmp_path, item(more=f"<difficult>1</difficult>{part}"), item(more="<difficult>0</difficult>"))
    assert split.annotations[0].is_crowd.tolist() == [True, False]
    assert split.annotations[0].boxes[0].tolist() == [1, 2, 30, 20]
    assert (split.ledger.crowd, split.class_names) == (1, ("cat",))


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        (item(corners="30 2 1 20"), "no_area", "is -29 wide and 18 high"),
        (item(corners="1 2 1 20"), "no_area", "is 0 wide and 18 high"),
        (item(corners="nan 2 9 20"), "not_finite", "is not finite"),
        (item(corners="60 2 70 20"), "outside_image", "has no area inside the image of 60 x 40 pixels"),
        (item(corners="1 2 x 20"), "malformed_row", "cat: <xmax> is 'x', not a number"),
        (item(corners="1 2 3"), "malformed_row", "cat: the box has no <ymax>"),
        (item(name=""), "malformed_row", "the object has no <name>"),
        ("<object><name>cat</name></object>\n", "malformed_row", "cat: the object has no <bndbox>"),
    ],
)
def test_an_invalid_object_is_dropped_with_line_and_reason(tmp_path: Path, row: str, code: str, reason: str) -> None:
    split = read_objects(tmp_path, item(), item(), row)
    [entry] = split.ledger.entries
    assert (entry.action, entry.code, entry.line) == ("dropped", code, 5)
    assert entry.path == tmp_path / "Annotations/a.xml"
    with pytest.raises(LabelError, match=reason):
        split.ledger.check(0)
    assert split.ledger.found == 3


def test_a_box_beyond_the_image_border_is_clipped(tmp_path: Path) -> None:
    split = read_objects(tmp_path, item(corners="-5 2 61 20"))
    assert split.annotations[0].boxes.tolist() == [[0, 2, 60, 20]]
    assert [(e.action, e.line) for e in split.ledger.entries] == [("clipped", 3)]


def test_class_names_set_the_order_and_others_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, "a", item("cat"), item("dog"), item("cow"))
    split = read_split(tmp_path, "train", ("dog", "cat"))
    assert split.annotations[0].class_ids.tolist() == [1, 0]
    [entry] = split.ledger.entries
    assert (entry.line, entry.code) == (5, "unknown_class")
    assert entry.reason == "class 'cow' is not among the class names"


def test_splits_from_lists_have_the_same_ids_and_classes(tmp_path: Path) -> None:
    for stem, name in (("a", "cat"), ("b", "dog"), ("c", "cow")):
        write(tmp_path, stem, item(name))
    assert open_data(tmp_path).split_names == ("train",)
    write_list(tmp_path, "train", "c\r\n\r\na\n")
    write_list(tmp_path, "trainval", "a\nb\nc\n")
    write_list(tmp_path, "cat_train", "a 1\n")
    assert open_data(tmp_path).split_names == ("train", "trainval")
    train, both = read_split(tmp_path, "train"), read_split(tmp_path, "trainval")
    assert [a.image_id for a in train.annotations] == [1, 3]
    assert [a.image_id for a in both.annotations] == [1, 2, 3]
    assert train.class_names == both.class_names == ("cat", "cow", "dog")


def test_a_list_with_a_missing_file_is_refused_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "a", item())
    write_list(tmp_path, "train", "a\nz\n")
    with pytest.raises(LabelError, match=r"train\.txt:2: z\.xml does not exist"):
        read_split(tmp_path, "train")


def test_a_list_without_any_xml_file_is_no_split(tmp_path: Path) -> None:
    write(tmp_path, "a", item())
    write_list(tmp_path, "train", "a\n")
    write_list(tmp_path, "test", "y\nz\n")
    data_set = open_data(tmp_path)
    assert data_set.split_names == ("train",)
    [note] = data_set.read("train").ledger.notes
    assert note.endswith("test.txt is not used: none of its names has an XML file")


def test_a_name_listed_twice_is_used_once(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        write(tmp_path, stem, item())
    write_list(tmp_path, "train", "b\na\nb\n")
    assert [a.image_id for a in read_split(tmp_path, "train").annotations] == [1, 2]


def test_rows_of_a_missing_image_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, "a", item())
    path = write(tmp_path, "b", item(), image=False)
    split = read_split(tmp_path, "train")
    assert [a.image_path.name for a in split.annotations] == ["a.png"]
    expected = f"{path}:3: dropped: image b.png not found in the dataset"
    assert [str(entry) for entry in split.ledger.entries] == [expected]
    assert split.ledger.entries[0].code == "image_missing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<annotation>\n<object>\n</annotation>", r"a\.xml:3: not XML: mismatched tag in column 3"),
        (b"", r"a\.xml:1: not XML: no element found"),
        (b'<!DOCTYPE a [<!ENTITY x "boom">]>\n<a>&x;</a>', r"a\.xml:1: a document type declaration is not allowed"),
        (b"<a>\n&x;</a>", r"a\.xml:2: not XML: undefined entity"),
        (b"<a>\ncaf\xe9</a>", r"a\.xml:2: not XML"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', r"a\.xml.*not XML"),
    ],
)
def test_invalid_xml_is_refused_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path, "a").write_bytes(content)
    with pytest.raises(LabelError, match=message):
        read_split(tmp_path, "train")


def test_a_folder_without_objects_or_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", image=False)
    with pytest.raises(LabelError, match="contains an object with a class name"):
        read_split(tmp_path, "train")
    with pytest.raises(LabelError, match="the only image cannot be used"):
        read_split(tmp_path, "train", ("cat",))


def test_lists_of_other_voc_tasks_are_not_splits(tmp_path: Path) -> None:
    for stem in "abcd":
        write(tmp_path, stem, item())
    write_list(tmp_path, "train", "# by hand\na\nb\n")
    write_list(tmp_path, "val", "c\nd\n")
    for task in ("Action", "Layout", "Segmentation"):
        (tmp_path / "ImageSets" / task).mkdir()
        (tmp_path / "ImageSets" / task / "train.txt").write_text("d 1\n")
        (tmp_path / "ImageSets" / task / "trainval.txt").write_text("c 1\nd 1\n")
    data = open_data(tmp_path)
    assert data.split_names == ("train", "val")
    assert [a.image_path.stem for a in data.read("train").annotations] == ["a", "b"]


def test_lists_directly_in_imagesets_define_the_splits(tmp_path: Path) -> None:
    for stem in "ab":
        write(tmp_path, stem, item())
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("b\n")
    (tmp_path / "ImageSets/val.txt").write_text("a\n")
    assert [a.image_path.stem for a in open_data(tmp_path).read("train").annotations] == ["b"]


def test_lists_elsewhere_define_the_splits(tmp_path: Path) -> None:
    for stem in "abc":
        write(tmp_path, stem, item())
    (tmp_path / "train_list.txt").write_text("JPEGImages/a.png Annotations/a.xml\n.\\JPEGImages\\b.png x\n")
    (tmp_path / "val.txt").write_text("c\n")
    data_set = open_data(tmp_path)
    assert data_set.split_names == ("train", "val")
    assert [len(data_set.read(name).annotations) for name in ("train", "val")] == [2, 1]
    assert "splits by lists" in data_set.description


@pytest.mark.parametrize(("name", "text"), [("train", "a\nnotes\n"), ("test", "a\n"), ("train", "")])
def test_other_text_files_are_not_lists(tmp_path: Path, name: str, text: str) -> None:
    for stem in "ab":
        write(tmp_path, stem, item())
    (tmp_path / f"{name}.txt").write_text(text)
    assert len(read_split(tmp_path, "train").annotations) == 2


def test_lists_of_several_years_are_joined(tmp_path: Path) -> None:
    for year, stem in (("VOC2007", "a"), ("VOC2012", "b")):
        (tmp_path / year).mkdir()
        write(tmp_path / year, stem, item())
        write_list(tmp_path / year, "train", f"{stem}\n")
    assert [a.image_path.stem for a in open_data(tmp_path).read("train").annotations] == ["a", "b"]


def test_a_listed_name_of_two_files_is_refused(tmp_path: Path) -> None:
    for part in ("first", "second"):
        (tmp_path / part).mkdir()
        write(tmp_path / part, "a", item())
    write_list(tmp_path, "train", "a\n")
    with pytest.raises(LabelError, match=r"train.txt:1: a may be .*first.*a\.xml or .*second.*a\.xml"):
        open_data(tmp_path).read("train")


def test_lists_of_other_tasks_are_not_used(tmp_path: Path) -> None:
    for stem in "abc":
        write(tmp_path, stem, item())
    write_list(tmp_path, "train", "a\nb\n")
    (tmp_path / "ImageSets/Layout").mkdir()
    (tmp_path / "ImageSets/Layout/train.txt").write_text("c 1\n")
    split = read_split(tmp_path, "train")
    assert [a.image_path.stem for a in split.annotations] == ["a", "b"]
    [note] = split.ledger.notes
    assert note.startswith("not used: 1 label file in no list of a split")


def test_lists_of_several_data_sets_are_joined(tmp_path: Path) -> None:
    for name in ("VOC2007", "VOC2012"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "same", item(name))
        write_list(tmp_path / name, "train", "same\n")
    split = read_split(tmp_path, "train")
    assert split.class_names == ("VOC2007", "VOC2012")
    found = [(a.image_path.parts[-3], a.class_ids.tolist()) for a in split.annotations]
    assert found == [("VOC2007", [0]), ("VOC2012", [1])]


def test_image_with_the_stem_wins_over_filename(tmp_path: Path) -> None:
    for stem, other in (("a", "b"), ("b", "b")):
        path = write(tmp_path, stem, item(stem))
        path.write_text(path.read_text().replace(f"{stem}.png", f"{other}.png"))
    split = read_split(tmp_path, "train")
    assert [(a.image_path.stem, a.class_ids.tolist()) for a in split.annotations] == [("a", [0]), ("b", [1])]


def test_class_may_have_the_name_of_a_wildcard(tmp_path: Path) -> None:
    split = read_objects(tmp_path, item("*"), item("cat"))
    assert split.class_names == ("*", "cat")
    assert split.annotations[0].class_ids.tolist() == [0, 1]
