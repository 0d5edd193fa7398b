import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from detector.cli.commands import main
from detector.data.open_data import open_data
from detector.detecting.data_ids import coco_file_beside, read_ids
from detector.errors import LabelError
from detector.evaluating.evaluate_results import evaluate_results
from detector.media.sources import find_sources
from detector.metrics.average_precision import average_precision
from detector.options import ReadOptions


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset whose images have other ids, in another order than their names."""
    shutil.copytree(tiny_data, tmp_path / "data")
    new_ids = dict(zip(range(1, 21), np.random.default_rng(1).permutation(np.arange(1, 21)).tolist(), strict=True))
    for path in (tmp_path / "data").glob("*.json"):
        values = json.loads(path.read_text())
        for image in values["images"]:
            image["id"] = new_ids[image["id"]]
        for row in values["annotations"]:
            row["image_id"] = new_ids[row["image_id"]]
        for category, number in zip(values["categories"], (90, 4), strict=True):
            category["id"] = number
        for row in values["annotations"]:
            row["category_id"] = {3: 90, 17: 4}[row["category_id"]]
        path.write_text(json.dumps(values))
    return tmp_path / "data"


def load_as_pycocotools(truth: Path, results: Path) -> list[dict[str, object]]:
    """Return the rows of a results file, after the checks of `pycocotools.coco.COCO.loadRes`."""
    rows, values = json.loads(results.read_text()), json.loads(truth.read_text())
    image_ids = {image["id"] for image in values["images"]}
    assert isinstance(rows, list), "results is not an array of objects"
    assert {row["image_id"] for row in rows} <= image_ids, "Results do not correspond to current coco set"
    assert "caption" not in rows[0]
    assert rows[0]["bbox"] != []
    return rows


@pytest.mark.parametrize("with_data", [True, False])
def test_results_match_the_ground_truth_only_with_data(
    data: Path, tiny_weights: Path, tmp_path: Path, with_data: bool, caplog: pytest.LogCaptureFixture
) -> None:
    truth = json.loads((data / "test.json").read_text())
    images = [str(data / "images" / image["file_name"]) for image in truth["images"]]
    arguments = ["detect", *images, "--weights", str(tiny_weights), "--device", "cpu", "--conf", "0.001"]
    arguments += ["--no-images", "--out", str(tmp_path / "out"), *(["--data", str(data)] if with_data else [])]
    caplog.set_level("INFO")
    assert main(arguments) == 0
    assert ("numbers the images 1, 2, ...; to write the image ids of a dataset" in caplog.text) is not with_data
    results = tmp_path / "out" / "detections.json"
    if not with_data:
        with pytest.raises(AssertionError, match="Results do not correspond"):
            load_as_pycocotools(data / "test.json", results)
        return
    rows = load_as_pycocotools(data / "test.json", results)
    ap = average_precision(truth, rows).AP
    assert ap == evaluate_results(open_data(data), "test", results).ap.AP > 0.2
    assert main(["evaluate", "--data", str(data), "--split", "test", "--detections", str(results)]) == 0


def test_results_of_evaluate_match_the_ground_truth(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    arguments = ["evaluate", "--data", str(tiny_data), "--weights", str(tiny_weights), "--device", "cpu"]
    assert main([*arguments, "--results", str(path)]) == 0
    rows = load_as_pycocotools(tiny_data / "test.json", path)
    truth = json.loads((tiny_data / "test.json").read_text())
    assert average_precision(truth, rows) == evaluate_results(open_data(tiny_data), "test", path).ap


def test_images_and_classes_outside_the_data_set_are_refused(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "images" / "1.png", tmp_path / "other.png")
    sources = find_sources([str(data / "images" / "1.png"), str(tmp_path / "other.png")])
    with pytest.raises(LabelError, match=r"no ids for 1 of 2 images, .* \(the first is .*other\.png\)"):
        read_ids(str(data), sources, ReadOptions())
    ids = read_ids(str(data), sources[:1], ReadOptions())
    assert ids.categories_of(("blue", "red")) == (4, 90)
    with pytest.raises(LabelError, match="the dataset has no class 'green', which the weights detect"):
        ids.categories_of(("red", "green"))


def test_equal_ids_of_two_splits_are_refused(data: Path) -> None:
    val, test = (json.loads((data / f"{name}.json").read_text()) for name in ("val", "test"))
    test["images"][0]["id"] = val["images"][0]["id"]
    test["annotations"] = []
    (data / "test.json").write_text(json.dumps(test))
    names = [values["images"][0]["file_name"] for values in (val, test)]
    sources = find_sources([str(data / "images" / name) for name in names])
    with pytest.raises(LabelError, match=r"have the same id .* in two splits; detect in the images of one split"):
        read_ids(str(data), sources, ReadOptions())


def test_a_coco_file_beside_the_images_is_found(data: Path, tmp_path: Path) -> None:
    assert coco_file_beside(find_sources([str(data / "images")])) == data / "test.json"
    for path in data.glob("*.json"):
        path.unlink()
    (data / "images" / "other.json").write_text("[]")
    assert coco_file_beside(find_sources([str(data / "images")])) is None
    assert coco_file_beside(find_sources(["scenes"])) is None


def test_links_to_one_file_keep_their_own_ids(data: Path, tmp_path: Path) -> None:
    images = data / "images"
    ids = {
        image["file_name"]: image["id"]
        for path in data.glob("*.json")
        for image in json.loads(path.read_text())["images"]
    }
    for name in ("2.png", "1.png"):
        (images / name).unlink(missing_ok=True)
        (images / name).symlink_to("3.png")
    sources = find_sources([str(images / f"{number}.png") for number in (1, 2, 3)])
    found = read_ids(str(data), sources, ReadOptions()).image_ids
    assert found == {str(images / name): ids[name] for name in ("1.png", "2.png", "3.png")}
    (tmp_path / "other.png").symlink_to(images / "4.png")
    other = find_sources([str(tmp_path / "other.png")])
    assert list(read_ids(str(data), other, ReadOptions()).image_ids.values()) == [ids["4.png"]]


def test_an_image_with_several_ids_is_refused(data: Path) -> None:
    values = json.loads((data / "test.json").read_text())
    image = values["images"][0]
    values["images"] = [{**image, "id": 500}]
    values["annotations"] = []
    (data / "val.json").write_text(json.dumps(values))
    sources = find_sources([str(data / "images" / image["file_name"])])
    with pytest.raises(LabelError, match=r"has several ids \(\d+, 500\): it is in two splits"):
        read_ids(str(data), sources, ReadOptions())
    assert list(read_ids(str(data / "test.json"), sources, ReadOptions()).image_ids.values()) == [image["id"]]
