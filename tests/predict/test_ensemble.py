"""Ensembles: classes matched by name, options, evaluation, commands, and what is refused."""

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import detector
from detector import Detector, Ensemble
from detector.cli.commands import main
from detector.cli.detect import _weights_and_sources
from detector.data.open_data import open_data
from detector.detecting.ray_engine import Worker
from detector.errors import ConfigError, InputError
from detector.evaluating.evaluate import evaluate_split
from detector.media.sources import find_sources
from detector.model.checkpoint import load_weights, save_weights
from detector.model.network import GridNetwork
from detector.options import DetectOptions
from detector.trained_classes import TrainedClasses
from detector.version import VERSION


def with_classes(weights: Path, path: Path, names: tuple[str, ...], order: list[int], input_size: int = 0) -> Path:
    """Write a copy of weights with other class names, whose outputs are in another order."""
    network, info = load_weights(weights)
    _reorder(network, order)
    hw = (input_size, input_size) if input_size else info.input_hw
    save_weights(path, network, replace(info, class_names=names, category_ids=(3, 17), input_hw=hw))
    return path


def _reorder(network: GridNetwork, order: list[int]) -> None:
    for output in network.outputs:
        assert output.bias is not None
        for tensor in (output.weight.data, output.bias.data):
            tensor[: len(order)] = tensor[order].clone()


@pytest.fixture
def image(tiny_data: Path) -> Path:
    return tiny_data / "images" / "20.png"


def test_same_network_twice_changes_nothing(tiny_weights: Path, image: Path) -> None:
    single = Detector.load(tiny_weights)
    both = Ensemble([single, single])
    expected, found = single.detect(image, score_threshold=0.3), both.detect(image, score_threshold=0.3)
    assert len(found)
    assert found.boxes == pytest.approx(expected.boxes, abs=1e-3)
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)


def test_classes_are_matched_by_name_not_by_order(tiny_weights: Path, image: Path, tmp_path: Path) -> None:
    swapped = with_classes(tiny_weights, tmp_path / "swapped.safetensors", ("blue", "red"), [1, 0])
    expected = Detector.load(tiny_weights).detect(image, score_threshold=0.3)
    found = Ensemble.load([tiny_weights, swapped]).detect(image, score_threshold=0.3)
    assert found.class_names == ("red", "blue")
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)


def test_class_of_one_detector_keeps_its_score(tiny_weights: Path, image: Path, tmp_path: Path) -> None:
    other = with_classes(tiny_weights, tmp_path / "other.safetensors", ("red", "green"), [0, 1])
    ensemble = Ensemble.load([tiny_weights, other])
    assert ensemble.class_names == ("red", "blue", "green")
    assert ensemble.info.category_ids == (3, 17, 18)  # 17 is taken by blue
    single = Detector.load(tiny_weights).detect(image, score_threshold=0.3)
    found = ensemble.detect(image, score_threshold=0.3)
    for name in ("blue", "green"):
        assert found[found.labels == name].scores == pytest.approx(single[single.labels == "blue"].scores, abs=1e-5)
    only = ensemble.detect(image, score_threshold=0.3, classes=["green"])
    assert set(only.labels.tolist()) <= {"green"}
    assert len(only) == (found.labels == "green").sum()


def test_members_with_other_input_sizes_are_evaluated(
    tiny_weights: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    larger = with_classes(tiny_weights, tmp_path / "larger.safetensors", ("red", "blue"), [0, 1], input_size=128)
    ensemble = Ensemble.load([tiny_weights, larger])
    split = open_data(tiny_data).read("test")
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate_split(ensemble, split)
    images = [annotation.image_path for annotation in split.annotations]
    options = {"score_threshold": 0.001, "max_detections": 100, "multi_label": True}
    rows = [
        (row["image_id"], round(row["score"], 4))
        for annotation, found in zip(split.annotations, ensemble.detect(images, **options), strict=True)  # type: ignore[call-overload]
        for row in found.to_coco(annotation.image_id, split.category_ids)
    ]
    assert sorted(rows) == sorted((row["image_id"], round(row["score"], 4)) for row in evaluation.results)
    with pytest.raises(ConfigError, match="different input sizes"):
        ensemble.detect_letterboxed([])


def test_options_of_single_weights_are_refused(tiny_weights: Path, image: Path) -> None:
    ensemble = Ensemble.load([tiny_weights, tiny_weights])
    with pytest.raises(ConfigError, match=r"--conf auto.*these weights alone"):
        ensemble.detect(image, score_threshold="auto")
    with pytest.raises(ConfigError, match="--calibrated"):
        ensemble.detect(image, calibrated=True)
    with pytest.raises(ConfigError, match="one for each of 2 classes"):
        ensemble.detect(image, score_threshold=(0.1, 0.2, 0.3))
    with pytest.raises(ConfigError, match="no class 'green'"):
        ensemble.detect(image, classes=["green"])


def test_work_that_needs_one_network_is_refused(tiny_weights: Path, tiny_data: Path) -> None:
    ensemble = Ensemble.load([tiny_weights, tiny_weights])
    with pytest.raises(ConfigError, match="no single network"):
        ensemble.predict_letterboxed([np.zeros((64, 96, 3), np.uint8)])
    with pytest.raises(InputError, match="no single network"):
        detector.choose_thresholds(tiny_data, ensemble, min_precision=0.5)


@pytest.mark.parametrize("count", [0, 1])
def test_ensemble_needs_two_detectors(tiny_weights: Path, count: int) -> None:
    with pytest.raises(ConfigError, match="at least two detectors"):
        Ensemble([Detector.load(tiny_weights)] * count)


def test_wrong_members_and_thresholds_are_refused(tiny_weights: Path, tmp_path: Path) -> None:
    single = Detector.load(tiny_weights)
    with pytest.raises(ConfigError, match=r"at least two detectors, got 1"):
        Ensemble(single)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="detector 2 of an ensemble: expected a Detector"):
        Ensemble([single, "cells"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="detector 2 of an ensemble: expected a Detector"):
        Ensemble([single, Ensemble([single, single])])
    with pytest.raises(ConfigError, match="fusion_iou"):
        Ensemble([single, single], fusion_iou=1.5)
    same = with_classes(tiny_weights, tmp_path / "same.safetensors", ("red", "red"), [0, 1])
    with pytest.raises(ConfigError, match="two of its classes have the name 'red'"):
        Ensemble.load([tiny_weights, same])


def test_ensemble_is_pickled_and_copied(tiny_weights: Path, image: Path) -> None:
    ensemble = Ensemble.load([tiny_weights, tiny_weights], fusion_iou=0.7)
    again = pickle.loads(pickle.dumps(ensemble))
    assert again.fusion_iou == 0.7
    assert np.array_equal(again.detect(image).scores, ensemble.detect(image).scores)
    assert again.__copy__().class_names == ensemble.class_names


def test_values_of_weights_are_divided_from_images(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    values = [str(tiny_weights), "scenes", "b.onnx", "photo.jpg", str(tmp_path), "rtsp://host/a.onnx"]
    assert _weights_and_sources(values) == (values[:3], values[3:])
    assert _weights_and_sources(["cells", "photo.safetensors.jpg"]) == (["cells"], ["photo.safetensors.jpg"])
    assert _weights_and_sources(["cells", "b.tflite", "a.jpg"]) == (["cells", "b.tflite"], ["a.jpg"])
    urls = ["s3://bucket/a.onnx", "s3://bucket/a.jpg"]
    assert _weights_and_sources(urls) == (urls[:1], urls[1:])


def test_folder_with_the_name_of_shipped_weights_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _weights_and_sources(["a.safetensors", "cells"]) == (["a.safetensors"], ["cells"])


def test_commands_accept_several_weights(
    tiny_weights: Path, tiny_data: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = with_classes(tiny_weights, tmp_path / "other.safetensors", ("red", "blue"), [0, 1], input_size=128)
    weights = ["--weights", str(tiny_weights), str(other)]
    assert main(["detect", *weights, str(image), "--out", str(tmp_path / "found"), "--no-images"]) == 0
    assert main(["detect", str(image), *weights, "--out", str(tmp_path / "found"), "--skip-done", "--no-images"]) == 0
    assert json.loads((tmp_path / "found" / "detections.json").read_text())
    # Another ensemble must not continue the results of this one.
    swapped = ["--weights", str(other), str(tiny_weights)]
    assert main(["detect", str(image), *swapped, "--out", str(tmp_path / "found"), "--skip-done", "--no-images"]) == 2
    report = ["--report", str(tmp_path / "report"), "--no-intervals"]
    assert main(["evaluate", "--data", str(tiny_data), *weights, *report]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--data", str(tiny_data), *weights, "--calibrate"]) == 2
    assert "an ensemble has several" in capsys.readouterr().err


def test_explain_refuses_several_weights(
    tiny_weights: Path, tiny_data: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for weights in ([str(tiny_weights), "cells"], [str(tiny_weights), str(tiny_weights), str(image)]):
        assert main(["explain", "--data", str(tiny_data), "--weights", *weights]) == 2
        assert f"explain: {weights[1]} is weights, not images" in capsys.readouterr().err


def test_review_detects_with_an_ensemble_but_not_with_merged_classes(
    tiny_weights: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["review", "--data", str(tiny_data), "--split", "val", "--out", str(tmp_path / "review"), "--weights"]
    assert main([*command, str(tiny_weights), str(tiny_weights)]) == 0
    merged = with_classes(tiny_weights, tmp_path / "merged.safetensors", ("x", "y"), [0, 1])
    network, info = load_weights(merged)
    learned = TrainedClasses(("red", "blue", "green"), (("red", "blue"), ("green",)))
    save_weights(merged, network, replace(info, trained_classes=learned))
    capsys.readouterr()
    assert main([*command, str(merged)]) == 2
    error = capsys.readouterr().err
    assert "the weights learned x (merged from red, blue), y (merged from green), and review compares all" in error


def test_ensemble_detects_with_every_option_of_the_command(
    tiny_weights: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = with_classes(tiny_weights, tmp_path / "other.safetensors", ("blue", "red"), [1, 0], input_size=128)
    weights = ["--weights", str(tiny_weights), str(other), "--out", str(tmp_path / "found"), "--conf", "0.3"]
    formats = ["--save-txt", "--save-conf", "--save-json", "--save-crops", "--csv", "--counts"]
    views = ["--tile", "64", "--tta", "--classes", "blue", "red", "--agnostic-nms"]
    assert main(["detect", str(image), *weights, *formats, *views]) == 0
    [shown] = json.loads((tmp_path / "found/json/20.json").read_text())["detections"][:1]
    assert shown["class"] in ("red", "blue")
    rows = (tmp_path / "found/labels/20.txt").read_text().splitlines()
    assert len(rows) == len((tmp_path / "found/detections.csv").read_text().splitlines()) - 1 > 0


def test_ensemble_tracks_objects_in_a_video(tiny_weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    video, out = tmp_path / "video.avi", tmp_path / "found"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 64))
    for _ in range(4):
        frame = np.full((64, 96, 3), 115, np.uint8)
        frame[20:44, 60:86] = (230, 20, 20)
        writer.write(frame)
    writer.release()
    command = ["detect", str(video), "--weights", str(tiny_weights), str(tiny_weights), "--out", str(out)]
    assert main([*command, "--track", "--every", "2", "--conf", "0.3"]) == 0
    _, *frames = [json.loads(line) for line in (out / "video.jsonl").read_text().splitlines()]
    assert len(frames) == 2
    assert all(row["track_id"] > 0 for row in frames[1]["detections"])


def test_ensemble_detects_in_a_worker_of_ray(tiny_weights: Path, image: Path, tmp_path: Path) -> None:
    ensemble = Ensemble.load([tiny_weights, tiny_weights])
    options = ensemble.resolve_options(DetectOptions(score_threshold=0.3))
    worker = Worker(pickle.dumps(ensemble), options, str(tmp_path), VERSION)
    [source] = find_sources([str(image)])
    batch = {"start": np.array([0]), "images": [pickle.dumps([source.read])]}
    [[(_, found)]] = map(pickle.loads, worker(batch)["results"])
    assert found.to_json() == ensemble.detect(image, score_threshold=0.3).to_json()
