from pathlib import Path

import pytest

from detector.data.formats.openimages import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import LabelError

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)


def row(image: str = "a", label: str = "/m/01yrx", group: str = "0", **values: str) -> str:
    cells = {"Confidence": "1", "XMin": "0.1", "XMax": "0.5", "YMin": "0.2", "YMax": "0.75"} | values
    return f"{image},xclick,{label},{','.join(cells.values())},0,0,{group},0,0\n"


def read(folder: Path, *rows: str, name: str = "labels/x.csv") -> list[ImageLabels]:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEADER + "".join(rows))
    assert FORMAT.matches(HEADER.split("\n"))
    return list(FORMAT.read(path))


def class_names(images: list[ImageLabels]) -> list[str]:
    return [row.class_name for image in images for row in image.rows if isinstance(row, NamedRow)]


def test_fractions_are_read_and_groups_are_crowd_regions(tmp_path: Path) -> None:
    a, b = read(tmp_path, row(), row("b", group="1"), row(label="/m/0bt9lr"))
    assert (a.image_name, a.line, a.are_fractions, a.split_name) == ("a", 2, True, None)
    box = (0.1, 0.2, 0.5, 0.75)
    assert a.rows == (NamedRow(2, "/m/01yrx", box), NamedRow(4, "/m/0bt9lr", box))
    assert b.rows == (NamedRow(3, "/m/01yrx", box, is_crowd=True),)


@pytest.mark.parametrize(
    "name", ["labels/class-descriptions-boxable.csv", "oidv7-class-descriptions.csv", "metadata/classes.csv"]
)
def test_class_names_are_found_near_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "metadata").mkdir()
    (tmp_path / name).write_text('LabelName,DisplayName\n/m/01yrx,"Cat, small"\n/m/x\n')
    assert class_names(read(tmp_path, row(), row(label="/m/none"))) == ["Cat, small", "/m/none"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("oidv6-train-annotations-bbox.csv", "train"),
        ("validation-annotations-bbox.csv", "val"),
        ("test-annotations-bbox.csv", "test"),
        ("latest.csv", None),
    ],
)
def test_file_name_names_the_split(tmp_path: Path, name: str, split: str | None) -> None:
    [a] = read(tmp_path, row(), name=name)
    assert a.split_name == split


def test_unusable_rows_say_why(tmp_path: Path) -> None:
    [a] = read(tmp_path, row(label=""), row(XMin="x"), row(Confidence="0"), "a,xclick,/m/x,1\n")
    assert [(row.line, row.error.reason) for row in a.rows if isinstance(row, BadRow)] == [
        (2, "the row has no class: LabelName is empty or missing"),
        (3, "xmin of the box is 'x', not a number"),
        (4, "Confidence is 0: the image does not contain '/m/01yrx'"),
        (5, "the row has 4 columns, expected 13"),
    ]


def test_row_without_image_is_a_label_error(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"x\.csv:3: the row has no ImageID"):
        read(tmp_path, row(), row(""))


def test_labels_of_whole_images_do_not_match(tmp_path: Path) -> None:
    text = "ImageID,Source,LabelName,Confidence\na,x,/m/01yrx,0\n"
    assert not FORMAT.matches(text.split("\n"))
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(LabelError, match="not CSV of Open Images"):
        FORMAT.read(tmp_path / "a.csv")


def test_link_to_class_names_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("/m/01yrx,password\n")
    (tmp_path / "set/labels").mkdir(parents=True)
    (tmp_path / "set/class-descriptions.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(LabelError, match="is a link to a file outside of the dataset"):
        read(tmp_path / "set", row())
