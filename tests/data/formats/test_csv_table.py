from pathlib import Path

import pytest

from detector.data.formats.csv_table import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import LabelError

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def read(folder: Path, text: str) -> list[ImageLabels]:
    path = folder / "a.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert FORMAT.matches(text.splitlines()[:20])
    return list(FORMAT.read(path))


def bad_rows(images: list[ImageLabels]) -> list[tuple[int | None, str]]:
    return [(row.line, row.error.reason) for image in images for row in image.rows if isinstance(row, BadRow)]


def test_tensorflow_table_is_read_and_grouped_by_image(tmp_path: Path) -> None:
    text = HEADER + "a.jpg,60,40,cat,1,2,30,20\nb.jpg,50,30,dog,0,0,5,5\na.jpg,60,40,dog,3.5,4,9,10\n"
    a, b = read(tmp_path, text)
    assert (a.image_name, a.image_hw, a.line, a.are_fractions) == ("a.jpg", (40, 60), 2, False)
    assert a.rows == (NamedRow(2, "cat", (1, 2, 30, 20)), NamedRow(4, "dog", (3.5, 4, 9, 10)))
    assert (b.image_name, b.image_hw, b.line) == ("b.jpg", (30, 50), 3)
    assert b.rows == (NamedRow(3, "dog", (0, 0, 5, 5)),)


@pytest.mark.parametrize(
    "text",
    [
        "image_id,label,x1,y1,x2,y2\na,cat,1,2,3,4\n",
        "X_Max;Y_Max;X_Min;Y_Min;Image Path;Label_Name;class\n3;4;1;2;a;cat;0\n",
        "\ufeffleft\ttop\tright\tbottom\tpath\tclass\r\n1\t2\t3\t4\ta\tcat\r\n",
        'label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name\n\n"cat", 1, 2, 2, 2, a\n\n',
        "xmin,ymin,xmax,ymax,Frame,Label,Preview URL\n1,2,3,4,a,cat,http://example.org\n",
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\na;60;40;1;2;3;4;cat\n",
        "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y\n"
        "a;cat;1;2;3;4\n",
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, text: str) -> None:
    [a] = read(tmp_path, text)
    assert a.image_name == "a"
    [row] = a.rows
    assert isinstance(row, NamedRow)
    assert (row.class_name, row.corners) == ("cat", (1, 2, 3, 4))


def test_retinanet_table_without_header_is_read(tmp_path: Path) -> None:
    a, b = read(tmp_path, "/data/a.jpg,1,2,3,4,cat\nC:\\b.PNG,,,,,\n/data/a.jpg,5,6,7,8.5,dog\n")
    assert a.rows == (NamedRow(1, "cat", (1, 2, 3, 4)), NamedRow(3, "dog", (5, 6, 7, 8.5)))
    assert (b.image_name, b.rows) == ("C:\\b.PNG", ())


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("TRAINING,gs://x/a.jpg,cat,0.1,0.2,,,0.3,0.4,,\n", "train"),
        ("VALIDATE,gs://x/a.jpg,cat,0.1,0.2,0.3,0.2,0.3,0.4,0.1,0.4\n", "val"),
        ("UNASSIGNED,gs://x/a.jpg,cat,0.1,0.2,,,0.3,0.4,,\n", None),
        ("cat,1,2,2,2,a.jpg,60,40\n", None),
        ('a.jpg 1 2 3 4 0 "cat"\n', None),
        ('a.jpg 1 2 3 4 1 "cat" "red"\n', None),
        ("a.jpg;1;2;3;4;cat\n", None),
    ],
)
def test_known_orders_without_header_are_read(tmp_path: Path, text: str, split: str | None) -> None:
    [a] = read(tmp_path, text)
    assert (Path(a.image_name).name, a.split_name) == ("a.jpg", split)
    scale = 10 if a.are_fractions else 1
    [row] = a.rows
    assert isinstance(row, NamedRow)
    assert row.class_name == "cat"
    assert [value * scale for value in row.corners] == pytest.approx([1, 2, 3, 4])


def test_objects_without_class_column_have_one_class(tmp_path: Path) -> None:
    [a] = read(tmp_path, "image,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n")
    assert a.rows == (NamedRow(2, "object", (1, 2, 3, 4)),)


def test_a_box_in_one_cell_has_a_size(tmp_path: Path) -> None:
    text = 'image_id,width,height,bbox,source\na,60,40,"[10.0, 20, 5, 6]",x\na,60,40,"[1, 2, 3]",x\n'
    [a] = read(tmp_path, text)
    assert (a.image_name, a.image_hw, a.rows[0]) == ("a", (40, 60), NamedRow(2, "object", (10, 20, 15, 26)))
    assert bad_rows([a]) == [(3, "the box is '[1, 2, 3]'; expected x, y, width and height")]


def test_a_box_in_one_cell_that_may_be_corners_is_refused(tmp_path: Path) -> None:
    text = 'image_id,bbox\na,"[1, 2, 30, 20]"\nb,"[10, 10, 20, 30]"\n'
    with pytest.raises(LabelError, match="write four columns: `xmin`"):
        read(tmp_path, text)


def test_row_without_class_and_box_is_background(tmp_path: Path) -> None:
    [a] = read(tmp_path, HEADER + "a.jpg,60,40,,,,,\n")
    assert (a.rows, a.image_hw) == ((), (40, 60))


def test_split_column_names_the_split(tmp_path: Path) -> None:
    a, b = read(tmp_path, "file,class,x1,y1,x2,y2,split\na,cat,1,2,3,4,VALID\nb,cat,1,2,3,4,\n")
    assert (a.split_name, b.split_name) == ("val", None)


def test_coordinates_up_to_one_are_fractions(tmp_path: Path) -> None:
    [a] = read(tmp_path, HEADER + "a.jpg,60,40,cat,0,0.25,0.5,1\n")
    assert a.are_fractions


def test_quoted_fields_may_contain_the_delimiter(tmp_path: Path) -> None:
    [a] = read(tmp_path, HEADER + '"a,""b"".jpg",60,40,"big, cat",1,2,3,4\n')
    assert a.image_name == 'a,"b".jpg'
    assert a.rows == (NamedRow(2, "big, cat", (1, 2, 3, 4)),)


def test_unusable_rows_say_why(tmp_path: Path) -> None:
    rows = [
        "a.jpg,60,40,cat,1,2,3,x",
        "a.jpg,60,40,,1,2,3,4",
        "a.jpg,60,40,cat,1,2,3,",
        "a.jpg,60,40,cat,1,2,3",
        "a.jpg,60,40,black,cat,1,2,3,4",
        "a.jpg,40,60,cat,1,2,3,4",
    ]
    images = read(tmp_path, HEADER + "a.jpg,60,40,cat,1,2,nan,4\n" + "\n".join(rows))
    many = "a name with a delimiter needs quotes"
    assert bad_rows(images) == [
        (3, "y2 of the box is 'x', not a number"),
        (4, "the row has no class: the class column is empty or missing"),
        (5, "the box has no y2"),
        (6, f"the row has 7 columns, expected 8; {many}"),
        (7, f"the row has 9 columns, expected 8; {many}"),
        (8, "the image is 40 x 60 in this row, but 60 x 40 in another row"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",60,40,cat,1,2,3,4", "csv:2: the row has no image"),
        ('"a.jpg,60,40,cat,1,2,3,4\nb.jpg,60,40,"cat",1,2,3,4', "csv:2: a quotation mark is not closed"),
        ('"a.jpg,60,40,cat,1,2,3,4', "csv:2: a quotation mark is not closed"),
        ("a" * 200_000, "csv:2: not CSV: field larger"),
    ],
)
def test_unreadable_table_is_a_label_error(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(HEADER + row)
    with pytest.raises(LabelError, match=message):
        FORMAT.read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,loss,mAP\n1,2,3",
        "filename,class\na.jpg,cat",
        "filename,x,y,width,height,class\na.jpg,1,2,3,4,cat",
        "a.jpg,1,2,3,4",
        "a.jpg,x,2,3,4,cat",
        "a.jpg,0.1,0.2,0.3,0.4,0.9",
        "filename,xmin,ymin,xmax,ymax,kind\na.jpg,1,2,3,4,cat",
        "TRAINING,a.jpg,cat,,,,,,,,",
        "1,2,3,4,5,6",
    ],
)
def test_other_tables_do_not_match(tmp_path: Path, text: str) -> None:
    assert not FORMAT.matches(text.split("\n"))
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(LabelError, match="not a table of boxes"):
        FORMAT.read(tmp_path / "a.csv")
