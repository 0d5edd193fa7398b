"""The function `explain` on a tiny dataset: labels in several forms, runtimes, files, and wrong input."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detector
from detector import DetectOptions, Detector
from detector.cli.commands import main
from detector.data.open_data import open_data
from detector.errors import ConfigError, FileError, InputError, LabelError, WeightsError
from detector.explaining.explain import RESULT_NAME, explain
from detector.explaining.explanation import Explanation
from detector.graph.export_format import Format
from detector.images import read_image, write_image
from detector.manifest import MANIFEST_NAME
from detector.options import RuntimeName

STRICT = 0.82
"""A score threshold at which the tiny network misses objects."""


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


@pytest.fixture(scope="module")
def explained(tiny: Detector, tiny_data: Path) -> Explanation:
    """All images of the test split."""
    return explain([], tiny, data=tiny_data, score_threshold=STRICT)


def first_image(data: Path) -> Path:
    """Return the first image of the test split."""
    return data / "images" / "17.png"


def changed_labels(data: Path, folder: Path, change: Any) -> Path:
    """Write a copy of the test labels that a function has changed, and return its path."""
    labels = json.loads((data / "test.json").read_text())
    change(labels)
    path = folder / "labels.json"
    path.write_text(json.dumps(labels))
    return path


def test_counts_add_up_over_the_split(explained: Explanation, tiny_data: Path) -> None:
    counts = explained.counts
    assert len(explained.images) == 4
    assert counts.objects == len(json.loads((tiny_data / "test.json").read_text())["annotations"])
    assert counts.found + sum(counts.misses.values()) == counts.objects
    assert sum(counts.misses.values()) > 0


def test_detections_are_those_of_the_detector(explained: Explanation, tiny: Detector) -> None:
    for image in explained.images:
        found = tiny.detect(image.name, score_threshold=STRICT)
        assert np.array_equal(found.boxes, image.outcome.boxes)
        assert np.array_equal(found.scores, image.outcome.scores)


def test_proposed_settings_find_the_object_in_the_detector(tiny_weights: Path, tiny_data: Path) -> None:
    explanation = explain([], tiny_weights, data=tiny_data, score_threshold=STRICT, device="cpu")
    names = set()
    for image in explanation.images:
        for miss, settings in zip(image.misses, image.settings, strict=True):
            box = image.annotation.boxes[miss.object]
            for setting in settings:
                names.add(setting.name)
                size = int(setting.value) if setting.name == "imgsz" else None
                model = Detector.load(tiny_weights, device="cpu", input_size=size)
                options = setting.apply(explanation.options)
                found = model.detect_image(image.name, options)
                same_class = found.boxes[found.class_ids == image.annotation.class_ids[miss.object]]
                assert max(iou(own, box) for own in same_class) >= 0.5
    assert "conf" in names


def iou(a: Any, b: Any) -> float:
    """Return the IoU of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    return float(inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside))


def test_prices_are_false_positives_on_val(explained: Explanation, tiny: Detector, tiny_data: Path) -> None:
    now, by_setting = explained.prices.now, explained.prices.by_setting
    assert now is not None
    assert (now.images, now.objects) == (4, 8)
    split = open_data(tiny_data).read("val")
    for setting, price in by_setting.items():
        if setting.name != "conf":
            continue
        options = tiny.resolve_options(setting.apply(explained.options))
        wrong = 0
        for annotation in split.annotations:
            found = tiny.detect_image(split.decode(annotation), options)
            remaining = list(range(len(annotation.boxes)))
            for box, class_id in zip(found.boxes, found.class_ids, strict=True):
                own = [k for k in remaining if annotation.class_ids[k] == class_id]
                best = max(own, key=lambda k: iou(box, annotation.boxes[k]), default=None)
                if best is None or iou(box, annotation.boxes[best]) < 0.5:
                    wrong += 1
                else:
                    remaining.remove(best)
        assert price.false_positives == wrong
        change = explained.prices.change(setting)
        assert change is not None
        assert change.false_positives == pytest.approx((wrong - now.false_positives) / 4)
    assert any(setting.name == "conf" for setting in by_setting)


def test_single_image_has_the_explanation_it_has_in_the_split(
    explained: Explanation, tiny: Detector, tiny_data: Path
) -> None:
    alone = explain(first_image(tiny_data), tiny, data=tiny_data, score_threshold=STRICT)
    [same] = [image for image in explained.images if image.name.name == "17.png"]
    assert alone.images[0].misses == same.misses
    assert alone.images[0].false_positives == same.false_positives


def test_exports_give_the_same_causes(tiny_weights: Path, tiny_data: Path, tmp_path: Path, tiny: Detector) -> None:
    expected = explain([], tiny, data=tiny_data, score_threshold=STRICT).counts
    for name in ("tiny.onnx", "tiny_openvino"):
        kind: Format = "onnx" if name == "tiny.onnx" else "openvino"
        detector.export(tiny_weights, tmp_path / name, format=kind, certify=False)
        runtimes: tuple[RuntimeName, ...] = ("onnxruntime", "openvino") if kind == "onnx" else ("openvino",)
        for runtime in runtimes:
            explanation = explain([], tmp_path / name, data=tiny_data, score_threshold=STRICT, runtime=runtime)
            assert explanation.counts == expected
            assert "gives no features" in explanation.similar_note
            assert not any(s.name == "imgsz" for image in explanation.images for own in image.settings for s in own)


def test_export_with_nms_is_refused(tiny_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    detector.export(tiny_weights, tmp_path / "nms.onnx", certify=False, nms=DetectOptions())
    with pytest.raises(WeightsError, match="contains NMS"):
        explain([], tmp_path / "nms.onnx", data=tiny_data)


# --- labels


def test_truth_file_gives_the_same_causes(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    expected = explain(first_image(tiny_data), tiny, data=tiny_data, score_threshold=STRICT).images[0].misses
    # A COCO file without images: the image is somewhere else.
    truth = changed_labels(tiny_data, tmp_path, lambda labels: None)
    explanation = explain(first_image(tiny_data), tiny, truth=truth, score_threshold=STRICT)
    assert explanation.images[0].misses == expected
    assert explanation.prices.now is None
    assert "no prices" in explanation.prices.note
    # Any other format that is read.
    detector.convert(tiny_data, "voc", tmp_path / "voc")
    [label] = (tmp_path / "voc").rglob("17.xml")
    image = next((tmp_path / "voc").rglob("17.png"))
    explanation = explain(image, tiny, truth=label.parents[1], score_threshold=STRICT)
    assert [miss.cause for miss in explanation.images[0].misses] == [miss.cause for miss in expected]


def test_classes_in_another_order_are_matched_by_name(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    def exchange(labels: dict[str, Any]) -> None:
        labels["categories"] = [{"id": 17, "name": "red"}, {"id": 3, "name": "blue"}]
        for row in labels["annotations"]:
            row["category_id"] = 20 - row["category_id"]

    truth = changed_labels(tiny_data, tmp_path, exchange)
    assert explain(first_image(tiny_data), tiny, truth=truth).counts == (
        explain(first_image(tiny_data), tiny, data=tiny_data).counts
    )


def test_truth_file_with_partial_labels_names_absent_classes(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    def only_red_is_absent(labels: dict[str, Any]) -> None:
        labels["annotations"] = []
        for image in labels["images"]:
            image["neg_category_ids"] = [3]

    truth = changed_labels(tiny_data, tmp_path, only_red_is_absent)
    [image] = explain(first_image(tiny_data), tiny, truth=truth, score_threshold=0.05).images
    wrong = image.outcome.class_ids[image.outcome.matches.false_positives]
    assert set(image.outcome.class_ids.tolist()) == {0, 1}
    assert set(wrong.tolist()) == {0}


def test_unknown_class_is_refused(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    def rename(labels: dict[str, Any]) -> None:
        labels["categories"][0]["name"] = "green"

    with pytest.raises(WeightsError, match="green"):
        explain(first_image(tiny_data), tiny, truth=changed_labels(tiny_data, tmp_path, rename))


def test_image_without_objects_has_only_false_positives(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    truth = changed_labels(tiny_data, tmp_path, lambda labels: labels["annotations"].clear())
    explanation = explain(first_image(tiny_data), tiny, truth=truth, data=tiny_data, score_threshold=0.05)
    counts = explanation.counts
    assert (counts.objects, counts.found, sum(counts.misses.values())) == (0, 0, 0)
    assert {kind for kind, count in counts.false_positives.items() if count} == {"background"}
    assert "no missed object" in explanation.prices.note
    [image] = explanation.images
    for crops in image.similar.values():
        assert len(crops) == 3
        assert [crop.similarity for crop in crops] == sorted((crop.similarity for crop in crops), reverse=True)
        assert all(crop.image_path.name in {f"{number}.png" for number in range(1, 13)} for crop in crops)
    assert image.similar


def test_no_detections_leave_every_object_missed(tiny: Detector, tiny_data: Path) -> None:
    counts = explain(first_image(tiny_data), tiny, data=tiny_data, score_threshold=1).counts
    assert counts.found == sum(counts.false_positives.values()) == 0
    assert sum(counts.misses.values()) == counts.objects > 0


def test_crowd_regions_are_neither_missed_nor_wrong(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    def mark(labels: dict[str, Any]) -> None:
        for row in labels["annotations"]:
            row |= {"iscrowd": 1, "bbox": [0, 0, 96, 64], "area": 96 * 64}
        labels["annotations"] += [
            row | {"id": 1000 + row["id"], "category_id": 20 - row["category_id"]} for row in labels["annotations"]
        ]

    truth = changed_labels(tiny_data, tmp_path, mark)
    counts = explain(first_image(tiny_data), tiny, truth=truth, score_threshold=0.05).counts
    assert (counts.objects, sum(counts.misses.values()), sum(counts.false_positives.values())) == (0, 0, 0)


# --- wrong input


def test_image_without_labels_is_refused(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copy(first_image(tiny_data), tmp_path / "other.png")
    with pytest.raises(LabelError, match=r"other.png: this image is not in the labels"):
        explain(tmp_path / "other.png", tiny, data=tiny_data)


def test_images_in_the_output_folder_are_never_replaced(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    image = tmp_path / "17.jpg"
    write_image(image, read_image(first_image(tiny_data)))
    before = image.read_bytes()
    truth = changed_labels(tiny_data, tmp_path, lambda labels: labels["images"][0].update(file_name="17.jpg"))
    with pytest.raises(FileError, match="in the output folder"):
        explain(image, tiny, truth=truth, out=tmp_path, overwrite=True)
    assert image.read_bytes() == before


def test_loaded_detector_has_its_own_values(tiny: Detector, tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match="its own values"):
        explain(first_image(tiny_data), tiny, data=tiny_data, input_size=64)


def test_labels_are_needed(tiny: Detector, tiny_data: Path) -> None:
    with pytest.raises(InputError, match="give a dataset"):
        explain(first_image(tiny_data), tiny)


def test_image_of_another_size_is_no_labeled_image(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "17.png", np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(LabelError, match="10x10 pixels"):
        explain(tmp_path / "17.png", tiny, data=tiny_data)


def test_labels_of_one_name_serve_one_image_only(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(first_image(tiny_data), tmp_path / folder / "17.png")
    with pytest.raises(LabelError, match="already used"):
        explain([tmp_path / "a" / "17.png", tmp_path / "b" / "17.png"], tiny, data=tiny_data)


def test_images_of_the_same_name_in_two_folders(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    images, rows = [], []
    for number, folder in enumerate(("a", "b"), 1):
        (tmp_path / "data" / folder).mkdir(parents=True)
        shutil.copy(tiny_data / "images" / f"{16 + number}.png", tmp_path / "data" / folder / "x.png")
        images.append({"id": number, "file_name": f"{folder}/x.png", "height": 64, "width": 96})
        rows.append({"id": number, "image_id": number, "category_id": 3, "bbox": [1, 1, 20, 20], "area": 400})
    categories = [{"id": 3, "name": "red"}, {"id": 17, "name": "blue"}]
    labels = {"images": images, "annotations": rows, "categories": categories}
    (tmp_path / "data" / "train.json").write_text(json.dumps(labels))
    data = tmp_path / "data"
    explanation = explain([data / "a" / "x.png", data / "b" / "x.png"], tiny, data=data, out=tmp_path / "out")
    assert [image.annotation.image_id for image in explanation.images] == [1, 2]
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"x.jpg", "x-2.jpg"}
    shutil.copy(tiny_data / "images" / "17.png", tmp_path / "x.png")
    with pytest.raises(LabelError, match="2 images of the labels have this file name"):
        explain(tmp_path / "x.png", tiny, data=data)


# --- files and the command line


def test_command_writes_images_and_json(
    tiny_weights: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = ["explain", "--data", str(tiny_data), "--weights", str(tiny_weights), "--conf", f"{STRICT}"]
    assert main(command) == main(command) == 0
    output = capsys.readouterr().out
    assert "see explained-2" in output
    assert "objects found in 4 images" in output
    names = {path.name for path in (tmp_path / "explained").iterdir()} - {MANIFEST_NAME, ".detector.lock"}
    assert names == {"17.jpg", "18.jpg", "19.jpg", "20.jpg", RESULT_NAME}
    values = json.loads((tmp_path / "explained" / RESULT_NAME).read_text())
    assert len(values["images"]) == 4
    missed = [o for image in values["images"] for o in image["objects"] if not o["found"]]
    assert len(missed) == sum(values["counts"]["missed"].values()) > 0
    assert all(o["cause"] and o["text"] for o in missed)
    assert all(image["annotated"] in names for image in values["images"])


def test_annotated_image_shows_the_image_and_all_causes(tiny: Detector, tiny_data: Path, tmp_path: Path) -> None:
    explain(first_image(tiny_data), tiny, data=tiny_data, out=tmp_path / "out", score_threshold=STRICT)
    drawn, image = read_image(tmp_path / "out" / "17.jpg"), read_image(first_image(tiny_data))
    assert drawn.shape[1] == 1100
    assert drawn.shape[0] > 1100 * image.shape[0] / image.shape[1]
    magenta = np.abs(drawn.astype(int) - (220, 38, 127)).max(axis=2) < 40
    assert magenta.sum() > 500


def test_image_that_cannot_be_read_is_reported(
    tiny_weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    image = tmp_path / "data" / "images" / "18.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    status = main(
        ["explain", "--data", str(tmp_path / "data"), "--weights", str(tiny_weights), "--out", str(tmp_path / "out")]
    )
    assert status == 3
    values = json.loads((tmp_path / "out" / RESULT_NAME).read_text())
    assert [Path(name).name for name in values["failed"]] == ["18.png"]
    assert len(values["images"]) == 3
    assert "18.png" in capsys.readouterr().out
