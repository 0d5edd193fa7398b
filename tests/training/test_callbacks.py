"""Callbacks of a training run: what they receive, and that they do not change the result."""

import csv
import logging
import signal
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import detector
from detector import Config, TrainingEvaluation, TrainingStep
from detector.errors import FileError

STEPS = 6


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=STEPS, evaluations=2)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(first: Path, second: Path) -> None:
    """Check that two runs have the same results, and weights with the same bits."""
    assert rows(first) == rows(second)
    for name in ("best", "last"):
        tensors = [load_file(folder / "weights" / f"{name}.safetensors") for folder in (first, second)]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


def test_callbacks_receive_every_step_and_evaluation(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    events: list[TrainingStep | TrainingEvaluation] = []
    result = detector.train(
        tiny_data, short, weights=None, out=tmp_path / "run", on_step=events.append, on_evaluation=events.append
    )
    assert [(type(event), event.step) for event in events] == [
        *[(TrainingStep, step) for step in (1, 2, 3)],
        (TrainingEvaluation, 3),
        *[(TrainingStep, step) for step in (4, 5, 6)],
        (TrainingEvaluation, 6),
    ]
    assert all(event.steps == STEPS for event in events)
    step, evaluation = events[-2], events[-1]
    assert isinstance(step, TrainingStep)
    assert isinstance(evaluation, TrainingEvaluation)
    assert step.loss == pytest.approx(sum(step.losses.values()))
    height, width = step.input_hw  # less than the full size early in the run
    assert 0 < height <= 64
    assert height <= width <= 96
    assert step.epoch == pytest.approx(2)
    assert set(step.learning_rates) == {"muon", "adamw"}
    row = rows(tmp_path / "run")[-1]
    assert step.learning_rates["muon"] == pytest.approx(float(row["lr"]), rel=1e-3)
    losses = [event.losses["classes"] for event in events[4:7] if isinstance(event, TrainingStep)]
    assert evaluation.losses["classes"] == pytest.approx(sum(losses) / 3)
    assert evaluation.ap is not None
    assert abs(evaluation.ap.AP50 - float(row["AP50"])) < 1e-4
    assert set(evaluation.ap.per_class) == {"red", "blue"}
    assert evaluation.weights.is_file()
    assert evaluation.best_weights == result.weights
    assert 0 < step.seconds <= evaluation.seconds <= result.seconds


def test_backbone_with_its_own_rate_is_reported_apart(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    events: list[TrainingStep] = []
    config = replace(short, steps=1, lr_backbone=0.5)
    detector.train(tiny_data, config, weights=None, out=tmp_path / "run", on_step=events.append)
    rates = events[0].learning_rates
    assert rates["muon_backbone"] == pytest.approx(0.5 * rates["muon"])
    assert rates["adamw_backbone"] == pytest.approx(0.5 * rates["adamw"])


def test_a_signal_in_the_last_step_says_that_the_run_is_finished(
    tiny_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def stop(event: TrainingStep) -> None:
        if event.step == event.steps:
            signal.raise_signal(signal.SIGTERM)

    result = detector.train(tiny_data, replace(short, steps=1), weights=None, out=tmp_path / "run", on_step=stop)
    assert "the run was finished when it was asked to stop: there is nothing to resume" in caplog.text
    assert "to resume: detector" not in caplog.text
    lines = dict(line.split(":", 1) for line in str(result).splitlines())
    assert list(lines) == ["folder", "best weights", "AP on val", "AP50 on val", "steps", "time"]
    assert (lines["folder"].strip(), lines["steps"].strip()) == (str(tmp_path / "run"), "1")


def test_events_cannot_be_changed(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    events: list[TrainingStep] = []
    detector.train(tiny_data, replace(short, steps=1), weights=None, out=tmp_path / "run", on_step=events.append)
    with pytest.raises(FrozenInstanceError):
        events[0].step = 7  # type: ignore[misc]


def test_callbacks_do_not_change_the_result(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    seen: list[object] = []
    detector.train(tiny_data, short, weights=None, out=tmp_path / "without")
    detector.train(
        tiny_data, short, weights=None, out=tmp_path / "with", on_step=seen.append, on_evaluation=seen.append
    )
    assert len(seen) == STEPS + 2
    assert_same_run(tmp_path / "without", tmp_path / "with")


class StopError(Exception):
    """What a callback of the tests raises."""


@pytest.mark.parametrize("at", [2, 3, 5])
def test_run_stopped_by_a_callback_resumes_exactly(
    at: int, tiny_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def stop(event: TrainingStep) -> None:
        seen.append(event.step)
        if event.step == at:
            raise StopError("enough")

    detector.train(tiny_data, short, weights=None, out=tmp_path / "whole")
    with pytest.raises(StopError, match="enough"):
        detector.train(tiny_data, short, weights=None, out=tmp_path / "parts", on_step=stop)
    assert seen == list(range(1, at + 1))
    assert f"step {at}: a callback raised StopError; the run stops" in caplog.text
    resumed: list[TrainingStep] = []
    detector.resume(tmp_path / "parts", on_step=resumed.append)
    assert [event.step for event in resumed] == list(range(at + 1, STEPS + 1))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_failing_evaluation_callback_stops_the_run(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    def stop(event: TrainingEvaluation) -> None:
        raise StopError

    with pytest.raises(StopError):
        detector.train(tiny_data, short, weights=None, out=tmp_path / "run", on_evaluation=stop)
    assert len(rows(tmp_path / "run")) == 1
    assert detector.resume(tmp_path / "run").steps == STEPS


def test_error_in_the_last_callback_leaves_a_finished_run(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    def stop(event: TrainingEvaluation) -> None:
        if event.step == STEPS:
            raise StopError

    with pytest.raises(StopError):
        detector.train(tiny_data, short, weights=None, out=tmp_path / "run", on_evaluation=stop)
    assert len(rows(tmp_path / "run")) == 2
    with pytest.raises(FileError, match="this run is finished"):
        detector.resume(tmp_path / "run")


def test_evaluation_without_val_has_no_metrics(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    events: list[TrainingEvaluation] = []
    detector.train(tiny_data, short, split="trainval", weights=None, out=tmp_path / "run", on_evaluation=events.append)
    assert [event.ap for event in events] == [None] * len(events)
    assert events[-1].is_best
