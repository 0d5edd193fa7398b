"""Thresholds and calibration on val: measured on test, saved with weights, used by other commands."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from detector.cli.commands import main
from detector.data.open_data import open_data
from detector.errors import ConfigError, FileError, LabelError
from detector.evaluating.decisions import Decided, choose_thresholds, decide, save_decisions
from detector.files import file_sha256
from detector.metrics.operating_point import Goal
from detector.model.checkpoint import copy_with_info, load_weights
from detector.options import DetectOptions
from detector.outputs import is_signed
from detector.predict.detector import Detector
from detector.runtime.load import load_runtime

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


def decide_on(data: Path, model: Detector, goal: Goal | None = None, **options: Any) -> Decided:
    defaults: dict[str, Any] = {"calibrate": False, "options": DetectOptions()}
    return decide(model, open_data(data), goal=goal, **defaults | options)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def count_by_hand(data: Path, split: str, model: Detector, **options: Any) -> dict[str, tuple[int, int, int]]:
    """Return class name → numbers of correct detections, detections and objects."""
    counts = {name: [0, 0, 0] for name in model.class_names}
    for annotation in open_data(data).read(split).annotations:
        objects = list(zip(annotation.class_ids.tolist(), annotation.boxes.tolist(), strict=True))
        for class_id, _ in objects:
            counts[model.class_names[class_id]][2] += 1
        for name, _, box in model.detect(annotation.image_path, **options):
            counts[name][1] += 1
            own = [one for one in objects if model.class_names[one[0]] == name and iou(one[1], box.tolist()) >= 0.5]
            if own:
                best = max(own, key=lambda one: iou(one[1], box.tolist()))
                objects.remove(best)
                counts[name][0] += 1
    return {name: (hits, found, objects) for name, (hits, found, objects) in counts.items()}


@pytest.mark.parametrize("goal", [Goal(), Goal(min_recall=0.3), Goal(per_class=False)], ids=str)
def test_values_are_those_of_detect_with_these_thresholds(tiny_data: Path, model: Detector, goal: Goal) -> None:
    decided = decide_on(tiny_data, model, goal)
    chosen = decided.chosen_thresholds()
    assert chosen is not None
    assert not decided.optimistic
    counts = count_by_hand(tiny_data, "test", model, score_threshold=chosen.values)
    for name, (hits, found, objects) in counts.items():
        reached = decided.reached[name]
        assert (reached.detections, reached.objects) == (found, objects)
        assert reached.values["recall"] == pytest.approx(hits / objects)
    own = decided.reached["all classes"]
    assert own.detections == sum(found for _, found, _ in counts.values())
    on_val = count_by_hand(tiny_data, "val", model, score_threshold=chosen.values)
    for name, choice in decided.choices.items() if goal.per_class else ():
        assert choice.point is not None
        assert choice.point.recall == pytest.approx(on_val[name][0] / on_val[name][2])
        assert choice.point.precision == pytest.approx(on_val[name][0] / on_val[name][1])


def test_copy_has_the_same_tensors_and_the_decisions(
    tiny_data: Path, tiny_weights: Path, model: Detector, tmp_path: Path
) -> None:
    before = file_sha256(tiny_weights)
    path, both = tmp_path / "new.safetensors", tmp_path / "both.safetensors"
    thresholds = decide_on(tiny_data, model, Goal())
    save_decisions(tiny_weights, path, thresholds)
    calibration = decide_on(tiny_data, model, calibrate=True)
    save_decisions(path, both, calibration)  # keeps the thresholds
    assert file_sha256(tiny_weights) == before
    for file in (path, both):
        assert is_signed(file.read_bytes())
        with safe_open(tiny_weights, framework="pt") as old, safe_open(file, framework="pt") as new:
            assert set(old.keys()) == set(new.keys())
            assert all(torch.equal(old.get_tensor(name), new.get_tensor(name)) for name in old.keys())  # noqa: SIM118
    info, first = load_weights(both)[1], load_weights(path)[1]
    assert info.thresholds == first.thresholds == thresholds.chosen_thresholds()
    assert (first.score_map, info.score_map) == (None, calibration.score_map)
    assert info.score_map is not None
    for runtime in ("torch", "onnxruntime", "openvino"):
        assert load_runtime(both, device="cpu", runtime=runtime)[1] == info


def test_goal_that_some_class_cannot_reach_is_not_saved(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(tiny_data / "images")
    for split in ("train", "val", "test"):
        values = json.loads((tiny_data / f"{split}.json").read_text())
        if split == "val":  # no blue objects
            values["annotations"] = [row for row in values["annotations"] if row["category_id"] == 3]
        (data / f"{split}.json").write_text(json.dumps(values))
    path = tmp_path / "new.safetensors"
    arguments = ["evaluate", "--data", str(data), "--allow-outside", "--weights", str(tiny_weights), "--no-intervals"]
    assert main([*arguments, "--min-recall", "0.1", "--save", str(path)]) == 2
    out, errors = capsys.readouterr()
    assert "blue: no threshold, because on val: there are no such objects" in out
    assert "not saved: 1 class without a threshold (blue)" in errors
    assert "or best F1" in errors
    assert main([*arguments, "--save", str(path)]) == 2
    errors = capsys.readouterr().err
    assert "choose one threshold for all classes (--global); or add images" in errors
    assert "best F1" not in errors
    assert not path.exists()
    assert main([*arguments, "--min-recall", "0.1", "--global", "--save", str(path)]) == 0


def test_held_back_images_are_val_and_without_test_it_says_so(
    tiny_data: Path, model: Detector, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "images").symlink_to(tiny_data / "images")
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_bytes((tiny_data / f"{split}.json").read_bytes())
    source = open_data(tmp_path, allow_outside=True)
    options: Any = {"goal": Goal(), "calibrate": True, "options": DetectOptions()}
    decided = decide(model, source, **options)
    assert (decided.optimistic, decided.test_split) == (True, "val")
    # Without the val split, the weights know which images they have not been trained on.
    train, val = (json.loads((tmp_path / f"{split}.json").read_text()) for split in ("train", "val"))
    train["images"] += val["images"]
    train["annotations"] += [row | {"id": 1000 + row["id"]} for row in val["annotations"]]
    (tmp_path / "val.json").unlink()
    (tmp_path / "train.json").write_text(json.dumps(train))
    held_back = decide(model, open_data(tmp_path, allow_outside=True), **options)
    assert held_back.choices == decided.choices
    (tmp_path / "train.json").write_bytes((tiny_data / "train.json").read_bytes())
    with pytest.raises(LabelError, match=r"there is no split 'val', and the weights have held back none"):
        decide(model, open_data(tmp_path, allow_outside=True), **options)
    with pytest.raises(ConfigError, match="split val: thresholds and calibration are decided on val"):
        decide(model, source, split="valid", **options)


def test_command_decides_saves_detects_exports_and_informs(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ["evaluate", "--data", str(tiny_data), "--weights", str(tiny_weights), "--no-intervals"]
    assert main([*base, "--min-recall", "0.2", "--calibrate", "--save", "new.safetensors", "--json", "a.json"]) == 0
    out = capsys.readouterr().out
    assert "thresholds chosen on val (4 images) for recall of at least 0.2, for each class" in out
    assert "calibration error (ECE) on test (4 images)" in out
    assert "next: detector detect IMAGES --weights new.safetensors --conf auto --calibrated" in out
    stored = json.loads(Path("a.json").read_text())["decided"]
    assert set(stored["thresholds"]) == {"red", "blue"}
    assert set(stored["reached"]) == {"red", "blue", "all classes"}
    assert main(["info", "new.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "thresholds (--conf auto): red " in out
    assert "probabilities (--calibrated): logistic function" in out
    images = str(tiny_data / "images")
    detect = ["detect", images, "--conf", "auto", "--calibrated", "--no-images", "--save-json"]
    assert main([*detect, "--weights", "new.safetensors", "--out", "found"]) == 0
    found = json.loads((tmp_path / "found" / "json" / "20.json").read_text())
    own = Detector.load("new.safetensors").detect(tiny_data / "images" / "20.png", score_threshold="auto")
    assert len(own)
    assert len(found["detections"]) == len(own)
    assert main(["export", "--weights", "new.safetensors", "--out", "new.onnx", "--nms", "in", "--conf", "auto"]) == 0
    assert main(["verify", "new.onnx"]) == 0
    assert main([*detect, "--weights", "new.onnx", "--out", "again"]) == 0
    again = json.loads((tmp_path / "again" / "json" / "20.json").read_text())
    assert len(again["detections"]) == len(own)
    assert main(["detect", images, "--conf", "auto", "--weights", str(tiny_weights), "--out", "no"]) == 2
    assert "the weights have no thresholds" in capsys.readouterr().err


def test_python_chooses_and_saves_as_the_command(
    tiny_data: Path, tiny_weights: Path, model: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "new.safetensors"
    decided = choose_thresholds(tiny_data, tiny_weights, min_recall=0.2, calibrate=True, save=str(path), device="cpu")
    expected = decide_on(tiny_data, model, Goal(min_recall=0.2), calibrate=True)
    assert decided.to_json() == expected.to_json()
    info = load_weights(path)[1]
    assert (info.thresholds, info.score_map) == (expected.chosen_thresholds(), expected.score_map)
    assert choose_thresholds(tiny_data, model, per_class=False).goal == Goal(per_class=False)
    with pytest.raises(ConfigError, match="save: give the path of the weights"):
        choose_thresholds(tiny_data, model, save=path)
    with pytest.raises(ConfigError, match="a loaded detector has its own"):
        choose_thresholds(tiny_data, model, device="cpu")
    path.write_text("mine")
    with pytest.raises(FileError, match="was not written by this program"):
        choose_thresholds(tiny_data, tiny_weights, save=path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-precision", "1.5"], "must be from 0 to 1, got '1.5'"),
        (["--min-precision", "95"], "for 95 % write 0.95"),
        (["--min-recall", "0"], "min_recall: expected a number above 0 and at most 1, got 0"),
        (["--min-precision", "0.9", "--min-recall", "0.9"], "not allowed with argument"),
        (["--save", "new.onnx"], "expected a file name that ends in .safetensors"),
        (["--save", "WEIGHTS"], "the same command also uses this file"),
        (["--min-recall", "0.5", "--split", "val"], "split val: thresholds and calibration are decided on val"),
    ],
)
def test_wrong_arguments_are_refused(
    tiny_data: Path, tiny_weights: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    arguments = [str(tiny_weights) if one == "WEIGHTS" else one for one in arguments]
    try:
        status = main(["evaluate", "--data", str(tiny_data), "--weights", str(tiny_weights), *arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err


def test_results_file_and_exports_have_no_decisions_to_save(tiny_data: Path, tmp_path: Path, capsys: Capture) -> None:
    results = tmp_path / "results.json"
    results.write_text("[]")
    arguments = ["evaluate", "--data", str(tiny_data)]
    assert main([*arguments, "--detections", str(results), "--min-recall", "0.5"]) == 2
    assert "use --weights instead of --detections" in capsys.readouterr().err
    saved = str(tmp_path / "new.safetensors")
    assert main([*arguments, "--weights", str(tmp_path / "a.onnx"), "--save", saved]) == 2
    assert "is an exported graph; choose with the .safetensors file" in capsys.readouterr().err


def test_classes_with_the_same_name_have_their_own_thresholds(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    data, weights, saved = tmp_path / "data", tmp_path / "same.safetensors", tmp_path / "new.safetensors"
    shutil.copytree(tiny_data, data)
    for path in data.glob("*.json"):
        path.write_text(path.read_text().replace('"name": "blue"', '"name": "red"'))
    copy_with_info(tiny_weights, weights, replace(load_weights(tiny_weights)[1], class_names=("red", "red")))
    decided = choose_thresholds(data, weights, per_class=False, save=saved, device="cpu")
    assert list(decided.choices) == ["red (3)", "red (17)"]
    assert list(decided.reached) == ["red (3)", "red (17)", "all classes"]
    thresholds = load_weights(saved)[1].thresholds
    assert thresholds is not None
    assert len(thresholds.values) == 2


def test_a_class_named_all_classes_is_told_from_all_of_them(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    data, weights = tmp_path / "data", tmp_path / "named.safetensors"
    shutil.copytree(tiny_data, data)
    for path in data.glob("*.json"):
        path.write_text(path.read_text().replace('"name": "blue"', '"name": "all classes"'))
    copy_with_info(tiny_weights, weights, replace(load_weights(tiny_weights)[1], class_names=("red", "all classes")))
    evaluated = ["evaluate", "--data", str(data), "--weights", str(weights), "--no-intervals", "--min-recall", "0.1"]
    assert main([*evaluated, "--device", "cpu"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("all classes")]
    assert len(rows) == 3  # its AP, its threshold, and all classes together
    assert rows[1].startswith("all classes (17) ")
