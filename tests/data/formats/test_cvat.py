from pathlib import Path

import pytest

from detector.data.formats.cvat import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import LabelError

BOX = '<box label="cat" occluded="0" xtl="10" ytl="20.5" xbr="50" ybr="30"/>'


def read(folder: Path, *images: str) -> list[ImageLabels]:
    path = folder / "annotations.xml"
    meta = "<version>1.1</version><meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    path.write_text(
        f"<?xml version='1.0' encoding='utf-8'?>\n<annotations>{meta}\n" + "\n".join(images) + "</annotations>"
    )
    return list(FORMAT.read(path))


def image(*shapes: str, more: str = "") -> str:
    """Return the XML text of an image; its shapes start on the next line."""
    text = "\n".join(shapes)
    return f'<image id="0" name="x/a.jpg" width="60" height="40"{more}>\n{text}</image>'


def test_boxes_size_and_subset_are_read(tmp_path: Path) -> None:
    a, b = read(tmp_path, image(BOX, '<tag label="day"/>', more=' subset="Train"'), image())
    assert (a.image_name, a.image_hw, a.line, a.split_name) == ("x/a.jpg", (40, 60), 3, "train")
    assert a.rows == (NamedRow(4, "cat", (10, 20.5, 50, 30)),)
    assert (b.rows, b.split_name) == ((), None)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('<polygon label="cat" points="1.5,2;9,4;3,8"/>', (1.5, 2, 9, 8)),
        ('<polyline label="cat" points="1,8;9,4;"/>', (1, 4, 9, 8)),
        ('<ellipse label="cat" cx="10" cy="20" rx="5" ry="3"/>', (5, 17, 15, 23)),
        ('<ellipse label="cat" cx="10" cy="20" rx="5" ry="3" rotation="90"/>', (7, 15, 13, 25)),
        ('<mask label="cat" rle="3, 5" left="2" top="3" width="4" height="5"/>', (2, 3, 6, 8)),
        ('<box label="cat" xtl="10" ytl="20" xbr="20" ybr="24" rotation="90.0"/>', (13, 17, 17, 27)),
        ('<box label="cat" xtl="-1" ytl="-1" xbr="1" ybr="1" rotation="45"/>', (-(2**0.5), -(2**0.5), 2**0.5, 2**0.5)),
        (
            '<cuboid label="cat" xtl1="1" ytl1="2" xbl1="1" ybl1="6" xtr1="5" ytr1="2" xbr1="5" ybr1="6"'
            ' xtl2="8" ytl2="3" xbl2="8" ybl2="5" xtr2="7" ytr2="3" xbr2="7" ybr2="5"/>',
            (1, 2, 8, 6),
        ),
    ],
)
def test_shapes_become_their_bounding_boxes(tmp_path: Path, shape: str, expected: tuple[float, ...]) -> None:
    [a] = read(tmp_path, image(shape))
    [row] = a.rows
    assert isinstance(row, NamedRow), row
    assert row.corners == pytest.approx(expected)


def test_unusable_shapes_say_why(tmp_path: Path) -> None:
    shapes = [
        '<points label="cat" points="1,2"/>',
        '<box xtl="1" ytl="1" xbr="2" ybr="2"/>',
        '<box label="cat" xtl="1" ytl="1" xbr="2"/>',
        '<polygon label="cat" points="1,2;x"/>',
        '<polygon label="cat"/>',
        '<polygon label="cat" points="1,2;nan,3"/>',
        '<skeleton label="cat"><points label="x"/></skeleton>',
    ]
    [a] = read(tmp_path, image(*shapes))
    assert [(row.line, row.error.reason) for row in a.rows if isinstance(row, BadRow)] == [
        (4, "<points> is not a shape with an area; draw a box"),
        (5, "the row has no class: `label` of <box> is empty or missing"),
        (6, "<box> has no ybr"),
        (7, "the point 'x' is not two numbers with a comma between them"),
        (8, "the shape has no points"),
        (9, "a coordinate of the shape is not finite"),
        (10, "<skeleton> is not a shape with an area; draw a box"),
    ]


def test_video_says_what_to_export(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"xml:3: <track> is a part of .*export the task as 'CVAT for images 1\.1'"):
        read(tmp_path, '<track id="0" label="cat"><box frame="0" xtl="1" ytl="1" xbr="2" ybr="2"/></track>')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations/>", "xml:1: not XML of CVAT with images"),
        ("<annotations>\n<image id='0'/></annotations>", "xml:2: <image> has no `name`"),
        ("<annotations>\n<image", "xml:2: not XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>", "document type declaration is not allowed"),
        ("<?xml version='1.0' encoding='x'?><annotations/>", "not XML"),
    ],
)
def test_damaged_file_is_a_label_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(LabelError, match=message):
        FORMAT.read(path)
