"""Cross-validation: no image is judged by a model that knows it, and an interrupted one continues."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.cli.commands import main
from detector.config import Config
from detector.cross_validating.cross_validate import OutOfFold, cross_validate
from detector.data.open_data import open_data
from detector.errors import FileError, LabelError
from detector.evaluating.evaluate import detect_split
from detector.files import file_sha256
from detector.predict.detector import Detector
from detector.training.run_state import read_state
from detector.training.trainer import Trainer


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=6)


@pytest.fixture(scope="module")
def done(tiny_data: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> OutOfFold:
    return cross_validate(tiny_data, config, folds=2, out=tmp_path_factory.mktemp("cross") / "folds")


def same(a: OutOfFold, b: OutOfFold) -> bool:
    return a.found.keys() == b.found.keys() and all(
        np.array_equal(a.found[i].boxes, b.found[i].boxes)
        and np.array_equal(a.found[i].scores, b.found[i].scores)
        and np.array_equal(a.found[i].class_ids, b.found[i].class_ids)
        for i in a.found
    )


def test_each_image_is_judged_by_a_model_that_does_not_know_it(done: OutOfFold) -> None:
    assert len(done.split.annotations) == len(done.found) == 20
    conditions = json.loads((done.folder / "folds.json").read_text())
    for number in (1, 2):
        held_back = {image["image"] for image in conditions["images"] if image["fold"] == number}
        run = done.folder / f"fold-{number}" / "run"
        trained = {image["image"] for image in json.loads((run / "split.json").read_text())["train"]}
        assert len(held_back) == 10
        assert {Path(path).name for path in trained} == {f"{n}.png" for n in range(1, 21)} - {
            Path(path).name for path in held_back
        }
        detector = Detector.load(run / "weights" / "best.safetensors", device="cpu")
        own = [a for a in done.split.annotations if str(a.image_path) in held_back]
        again = detect_split(detector, replace(done.split, annotations=tuple(own))).found
        for annotation in own:
            np.testing.assert_array_equal(again[annotation.image_id].boxes, done.found[annotation.image_id].boxes)


def test_pooled_results_have_one_ap_and_an_interval(done: OutOfFold) -> None:
    evaluation = done.evaluation().with_intervals(1)
    assert len(evaluation.ground_truth["annotations"]) == 40
    assert evaluation.ap.intervals is not None
    assert evaluation.ap.intervals.images == 20
    assert "2 models on 20 images" in done.covers()


def test_a_finished_cross_validation_is_not_repeated(done: OutOfFold, tiny_data: Path, config: Config) -> None:
    weights = done.folder / "fold-1" / "run" / "weights" / "best.safetensors"
    before = weights.stat().st_mtime_ns
    assert same(cross_validate(tiny_data, config, folds=2, out=done.folder), done)
    assert weights.stat().st_mtime_ns == before


def test_an_interrupted_run_resumes_with_the_same_detections(
    done: OutOfFold, tiny_data: Path, config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "folds"
    shutil.copytree(done.folder, out)
    # As after a kill in the second half of the second run: its first checkpoint is the last one.
    (out / "fold-2" / "detections.json").unlink()
    states = sorted((out / "fold-2" / "run" / "state").iterdir())
    assert len(states) == 2
    states[-1].unlink()
    (out / "fold-2" / "run" / "weights" / "last.safetensors").unlink()
    steps = read_state(out / "fold-2" / "run" / "state")
    assert steps is not None
    assert steps[0].step < steps[0].steps
    assert same(cross_validate(tiny_data, config, folds=2, out=out), done)
    assert (out / "fold-2" / "run" / "weights" / "last.safetensors").exists()


def test_interrupt_in_the_last_step_of_a_fold_ends_all_folds(
    done: OutOfFold, tiny_data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def interrupted(trainer: Trainer, number: int, steps: int, *arguments: Any) -> Any:
        if number == steps - 1:
            signal.raise_signal(signal.SIGINT)
        return step(trainer, number, steps, *arguments)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(tiny_data, config, folds=2, out=tmp_path / "folds")
    assert (tmp_path / "folds/fold-1/run/weights/best.safetensors").exists()
    assert not (tmp_path / "folds/fold-2/run").exists()
    monkeypatch.undo()
    assert same(cross_validate(tiny_data, config, folds=2, out=tmp_path / "folds"), done)


def test_other_settings_are_refused_in_the_same_folder(done: OutOfFold, tiny_data: Path, config: Config) -> None:
    with pytest.raises(FileError, match="other settings"):
        cross_validate(tiny_data, replace(config, steps=7), folds=2, out=done.folder)


def test_initial_weights_must_not_know_the_images(
    tiny_data: Path, tiny_weights: Path, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(LabelError, match="trained on 12 of the images"):
        cross_validate(tiny_data, config, folds=2, out=tmp_path / "folds", init_weights=tiny_weights)


def test_folds_start_from_initial_weights(
    tiny_data: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # On the images of test, which the weights do not know. With random initial weights, two steps find nothing.
    flags = ["--split", "test", "--folds", "2", "--init-weights", str(tiny_weights), "--device", "cpu"]
    for setting in ("steps=2", "batch=2", "lr=1e-9", "lr_adamw=1e-9", "precision=fp32"):
        flags += ["--set", setting]
    flags += ["--out", str(tmp_path / "folds"), "--json", str(tmp_path / "ap.json"), "--report", str(tmp_path / "page")]
    assert main(["evaluate", "--data", str(tiny_data), *flags]) == 0, capsys.readouterr().err
    ap = json.loads((tmp_path / "ap.json").read_text())
    assert ap["AP50"] > 0.5
    assert json.loads((tmp_path / "page/report.json").read_text())["metrics"]["AP"] == ap["AP"]
    page = (tmp_path / "page/report.html").read_text()
    assert "pooled AP of 2 models" in page
    conditions = json.loads((tmp_path / "folds" / "folds.json").read_text())
    assert conditions["weights"] == file_sha256(tiny_weights)


def test_rendered_images_cannot_be_divided(config: Config, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="not files"):
        cross_validate("scenes", config, folds=2, out=tmp_path / "folds", split="test")


def test_evaluate_prints_the_pooled_ap(
    done: OutOfFold, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["model=pico", "input_size=[64, 96]", "steps=6", "batch=4", "evaluations=2"]
    settings += ["precision=fp32", "copy_paste=0"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    flags += ["--device", "cpu", "--json", str(tmp_path / "ap.json")]
    arguments = ["evaluate", "--data", str(tiny_data), "--folds", "2", "--out", str(done.folder), *flags]
    if main(arguments) != 0:
        pytest.fail(capsys.readouterr().err)
    assert "2 models on 20 images" in capsys.readouterr().out
    values = json.loads((tmp_path / "ap.json").read_text())
    assert values["AP"] == pytest.approx(done.evaluation().ap.AP)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--weights", "cells", "--minutes", "1"], "--minutes 1"),
        (["--weights", "cells", "--init-weights", "cells"], "--init-weights cells"),
        (["--folds", "2", "--max-det", "300"], "--max-det 300"),
        (["--folds", "2", "--weights", "cells"], "to start each of them from trained weights: --init-weights"),
        ([], "give --weights or --detections to evaluate, or --folds to cross-validate"),
    ],
)
def test_flags_of_the_other_kind_of_evaluation_are_errors(
    tiny_data: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    assert main(["evaluate", "--data", str(tiny_data), *flags]) == 2
    assert named in capsys.readouterr().err


def test_unreadable_images_are_left_out(tiny_data: Path, config: Config, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for image in (tiny_data / "images").iterdir():
        (data / "images" / image.name).write_bytes(image.read_bytes())
    (data / "train.json").write_bytes((tiny_data / "train.json").read_bytes())
    broken = open_data(data).read("train").annotations[0].image_path
    broken.write_bytes(broken.read_bytes()[:60])
    own = cross_validate(data, replace(config, steps=2), folds=2, out=tmp_path / "folds")
    assert len(own.found) == 11
    assert len(own.split.annotations) == 11
