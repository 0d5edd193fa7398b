import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.formats.vott import ASSET_FORMAT, FORMAT
from detector.data.image_labels import BadRow, ImageLabels, NamedRow
from detector.data.open_data import open_data
from detector.errors import LabelError
from detector.images import write_image


def region(*tags: Any, kind: str = "RECTANGLE", **box: Any) -> dict[str, Any]:
    bounds = {"left": 1, "top": 2, "width": 3, "height": 4} | box
    return {"id": "x", "type": kind, "tags": list(tags or ("cat",)), "boundingBox": bounds, "points": []}


def asset(*regions: Any, name: str = "a.png", state: int = 2) -> dict[str, Any]:
    own = {"id": "0a", "name": name, "path": f"file:C:/x/{name}", "size": {"width": 80, "height": 40}, "state": state}
    return {"asset": own, "regions": list(regions), "version": "2.2.0"}


def export(*assets: Any) -> dict[str, Any]:
    own = {f"{i:032x}": value for i, value in enumerate(assets)}
    return {"name": "mine", "tags": [{"name": "cat", "color": "#5db300"}], "assets": own}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
    return path


def read(folder: Path, *assets: Any) -> list[ImageLabels]:
    return list(FORMAT.read(write(folder / "mine-export.json", export(*assets))))


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((40, 80, 3), np.uint8))


def test_regions_of_an_export_become_boxes(tmp_path: Path) -> None:
    a, b = read(tmp_path, asset(region(), region("dog", kind="POLYGON", width=3.5)), asset(name="b.png", state=1))
    assert FORMAT.matches(export(asset()))
    assert (a.image_name, a.image_hw) == ("a.png", (40, 80))
    assert [row.line for row in a.rows] == sorted({row.line for row in a.rows if row.line})
    boxes = [("cat", (1, 2, 4, 6)), ("dog", (1, 2, 4.5, 6))]
    assert [(row.class_name, row.corners) for row in a.rows if isinstance(row, NamedRow)] == boxes
    assert (b.image_name, b.rows) == ("b.png", ())


def test_an_image_that_was_not_visited_is_not_labeled(tmp_path: Path) -> None:
    assert [a.image_name for a in read(tmp_path, asset(), asset(name="b.png", state=0))] == ["a.png"]
    assert ASSET_FORMAT.read(write(tmp_path / "0-asset.json", asset(state=0))) == ()


def test_a_project_without_regions_is_no_export() -> None:
    project = {"name": "mine", "assets": {"0a": {"id": "0a", "name": "a.png", "state": 2}}}
    assert not FORMAT.matches(project)
    assert not ASSET_FORMAT.matches(project)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (3, "the region is 3; expected an object"),
        (region("cat", "dog"), "the region has 2 tags, 'cat', ...; keep one"),
        (region("cat") | {"tags": []}, "the row has no class: `tags` is empty or missing"),
        (region() | {"boundingBox": None}, "`boundingBox` is null; expected left, top, width and height"),
        (region(left="x"), "left of `boundingBox` is 'x', not a number"),
    ],
)
def test_unusable_regions_say_why(tmp_path: Path, bad: Any, reason: str) -> None:
    [labels] = read(tmp_path, asset(region(), bad))
    good, row = labels.rows
    assert isinstance(good, NamedRow)
    assert isinstance(row, BadRow)
    assert row.error.reason == reason


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"assets": []}, "not an export of VoTT: `assets` is a list"),
        (export({"asset": {}, "regions": []}), "the name of the asset is null; expected the file name"),
        (export(asset() | {"regions": None}), "image 'a.png': `regions` is null; expected a list"),
    ],
)
def test_wrong_types_are_label_errors(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(LabelError, match=rf"mine\.json.*{message}"):
        FORMAT.read(write(tmp_path / "mine.json", value))


def test_files_of_single_images_are_read(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/new.png", "val/b.png"):
        image(tmp_path / name)
    write(tmp_path / "train/0-asset.json", asset(region(), region("cat", "dog")))
    write(tmp_path / "train/1-asset.json", asset(region(), name="gone.png"))
    write(tmp_path / "val/2-asset.json", asset(region("dog"), name="b.png"))
    data = open_data(tmp_path)
    assert data.description.startswith("VoTT asset JSON folder")
    assert data.split_names == ("train", "val")
    train = data.read("train")
    assert train.class_names == data.read("val").class_names == ("cat", "dog")
    assert [a.boxes.tolist() for a in train.annotations] == [[[1, 2, 4, 6]]]
    assert sorted(entry.code for entry in train.ledger.entries) == ["image_missing", "malformed_row"]
    assert [note for note in train.ledger.notes if "1 image without labels" in note and "new.png" in note]


def test_an_export_is_preferred_to_the_files_of_single_images(tmp_path: Path) -> None:
    image(tmp_path / "vott-json-export/a.png")
    write(tmp_path / "vott-json-export/mine-export.json", export(asset(region(), region("dog"))))
    write(tmp_path / "0-asset.json", asset(region()))
    data = open_data(tmp_path)
    assert data.description.endswith("(not used: 1 VoTT asset JSON file in the same folder)")
    assert data.read("train").ledger.used == 2
