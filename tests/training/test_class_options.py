"""Options of training about classes: balance, some classes, one merged class, several datasets; exact on resume."""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.averaging.average import average
from detector.cli.commands import main
from detector.config import Config
from detector.data.joined_data import open_all
from detector.errors import ConfigError, WeightsError
from detector.evaluating.evaluate import evaluate
from detector.explaining.crops import CropFinder
from detector.model.checkpoint import load_weights, save_weights
from detector.predict.detector import Detector
from detector.predict.ensemble import Ensemble
from detector.trained_classes import TrainedClasses
from detector.training.run_state import read_state
from detector.training.train import resume, train

STEPS, CUT = 12, 6


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=STEPS)


@pytest.fixture
def other_data(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data without the class red; blue is its first class, and a class green has no object."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_data, folder)
    for split in ("train", "val", "test"):
        labels = json.loads((folder / f"{split}.json").read_text())
        labels["categories"] = [{"id": 17, "name": "blue"}, {"id": 18, "name": "green"}]
        labels["annotations"] = [row for row in labels["annotations"] if row["category_id"] == 17]
        (folder / f"{split}.json").write_text(json.dumps(labels))
    for path in (folder / "images").iterdir():
        path.write_bytes(path.read_bytes() + bytes(8))  # other files than those of the tiny data
    return folder


def state_of(run: Path) -> dict[str, str]:
    state = read_state(run / "state")
    assert state is not None
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state[1].items()}
    return hashes | {"results": (run / "results.csv").read_text()}


def cut(run: Path) -> None:
    """Turn a finished run into one that was killed after its first checkpoint."""
    for path in (run / "state").iterdir():
        if int(path.name.split("-")[0]) > CUT:
            path.unlink()


OPTIONS: list[dict[str, Any]] = [
    {"config": {"repeat_factor": 1.0, "class_balance": "inverse"}},
    {"classes": ["blue"]},
    {"single_class": "shape", "config": {"repeat_factor": 1.0}},
    {"several": True, "config": {"class_balance": "sqrt_inverse"}},
    {"several": True, "classes": ["green", "blue"], "single_class": "shape"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_resumed_run_is_bit_exact(
    options: dict[str, Any], tiny_data: Path, other_data: Path, short: Config, tmp_path: Path
) -> None:
    options = dict(options)
    config = replace(short, **options.pop("config", {}))
    data = [tiny_data, other_data] if options.pop("several", False) else tiny_data
    train(data, config, out=tmp_path / "run", **options)
    expected = state_of(tmp_path / "run")
    cut(tmp_path / "run")
    assert resume(tmp_path / "run").steps == STEPS
    assert state_of(tmp_path / "run") == expected
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["classes"] == options.get("classes")
    assert record["single_class"] == options.get("single_class")
    ledgers = json.loads((tmp_path / "run/ledger.json").read_text())
    for ledger in ledgers.values():
        others = sum(ledger["other_classes"].values())
        assert ledger["found"] == ledger["used"] + ledger["clipped"] + ledger["dropped"] + others


def test_balance_changes_the_weights_but_not_if_off(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    for name, values in (("off", {}), ("on", {"repeat_factor": 0.9}), ("loss", {"class_balance": "inverse"})):
        train(tiny_data, replace(short, **values), out=tmp_path / name)
    off, on, loss = (state_of(tmp_path / name) for name in ("off", "on", "loss"))
    assert off != on
    assert off != loss
    train(tiny_data, replace(short, repeat_factor=0.0, class_balance="none"), out=tmp_path / "again")
    assert state_of(tmp_path / "again") == off


@pytest.mark.parametrize(("classes", "single_class"), [(["blue"], None), (None, "shape"), (["blue"], "shape")])
def test_evaluation_compares_with_the_learned_classes(
    classes: Sequence[str] | None, single_class: str | None, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    result = train(tiny_data, tiny_config, out=tmp_path / "run", classes=classes, single_class=single_class)
    assert result.best is not None
    ap = evaluate(tiny_data, result.weights, split="val", intervals=False)
    assert result.best.AP > 0
    assert pytest.approx(result.best.AP, abs=1e-3) == ap.AP
    assert list(ap.per_class) == [single_class or "blue"]
    rows = json.loads((tiny_data / "val.json").read_text())["annotations"]
    expected = len(rows) if classes is None else sum(row["category_id"] == 17 for row in rows)
    assert ap.per_class[single_class or "blue"]["objects"] == expected
    info = load_weights(result.weights)[1]
    assert info.class_names == ((single_class,) if single_class else ("blue",))
    assert info.category_ids == ((18,) if single_class else (17,))
    assert info.trained_classes is not None
    assert info.trained_classes.data_classes == ("red", "blue")


def test_other_data_without_the_learned_classes_is_refused(
    tiny_data: Path, other_data: Path, short: Config, tmp_path: Path
) -> None:
    red = train(tiny_data, short, out=tmp_path / "red", classes=["red"]).weights
    with pytest.raises(WeightsError, match="no class 'red'"):
        evaluate(other_data, red, split="val")
    merged = train(tiny_data, short, out=tmp_path / "merged", single_class="shape").weights
    with pytest.raises(WeightsError, match="no class 'red'"):
        evaluate(other_data, merged, split="val")


def test_weights_of_several_sets_can_be_evaluated_on_each(
    tiny_data: Path, other_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = train([tiny_data, other_data], replace(short, steps=60), out=tmp_path / "run")
    info = load_weights(result.weights)[1]
    assert info.class_names == ("red", "blue", "green")
    assert "class red are not labeled here" in caplog.text
    assert "class green are not labeled here" in caplog.text
    both = evaluate([tiny_data, other_data], result.weights, split="val", intervals=False)
    assert result.best is not None
    assert pytest.approx(result.best.AP, abs=1e-3) == both.AP
    reordered = evaluate([other_data, tiny_data], result.weights, split="val", intervals=False)
    assert pytest.approx(both.AP, abs=1e-3) == reordered.AP
    first, second = (evaluate(data, result.weights, split="val", intervals=False) for data in (tiny_data, other_data))
    assert (first.per_class["red"]["objects"], second.per_class["red"]["objects"]) == (
        both.per_class["red"]["objects"],
        0,
    )
    assert sum(own.per_class["blue"]["objects"] for own in (first, second)) == both.per_class["blue"]["objects"]


def test_a_run_on_moved_data_sets_needs_each_path(
    tiny_data: Path, other_data: Path, short: Config, tmp_path: Path
) -> None:
    train([tiny_data, other_data], short, out=tmp_path / "run")
    expected = state_of(tmp_path / "run")
    cut(tmp_path / "run")
    other_data.rename(tmp_path / "moved")
    best = tmp_path / "run/weights/best.safetensors"
    best.write_bytes(b"of a later evaluation")
    with pytest.raises(ConfigError, match="the run has 2 datasets"):
        resume(tmp_path / "run", data=tmp_path / "moved")
    assert best.read_bytes() == b"of a later evaluation"
    resume(tmp_path / "run", data=[tiny_data, tmp_path / "moved"])
    assert state_of(tmp_path / "run") == expected


def test_a_record_of_an_older_version_can_be_resumed(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    from detector.training.run_record import parse_record

    train(tiny_data, short, out=tmp_path / "run")
    values = json.loads((tmp_path / "run/run.json").read_text())
    assert values["data"] == str(tiny_data)
    for key in ("classes", "single_class"):
        del values[key]
    request = parse_record(values, tmp_path).request
    assert (request.data, request.choice.is_all) == ((str(tiny_data),), True)


def test_training_further_needs_the_same_choice(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    weights = train(tiny_data, short, out=tmp_path / "first", classes=["blue"]).weights
    with pytest.raises(WeightsError, match="the weights have the classes"):
        train(tiny_data, short, out=tmp_path / "second", weights=weights)
    train(tiny_data, short, out=tmp_path / "third", weights=weights, classes=["blue"])


def test_a_class_merged_from_others_than_before_is_reported(
    tiny_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = replace(short, steps=1)
    weights = train(tiny_data, one, out=tmp_path / "first", single_class="shape").weights
    train(tiny_data, one, out=tmp_path / "same", weights=weights, single_class="shape")
    assert "it consisted of" not in caplog.text
    second = train(tiny_data, one, out=tmp_path / "other", weights=weights, classes=["blue"], single_class="shape")
    message = "class 'shape': it consisted of red, blue in the initial weights, and now consists of blue;"
    assert message in caplog.text
    trained = load_weights(second.weights)[1].trained_classes
    assert trained is not None
    assert trained.groups == (("blue",),)


def test_held_back_images_do_not_depend_on_the_choice(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(tiny_data / "train.json", tmp_path / "data")
    shutil.copytree(tiny_data / "images", tmp_path / "data/images")
    lists = []
    for name, classes in (("all", None), ("some", ["blue"])):
        run = train(tmp_path / "data", replace(short, val_fraction=0.3), out=tmp_path / name, classes=classes).folder
        lists.append(json.loads((run / "split.json").read_text()))
    assert lists[0] == lists[1]
    assert lists[0]["held_back"]


def test_an_unknown_class_is_reported_with_all_names(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(tiny_data), "--out", str(tmp_path / "run"), "--set", "steps=1"]
    assert main([*arguments, "--classes", "Blue"]) == 2
    error = capsys.readouterr().err
    assert "red, blue" in error
    assert "did you mean 'blue'?" in error


def test_commands_for_one_data_set_say_so(
    tiny_data: Path, other_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ["--data", str(tiny_data), str(other_data)]
    results = tmp_path / "results.json"
    results.write_text("[]")
    for command in (
        ["check", *two],
        ["evaluate", *two, "--folds", "3"],
        ["evaluate", *two, "--detections", str(results)],
    ):
        assert main(command) == 2
        assert "expected one" in capsys.readouterr().err


def test_the_command_accepts_all_options_together(
    tiny_data: Path, other_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["model=pico", "input_size=[64,96]", "batch=4", "steps=4", "repeat_factor=0.5", "device=cpu"]
    flags = [text for setting in settings for text in ("--set", setting)]
    run = tmp_path / "run"
    data = ["--data", str(tiny_data), "--data", str(other_data)]
    arguments = ["--classes", "red", "blue", "--single-class", "--no-report", "--out", str(run)]
    assert main(["train", *data, *flags, *arguments]) == 0
    assert load_weights(run / "weights/last.safetensors")[1].class_names == ("object",)
    capsys.readouterr()
    weights = ["--weights", str(run / "weights/last.safetensors"), "--no-intervals"]
    assert main(["evaluate", *data, "--split", "test", *weights]) == 0
    assert "object" in capsys.readouterr().out
    assert main(["info", weights[1]]) == 0
    assert "learned from the classes of the data: red, blue\n" in capsys.readouterr().out
    assert len(open_all([tiny_data, other_data])) == 2


def test_ensembles_and_averages_of_one_merged_class_are_measured(
    tiny_data: Path, short: Config, tmp_path: Path
) -> None:
    runs = [
        train(tiny_data, replace(short, seed=seed), single_class="shape", out=tmp_path / str(seed)).weights
        for seed in (1, 2)
    ]
    twice = evaluate(tiny_data, Ensemble.load([runs[0], runs[0]]), intervals=False)
    alone = evaluate(tiny_data, runs[0], intervals=False)
    assert list(twice.per_class) == ["shape"]
    assert pytest.approx(alone.AP, abs=0.02) == twice.AP
    result = average(runs, tmp_path / "mean.safetensors", data=tiny_data)
    expected = [evaluate(tiny_data, run, split="val", intervals=False).AP for run in runs]
    assert [own.AP for own in result.sources_ap] == pytest.approx(expected, abs=1e-6)
    assert load_weights(result.path)[1].trained_classes == load_weights(runs[0])[1].trained_classes


def test_training_crops_have_the_merged_class(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    weights = train(tiny_data, replace(short, steps=1), single_class="shape", out=tmp_path / "run").weights
    [data_set] = open_all(tiny_data)
    finder = CropFinder(Detector.load(weights, runtime="torch"), data_set)
    image = data_set.read("train").decode(data_set.read("train").annotations[0])
    [crops] = finder.find(image, np.array([[2, 2, 20, 20]], dtype=np.float32))
    assert {crop.class_id for crop in crops} == {0}, finder.note


def test_several_data_sets_measure_an_average(tiny_data: Path, other_data: Path, short: Config, tmp_path: Path) -> None:
    data = [tiny_data, other_data]
    runs = [train(data, replace(short, seed=seed), out=tmp_path / str(seed)).weights for seed in (1, 2)]
    command = ["average", *map(str, runs), "--out", str(tmp_path / "mean.safetensors"), "--data", *map(str, data)]
    assert main(command) == 0
    assert "val" in load_weights(tmp_path / "mean.safetensors")[1].facts
    # One dataset lacks the class red, which is not labeled there.
    assert "green" in evaluate(other_data, Ensemble.load(runs), intervals=False).per_class


def test_other_objects_are_neither_compared_nor_averaged(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, info = load_weights(tiny_weights)
    weights = []
    for name, data_class in (("a", "red"), ("b", "blue")):
        learned = TrainedClasses(info.class_names, ((data_class,), ("green",)), chosen=True, missing="unlabeled")
        with torch.no_grad():
            next(network.parameters()).add_(1e-3)
        weights.append(tmp_path / f"{name}.safetensors")
        save_weights(weights[-1], network, replace(info, class_names=("x", "y"), trained_classes=learned))
    evaluated = ["evaluate", "--data", str(tiny_data), "--weights", str(weights[0]), "--against", str(weights[1])]
    assert main(evaluated) == 2
    assert "other objects of the same images" in capsys.readouterr().err
    with pytest.raises(WeightsError, match=r"classes of the data that each class consists of: .*'blue'"):
        average(weights, tmp_path / "mean.safetensors")
    assert Ensemble.load(weights).info.trained_classes is None  # contradictory
