import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.data.open_data import open_data
from detector.detections import Detections
from detector.errors import InputError
from detector.evaluating.evaluate import detect_split, evaluate, evaluate_to_files, score_split
from detector.images import write_image
from detector.ops.suppression import METHODS
from detector.predict.detector import Detector


def test_a_trained_network_scores_high_on_what_it_learned(tiny_data: Path, tiny_weights: Path) -> None:
    assert evaluate(tiny_data, tiny_weights, "train", "cpu").AP50 > 0.9


def test_detections_equal_to_the_annotations_score_one_and_none_score_zero(tiny_data: Path) -> None:
    split = open_data(tiny_data).read("train")
    perfect = {
        a.image_id: Detections(a.boxes, np.ones(len(a.boxes), np.float32), a.class_ids, split.class_names)
        for a in split.annotations
    }
    assert pytest.approx(1) == score_split(split, perfect).AP
    assert score_split(split, {}).AP == 0


def test_the_score_against_the_file_is_that_against_the_annotations(tiny_data: Path, tiny_weights: Path) -> None:
    split = open_data(tiny_data).read("val")
    assert split.ground_truth is not None
    found = detect_split(Detector.load(tiny_weights, "cpu"), split)
    one, other = score_split(split, found).to_json(), score_split(replace(split, ground_truth=None), found).to_json()
    assert one.pop("per_class") == other.pop("per_class")
    assert one == pytest.approx(other)


def test_detections_written_as_results_score_the_same_as_the_weights(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    results = tmp_path / "deep" / "results.json"
    own = evaluate_to_files(tiny_data, "val", weights=tiny_weights, device="cpu", results_path=results)
    assert own == evaluate_to_files(tiny_data, "val", detections=results, json_path=tmp_path / "numbers.json")
    assert own == evaluate(tiny_data, tiny_weights, "val", "cpu")
    assert json.loads((tmp_path / "numbers.json").read_text()) == own.to_json()
    rows = json.loads(results.read_text())
    assert {row["category_id"] for row in rows} == {3, 17}


@pytest.mark.parametrize("suppression", METHODS)
def test_suppression_is_as_asked_or_as_the_weights_own_settings_say(
    tiny_data: Path, tiny_weights: Path, suppression: str
) -> None:
    detector, split = Detector.load(tiny_weights, "cpu"), open_data(tiny_data).read("val")
    wanted = {"suppression": suppression, "class_agnostic": True}
    own = Detector(detector.runtime, replace(detector.info, config=wanted))
    score = score_split(split, detect_split(own, split))
    assert score.AP50 > 0.5
    assert score == score_split(split, detect_split(detector, split, suppression=suppression, class_agnostic=True))
    assert score == evaluate(tiny_data, tiny_weights, "val", "cpu", suppression=suppression, class_agnostic=True)
    assert score == evaluate_to_files(
        tiny_data, "val", tiny_weights, device="cpu", suppression=suppression, class_agnostic=True
    )
    plain = detect_split(detector, split)
    assert any(
        len(found) < len(plain[image_id]) or not np.array_equal(found.scores, plain[image_id].scores)
        for image_id, found in detect_split(own, split).items()
    )


def test_an_unknown_suppression_is_refused(tiny_data: Path, tiny_weights: Path) -> None:
    with pytest.raises(InputError, match="expected classic or soft or diou or weighted, got 'gentle'"):
        evaluate(tiny_data, tiny_weights, "val", "cpu", suppression="gentle")


def test_the_split_is_test_where_none_is_named_or_the_only_one(tiny_data: Path, tiny_weights: Path) -> None:
    assert evaluate_to_files(tiny_data, weights=tiny_weights) == evaluate(tiny_data, tiny_weights, "test")
    only = evaluate_to_files(tiny_data / "val.json", weights=tiny_weights)
    assert only == evaluate(tiny_data, tiny_weights, "val")


def test_other_peoples_results_need_no_images(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text((tiny_data / "val.json").read_text())
    (tmp_path / "results.json").write_text("[]")
    assert evaluate_to_files(tmp_path / "val.json", detections=tmp_path / "results.json").AP == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ('{"a": 1}', "expected COCO results, a list of objects"),
        ("[1]", "expected COCO results"),
        ('[{"image_id": 1}]', "result 0: has no 'category_id'"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(tiny_data: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=message):
        evaluate_to_files(tiny_data, "val", detections=tmp_path / "results.json")


def test_other_classes_than_the_weights_know_are_refused(tiny_weights: Path) -> None:
    with pytest.raises(InputError, match=r"the weights know the classes \['red', 'blue'\], the data set has \['star'"):
        evaluate("scenes", tiny_weights, "val", "cpu")


def test_a_split_that_is_not_there_is_refused(tiny_data: Path, tiny_weights: Path) -> None:
    with pytest.raises(InputError, match="no split 'vall'; did you mean 'val'"):
        evaluate(tiny_data, tiny_weights, "vall", "cpu")


def test_categories_may_lack_names_as_in_reading(tiny_data: Path, tmp_path: Path) -> None:
    data = json.loads((tiny_data / "val.json").read_text())
    data["categories"] = [{"id": category["id"]} for category in data["categories"]]
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text("[]")
    assert list(evaluate_to_files(tmp_path / "val.json", detections=tmp_path / "results.json").per_class) == ["3", "17"]


def test_a_split_of_background_images_alone_is_scored_without_complaint(tmp_path: Path, tiny_weights: Path) -> None:
    write_image(tmp_path / "a.png", np.full((64, 96, 3), 120, np.uint8))
    names = [{"id": 3, "name": "red"}, {"id": 17, "name": "blue"}]
    data = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": names}
    (tmp_path / "test.json").write_text(json.dumps(data))
    ap = evaluate(tmp_path, tiny_weights, "test", "cpu")
    assert ap.AP == -1
    assert ap.per_class["red"]["objects"] == 0


def test_results_that_name_their_images_are_matched_by_name_whatever_their_ids(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = json.loads((tiny_data / "val.json").read_text())
    rows = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
        for row in truth["annotations"]
    ]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    ids = {image_id: number for number, image_id in enumerate(sorted(names, reverse=True))}
    counted = [row | {"image_id": ids[row["image_id"]]} for row in rows]
    named = [
        one | {"file_name": f"some/where/{names[row['image_id']]}"} for one, row in zip(counted, rows, strict=True)
    ]
    results = tmp_path / "results.json"
    for some in (rows, named):
        results.write_text(json.dumps(some))
        assert evaluate_to_files(tiny_data, "val", detections=results).AP > 0.999
    for some, message in [
        (counted, r"results\.json: result \d+: image_id \d+ is not in the data set"),
        ([named[0] | {"file_name": "other.png"}], r"results\.json: .* on other\.png and others, and none of these is"),
    ]:
        results.write_text(json.dumps(some))
        with pytest.raises(InputError, match=message):
            evaluate_to_files(tiny_data, "val", detections=results)
    results.write_text(json.dumps([named[0] | {"file_name": "other.png"}, *named]))
    assert evaluate_to_files(tiny_data, "val", detections=results).AP > 0.999
    assert re.search(r"1 of \d images with results are not in this split: left out", caplog.text)


def test_of_images_with_one_name_that_with_the_longest_common_path_is_meant(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "day/a.png"}, {"id": 8, "file_name": "night/a.png"}]
    images = [image | {"height": 64, "width": 96} for image in images]
    boxes = [{"id": 1, "image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]
    categories = [{"id": 1, "name": "cat"}]
    truth = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "test.json").write_text(json.dumps(truth))
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.9}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([row | {"file_name": "shots/night/a.png"}]))
    assert evaluate_to_files(tmp_path / "test.json", detections=results).AP > 0.999
    results.write_text(json.dumps([row | {"file_name": "a.png"}]))
    with pytest.raises(InputError, match=r"name a\.png, which could be several images of"):
        evaluate_to_files(tmp_path / "test.json", detections=results)
