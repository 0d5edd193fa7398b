import json
from pathlib import Path
from typing import Any

import pytest

from detector.data.formats import via, via_csv
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import LabelError

RECT = {"name": "rect", "x": 10, "y": 20, "width": 40, "height": 10}


def region(shape: Any = RECT, attributes: Any = None) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": {"class": "cat"} if attributes is None else attributes}


def file(*regions: Any, name: str = "a.jpg") -> dict[str, Any]:
    return {f"{name}9": {"filename": name, "size": 9, "regions": list(regions), "file_attributes": {}}}


def read(folder: Path, value: Any) -> list[ImageLabels]:
    path = folder / "a.json"
    path.write_text(json.dumps(value, indent=1))
    return list(via.FORMAT.read(path))


def corners(folder: Path, shape: dict[str, Any]) -> list[float]:
    [a] = read(folder, file(region(shape)))
    [row] = a.rows
    assert isinstance(row, NamedRow), row
    return list(row.corners)


def reason(folder: Path, *regions: Any) -> str:
    [a] = read(folder, file(*regions))
    [row] = [row for row in a.rows if isinstance(row, BadRow)]
    return row.error.reason


def class_names(images: list[ImageLabels]) -> list[str]:
    return [row.class_name for image in images for row in image.rows if isinstance(row, NamedRow)]


def test_version_2_is_read_with_background_images(tmp_path: Path) -> None:
    a, b = read(tmp_path, file(region()) | file(name="b.jpg"))
    assert (a.image_name, a.line, a.rows) == ("a.jpg", 2, (NamedRow(6, "cat", (10, 20, 50, 30)),))
    assert (b.image_name, b.rows) == ("b.jpg", ())


def test_version_1_has_an_object_of_regions(tmp_path: Path) -> None:
    value = {"k": {"filename": "a.jpg", "size": 9, "fileref": "", "regions": {"0": region(), "1": region()}}}
    [a] = read(tmp_path, value)
    assert via.FORMAT.matches(value)
    assert [row.line for row in a.rows] == [7, 19]


def test_project_file_is_read(tmp_path: Path) -> None:
    value = {"_via_settings": {}, "_via_img_metadata": file(region()), "_via_attributes": {}}
    assert via.FORMAT.matches(value)
    [a] = read(tmp_path, value)
    assert (a.image_name, a.line, class_names([a])) == ("a.jpg", 4, ["cat"])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"name": "circle", "cx": 10, "cy": 20, "r": 5}, [5, 15, 15, 25]),
        ({"name": "ellipse", "cx": 10, "cy": 20, "rx": 5, "ry": 3}, [5, 17, 15, 23]),
        ({"name": "ellipse", "cx": 10, "cy": 20, "rx": 5, "ry": 3, "theta": 1.5707963267948966}, [7, 15, 13, 25]),
        ({"name": "polygon", "all_points_x": [1, 5, 3], "all_points_y": [2, 4, "8.5"]}, [1, 2, 5, 8.5]),
        ({"name": "polyline", "all_points_x": [1, 5], "all_points_y": [4, 2]}, [1, 2, 5, 4]),
    ],
)
def test_shapes_become_their_bounding_boxes(tmp_path: Path, shape: dict[str, Any], expected: list[float]) -> None:
    assert corners(tmp_path, shape) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (3, "the region is 3; expected an object"),
        (region({"name": "point", "cx": 1, "cy": 2}), "the region is a point; draw a rectangle"),
        (region({"name": ["rect"]}), "the shape is a list; expected a rect, circle, ellipse or polygon"),
        (region(None), "the shape is null; expected a rect, circle, ellipse or polygon"),
        (region(RECT | {"x": None}), "the rectangle has no x"),
        (region({"name": "polygon", "all_points_x": [], "all_points_y": []}), "the shape has no points"),
        (region({"name": "polygon", "all_points_x": [1], "all_points_y": [None]}), "a coordinate of a point is not a"),
        (region({"name": "polygon", "all_points_x": [1]}), "`all_points_x` and `all_points_y` are not two lists"),
        (region({"name": "circle", "cx": 1, "cy": 2, "r": 0}), "the radii are 0 and 0; both must be above 0"),
        (region({"name": "circle", "cx": 1, "cy": 2, "r": float("inf")}), "a coordinate of the shape is not finite"),
        (region(attributes={"class": ""}), "the row has no class: the attribute 'class' is empty or missing"),
        (region(attributes={}), "the row has no class: the attribute 'class' is empty or missing"),
        (region(attributes={"class": {"cat": True, "dog": True}}), "the region has 2 classes: 'cat', ..."),
    ],
)
def test_unusable_regions_say_why(tmp_path: Path, bad: Any, expected: str) -> None:
    assert reason(tmp_path, region(), bad).startswith(expected)


def test_only_attribute_is_the_class(tmp_path: Path) -> None:
    assert class_names(read(tmp_path, file(region(attributes={"kind": "cat"})))) == ["cat"]


def test_known_name_is_the_class_among_several_attributes(tmp_path: Path) -> None:
    images = read(tmp_path, file(region(attributes={"quality": "good", "Type": "a", "Label": "cat"})))
    assert class_names(images) == ["cat"]


def test_unknown_attributes_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="The regions have 'quality', 'color'; rename the attribute to 'class'"):
        read(tmp_path, file(region(attributes={"quality": "good"}), region(attributes={"color": "red"})))


def test_checked_box_is_the_class(tmp_path: Path) -> None:
    assert class_names(read(tmp_path, file(region(attributes={"class": {"cat": True, "dog": False}})))) == ["cat"]


def test_without_attributes_all_objects_have_one_class(tmp_path: Path) -> None:
    assert class_names(read(tmp_path, file(region(attributes={}), region(attributes={})))) == ["object", "object"]


@pytest.mark.parametrize(
    "value", [[], 3, {"a": 3}, {"a": {"filename": ""}}, {"a": {"filename": "a.jpg"}}, {"_via_img_metadata": []}]
)
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any) -> None:
    with pytest.raises(LabelError, match=r"a\.json"):
        read(tmp_path, value)
    assert not via.FORMAT.matches(value)


HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"


def csv_row(shape: Any, attributes: Any, name: str = "a.jpg") -> str:
    cells = (name, "9", "{}", "1", "0", json.dumps(shape), json.dumps(attributes))
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"


def read_csv(folder: Path, text: str) -> list[ImageLabels]:
    path = folder / "a.csv"
    path.write_text(text)
    assert via_csv.FORMAT.matches(text.splitlines())
    return list(via_csv.FORMAT.read(path))


@pytest.mark.parametrize("header", [HEADER, "#" + HEADER])
def test_csv_rows_are_grouped_by_image(tmp_path: Path, header: str) -> None:
    rows = csv_row(RECT, {"class": "cat"}) + csv_row({}, {}, "b.jpg") + csv_row(RECT, {"class": "dog"})
    a, b = read_csv(tmp_path, header + rows)
    assert (a.image_name, a.line) == ("a.jpg", 2)
    assert a.rows == (NamedRow(2, "cat", (10, 20, 50, 30)), NamedRow(4, "dog", (10, 20, 50, 30)))
    assert (b.image_name, b.line, b.rows) == ("b.jpg", 3, ())


def test_unusable_csv_rows_say_why(tmp_path: Path) -> None:
    [a] = read_csv(tmp_path, HEADER + csv_row([], {"class": "cat"}) + "a.jpg,9,{},1,0,{x},{y}\n")
    reasons = [(row.line, row.error.reason) for row in a.rows if isinstance(row, BadRow)]
    assert reasons == [
        (2, "the shape is null; expected a rect, circle, ellipse or polygon"),
        (3, "the attributes of the region are not JSON; a cell with commas needs quotes"),
    ]


def test_other_csv_is_a_label_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filename,region_attributes\n")
    with pytest.raises(LabelError, match="csv:1: not CSV of VIA"):
        via_csv.FORMAT.read(tmp_path / "a.csv")
