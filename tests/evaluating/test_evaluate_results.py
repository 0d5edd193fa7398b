import json
import re
from pathlib import Path

import pytest

from detector.data.open_data import open_data
from detector.errors import InputError
from detector.evaluating.evaluate import evaluate_split
from detector.evaluating.evaluate_results import evaluate_results
from detector.metrics.average_precision import AveragePrecision
from detector.predict.detector import Detector


def score_file(data: Path, split: str, results: Path) -> AveragePrecision:
    return evaluate_results(open_data(data), split, results).ap


def test_written_results_score_like_the_weights(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    evaluation = evaluate_split(Detector.load(tiny_weights, device="cpu"), open_data(tiny_data).read("val"))
    evaluation.write(None, tmp_path / "results.json")
    assert score_file(tiny_data, "val", tmp_path / "results.json") == evaluation.ap


def test_results_need_no_image_files(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text((tiny_data / "val.json").read_text())
    (tmp_path / "results.json").write_text("[]")
    assert score_file(tmp_path / "val.json", "val", tmp_path / "results.json").AP == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ('{"a": 1}', "expected COCO results, a list of objects"),
        ("[1]", "expected COCO results"),
        ('[{"image_id": 1}]', "result 0: the field 'category_id' is missing"),
    ],
)
def test_file_without_results_is_refused(tiny_data: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=message):
        score_file(tiny_data, "val", tmp_path / "results.json")


def test_categories_may_lack_names(tiny_data: Path, tmp_path: Path) -> None:
    data = json.loads((tiny_data / "val.json").read_text())
    data["categories"] = [{"id": category["id"]} for category in data["categories"]]
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text("[]")
    assert list(score_file(tmp_path / "val.json", "val", tmp_path / "results.json").per_class) == ["3", "17"]


def test_results_with_file_names_are_matched_by_name(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = json.loads((tiny_data / "val.json").read_text())
    rows = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in truth["annotations"]
    ]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    ids = {image_id: number for number, image_id in enumerate(sorted(names, reverse=True))}
    renumbered = [row | {"image_id": ids[row["image_id"]]} for row in rows]
    named = [
        new | {"file_name": f"some/folder/{names[row['image_id']]}"} for new, row in zip(renumbered, rows, strict=True)
    ]
    results = tmp_path / "results.json"
    for valid in (rows, named):
        results.write_text(json.dumps(valid))
        assert score_file(tiny_data, "val", results).AP > 0.999
    for invalid, message in [
        (renumbered, r"results\.json: result \d+: image_id \d+ is not in the dataset"),
        (
            [named[0] | {"file_name": "other.png"}],
            r"results\.json: none of the 1 image with results is in this split \(the first is other\.png\)",
        ),
    ]:
        results.write_text(json.dumps(invalid))
        with pytest.raises(InputError, match=message):
            score_file(tiny_data, "val", results)
    results.write_text(json.dumps([named[0] | {"file_name": "other.png"}, *named]))
    assert score_file(tiny_data, "val", results).AP > 0.999
    assert re.search(r"1 of \d images with results is not in this split; their results are ignored", caplog.text)


def test_names_of_other_systems_are_matched(tmp_path: Path) -> None:
    """Backslashes, another case and another Unicode form; of two names that differ in case, the exact one counts."""
    written = ["C:\\data\\night\\1.jpg", "C:\\data\\day\\1.jpg", "Zell\u00e4.JPG", "b.png", "B.png"]
    found = ["x/night/1.jpg", "x/day/1.jpg", "x/Zella\u0308.jpg", "x/b.png", "x/B.png"]
    images = [{"id": i, "file_name": name, "width": 99, "height": 99} for i, name in enumerate(written)]
    boxes = [[10 * i, 10 * i, 40, 40] for i in range(5)]
    rows = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    truth = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "val.json").write_text(json.dumps(truth))
    results = [
        {"image_id": 9, "file_name": name, "category_id": 1, "bbox": box, "score": 0.9}
        for name, box in zip(found, boxes, strict=True)
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert score_file(tmp_path / "val.json", "val", tmp_path / "results.json").AP == 1


def test_longest_common_path_selects_among_equal_names(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "day/a.png"}, {"id": 8, "file_name": "night/a.png"}]
    images = [image | {"height": 64, "width": 96} for image in images]
    boxes = [{"id": 1, "image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "test.json").write_text(json.dumps(truth))
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.9}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([row | {"file_name": "shots/night/a.png"}]))
    assert score_file(tmp_path / "test.json", "test", results).AP > 0.999
    results.write_text(json.dumps([row | {"file_name": "a.png"}]))
    with pytest.raises(InputError, match=r"name a\.png, which matches several images of"):
        score_file(tmp_path / "test.json", "test", results)
