import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from detector.data.open_data import open_data
from detector.detections import Detections
from detector.errors import ConfigError, InputError, LabelError, WeightsError
from detector.evaluating.evaluate import (
    detect_split,
    evaluate,
    evaluate_split,
    evaluation_options,
    score_split,
)
from detector.evaluating.evaluation_data import choose_split
from detector.images import write_image
from detector.model.checkpoint import load_weights, save_weights
from detector.options import IOU_THRESHOLD, SuppressionName
from detector.outputs import without_signature
from detector.predict.detector import Detector


def test_trained_network_scores_high_on_its_training_images(tiny_data: Path, tiny_weights: Path) -> None:
    assert evaluate(tiny_data, tiny_weights, split="train", device="cpu").AP50 > 0.9


def test_perfect_detections_score_one_and_none_score_zero(tiny_data: Path) -> None:
    split = open_data(tiny_data).read("train")
    perfect = {
        a.image_id: Detections(a.boxes, np.ones(len(a.boxes), np.float32), a.class_ids, split.class_names)
        for a in split.annotations
    }
    assert pytest.approx(1) == score_split(split, perfect).AP
    assert score_split(split, {}).AP == 0


def test_scoring_the_file_equals_scoring_the_annotations(tiny_data: Path, tiny_weights: Path) -> None:
    split = open_data(tiny_data).read("val")
    assert split.ground_truth is not None
    found = detect_split(Detector.load(tiny_weights, device="cpu"), split).found
    from_file = score_split(split, found).to_json()
    from_annotations = score_split(replace(split, ground_truth=None), found).to_json()
    assert from_file.pop("per_class") == from_annotations.pop("per_class")
    assert from_file == pytest.approx(from_annotations)


def test_evaluation_writes_its_numbers_and_results(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    evaluation = evaluate_split(Detector.load(tiny_weights, device="cpu"), open_data(tiny_data).read("val"))
    evaluation.write(tmp_path / "numbers.json", tmp_path / "deep" / "results.json")
    assert evaluation.ap == evaluate(tiny_data, tiny_weights, split="val", device="cpu")
    assert without_signature(json.loads((tmp_path / "numbers.json").read_text())) == evaluation.ap.to_json()
    rows = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert {row["category_id"] for row in rows} == {3, 17}


def test_loaded_detector_scores_like_its_weights(tiny_data: Path, tiny_weights: Path) -> None:
    detector = Detector.load(tiny_weights, device="cpu")
    assert evaluate(tiny_data, detector, split="val") == evaluate(tiny_data, tiny_weights, split="val", device="cpu")
    with pytest.raises(ConfigError, match="a loaded detector has its own"):
        evaluate(tiny_data, detector, device="cpu")


@pytest.mark.parametrize("suppression", get_args(SuppressionName))
def test_nms_variant_comes_from_the_caller_or_the_weights(
    tiny_data: Path, tiny_weights: Path, suppression: SuppressionName
) -> None:
    detector, split = Detector.load(tiny_weights, device="cpu"), open_data(tiny_data).read("val")
    settings = {"suppression": suppression, "class_agnostic": True}
    configured = Detector(detector.runtime, replace(detector.info, config=settings))
    score = score_split(*detect_split(configured, split))
    assert score.AP50 > 0.5
    options = evaluation_options(IOU_THRESHOLD, suppression, True)
    assert score == score_split(*detect_split(detector, split, options))
    assert score == evaluate(
        tiny_data, tiny_weights, split="val", device="cpu", suppression=suppression, class_agnostic=True
    )
    plain = detect_split(detector, split).found
    assert any(
        len(found) < len(plain[image_id]) or not np.array_equal(found.scores, plain[image_id].scores)
        for image_id, found in detect_split(configured, split).found.items()
    )


def test_unknown_nms_variant_is_refused(tiny_data: Path, tiny_weights: Path) -> None:
    with pytest.raises(ConfigError, match="expected classic or soft or diou or weighted, got 'gentle'"):
        evaluate(tiny_data, tiny_weights, split="val", device="cpu", suppression="gentle")  # type: ignore[arg-type]


def test_split_defaults_to_the_only_one_else_test(tiny_data: Path) -> None:
    assert choose_split(open_data(tiny_data), None) == "test"
    assert choose_split(open_data(tiny_data / "val.json"), None) == "val"
    assert choose_split(open_data(tiny_data), "train") == "train"


def test_all_classes_are_evaluated(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Also the classes that are not detected by default, and also if a class has the name "all"."""
    expected = evaluate(tiny_data, tiny_weights, split="val", intervals=False)
    network, info = load_weights(tiny_weights)
    shown = tmp_path / "shown.safetensors"
    save_weights(shown, network, replace(info, default_classes=(1,)))
    assert evaluate(tiny_data, shown, split="val", intervals=False) == expected
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for path in data.glob("*.json"):
        path.write_text(path.read_text().replace('"blue"', '"all"'))
    named = tmp_path / "named.safetensors"
    save_weights(named, network, replace(info, class_names=("red", "all")))
    assert evaluate(data, named, split="val", intervals=False).AP == expected.AP


def test_different_classes_are_refused(tiny_weights: Path) -> None:
    message = r"the classes of the weights are \['red', 'blue'\], but the classes of the dataset are \['star'"
    with pytest.raises(WeightsError, match=message):
        evaluate("scenes", tiny_weights, split="val", device="cpu")


def test_missing_split_is_refused(tiny_data: Path, tiny_weights: Path) -> None:
    with pytest.raises(LabelError, match=r"no split 'vall' in this dataset .* did you mean 'val'"):
        evaluate(tiny_data, tiny_weights, split="vall", device="cpu")


def test_split_of_background_images_can_be_scored(tmp_path: Path, tiny_weights: Path) -> None:
    write_image(tmp_path / "a.png", np.full((64, 96, 3), 120, np.uint8))
    names = [{"id": 3, "name": "red"}, {"id": 17, "name": "blue"}]
    data = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": names}
    (tmp_path / "test.json").write_text(json.dumps(data))
    ap = evaluate(tmp_path, tiny_weights, split="test", device="cpu")
    assert ap.AP == -1
    assert ap.per_class["red"]["objects"] == 0


def damage(folder: Path, *image_ids: int) -> None:
    for image_id in image_ids:
        (folder / "images" / f"{image_id}.png").write_bytes(b"not an image")


def test_a_damaged_image_is_left_out_of_the_ground_truth(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    split = open_data(tmp_path / "data").read("val")
    detector = Detector.load(tiny_weights, device="cpu")
    complete = detect_split(detector, split).found
    first, *others = split.annotations
    damage(tmp_path / "data", first.image_id)
    usable, found = detect_split(detector, split)
    assert found.keys() == {annotation.image_id for annotation in others}
    assert usable.ledger.found == split.ledger.found
    assert usable.ledger.dropped == len(first.boxes)
    assert usable.ledger.missing == (first.image_path,)
    expected = replace(split, annotations=tuple(others), ground_truth=None)
    assert score_split(usable, found) == score_split(expected, {i: complete[i] for i in found})
    assert "val: 1 of 4 images cannot be used" in caplog.text
    assert caplog.text.count(str(first.image_path)) == 2  # in the summary, and with the reason


def test_an_image_of_another_size_is_left_out(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    split = open_data(tmp_path / "data").read("val")
    write_image(split.annotations[0].image_path, np.zeros((96, 64, 3), np.uint8))
    usable = detect_split(Detector.load(tiny_weights, device="cpu"), split).split
    assert usable.annotations == split.annotations[1:]
    assert "the image has 64x96 pixels, but its annotation says 96x64" in usable.ledger.entries[0].reason


def test_a_split_without_usable_images_is_refused(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    split = open_data(tmp_path / "data").read("val")
    damage(tmp_path / "data", *(annotation.image_id for annotation in split.annotations))
    with pytest.raises(InputError, match=r"'val': none of its 4 images can be used; .*not an image in a supported"):
        detect_split(Detector.load(tiny_weights, device="cpu"), split)


def test_more_than_100_detections_leave_cocos_metrics_unchanged(tiny_data: Path, tiny_weights: Path) -> None:
    plain = evaluate(tiny_data, tiny_weights, split="val", device="cpu")
    extended = evaluate(tiny_data, tiny_weights, split="val", device="cpu", max_detections=250)
    assert replace(extended, many=None) == plain
    assert extended.many is not None
    assert extended.many.AP >= plain.AP
    with pytest.raises(ConfigError, match=r"max_detections: COCO's AP counts 100 .* got 100"):
        evaluate(tiny_data, tiny_weights, split="val", device="cpu", max_detections=100)
