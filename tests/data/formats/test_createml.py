import json
from pathlib import Path
from typing import Any

import pytest

from detector.data.formats.createml import FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.errors import InputError, LabelError


def annotation(label: Any = "cat", **coordinates: Any) -> dict[str, Any]:
    return {"label": label, "coordinates": {"x": 30, "y": 20, "width": 40, "height": 10} | coordinates}


def read(folder: Path, value: Any, indent: int | None = 1) -> list[ImageLabels]:
    path = folder / "a.json"
    path.write_text(json.dumps(value, indent=indent))
    return list(FORMAT.read(path))


def test_center_coordinates_become_corners(tmp_path: Path) -> None:
    a, b = read(tmp_path, [{"image": "x/a.jpg", "annotations": [annotation()]}, {"image": "b.jpg", "annotations": []}])
    assert (a.image_name, a.line, a.image_hw, a.are_fractions) == ("x/a.jpg", 2, None, False)
    assert a.rows == (NamedRow(5, "cat", (10, 15, 50, 25)),)
    assert (b.image_name, b.rows) == ("b.jpg", ())


def test_keys_of_apples_documentation_are_read(tmp_path: Path) -> None:
    value = [{"imagefilename": "a.jpg", "annotation": [annotation(x="30.5", width=1.0)]}]
    [a] = read(tmp_path, value)
    assert FORMAT.matches(value)
    assert a.rows == (NamedRow(5, "cat", (30, 15, 31, 25)),)


def test_small_coordinates_are_fractions_of_the_size(tmp_path: Path) -> None:
    [a] = read(tmp_path, [{"image": "a.jpg", "annotations": [annotation(x=0.5, y=0.5, width=0.5, height=1)]}])
    assert a.are_fractions
    assert a.rows == (NamedRow(5, "cat", (0.25, 0, 0.75, 1)),)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (7, "the annotation is 7; expected an object"),
        (annotation(None), "the row has no class: `label` is empty or missing"),
        (annotation(["cat"]), "`label` is a list; expected the name of a class"),
        (annotation(x="left"), "x of `coordinates` is 'left', not a number"),
        (annotation(width=True), "width of `coordinates` is true, not a number"),
        ({"label": "cat"}, "`coordinates` is null; expected x, y, width and height"),
    ],
)
def test_unusable_rows_say_why(tmp_path: Path, bad: Any, reason: str) -> None:
    [a] = read(tmp_path, [{"image": "a.jpg", "annotations": [annotation(), bad]}], indent=None)
    good, row = a.rows
    assert isinstance(good, NamedRow)
    assert isinstance(row, BadRow)
    assert (row.line, row.error.code) == (None, "malformed_row")
    assert row.error.reason == f"image 'a.jpg', annotation 1: {reason}"


@pytest.mark.parametrize(
    "value",
    [{}, 3, None, [[]], [{}], [{"image": 3, "annotations": []}], [{"image": "a.jpg", "annotations": None}]],
)
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any) -> None:
    with pytest.raises(LabelError, match=r"a\.json"):
        read(tmp_path, value)
    assert not FORMAT.matches(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[\n{", r"a\.json:2: not JSON: .* in column 2"),
        (b"", r"a\.json:1: not JSON: .*the file is empty"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "thousands of digits"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_damaged_json_is_an_input_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        FORMAT.read(path)
