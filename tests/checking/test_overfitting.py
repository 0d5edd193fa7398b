"""Tests of the overfit test, with a fixed number of steps: the result does not depend on the speed of the machine."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detector.checking.overfitting import OverfitTest, diagnose_overfitting, overfit_test
from detector.config import Config
from detector.data.split import Split

INPUT_HW = (64, 96)


def run(split: Split, config: Config, steps: int) -> OverfitTest:
    return overfit_test(split, config, INPUT_HW, torch.float32, steps)


def test_sound_network_overfits_a_few_images(tiny_split: Split) -> None:
    test = run(tiny_split, Config(model="pico", precision="fp32"), 400)  # measured: 50 to 100 steps are enough
    assert test.image_count == 4
    assert diagnose_overfitting(test).verdict == "ok", test


@pytest.mark.parametrize("settings", [{"lr": 0.0, "lr_adamw": 0.0}, {"optimizer": "sgd", "lr": 1e20}], ids=str)
def test_learning_rate_that_cannot_overfit_stops(tiny_split: Split, settings: dict[str, object]) -> None:
    config = Config(**{"model": "pico"} | settings)  # type: ignore[arg-type]
    assert diagnose_overfitting(run(tiny_split, config, 10)).verdict == "stop"


def test_training_images_that_differ_from_files_are_found(tiny_split: Split) -> None:
    upside_down = replace(tiny_split, read_image=lambda a: np.ascontiguousarray(tiny_split.read_image(a)[::-1, ::-1]))
    test = run(upside_down, Config(model="pico"), 100)
    assert test.losses[-1] < 0.5 * test.losses[0]  # the network learns, but not the content of the files
    # Measured: AP50 0.41. Trained on the files, the network reaches AP50 1.00.
    assert diagnose_overfitting(test).verdict != "ok", test


def test_split_without_objects_cannot_be_overfitted(tiny_split: Split) -> None:
    annotations = tuple(
        replace(a, boxes=a.boxes[:0], class_ids=a.class_ids[:0], is_crowd=a.is_crowd[:0], areas=a.areas[:0])
        for a in tiny_split.annotations
    )
    test = run(replace(tiny_split, annotations=annotations), Config(model="pico"), 10)
    assert test.image_count == 0
    assert diagnose_overfitting(test).verdict == "stop"


def test_tiny_objects_are_enlarged(tiny_split: Split) -> None:
    # With an input of 32 x 32 pixels, the objects of whole images would have a side of a few pixels.
    large = [replace(a, image_hw=(a.image_hw[0], a.image_hw[1])) for a in tiny_split.annotations]
    test = overfit_test(
        replace(tiny_split, annotations=tuple(large)),
        Config(model="pico", precision="fp32"),
        (32, 32),
        torch.float32,
        400,
    )
    assert diagnose_overfitting(test).verdict == "ok", test


def test_progress_counts_the_steps(tiny_split: Split) -> None:
    calls: list[tuple[int, int]] = []
    overfit_test(
        tiny_split,
        Config(model="pico"),
        INPUT_HW,
        torch.float32,
        3,
        lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("scores", "losses", "verdict", "text"),
    [
        ([0.95], [3.0, 0.2], "ok", ""),
        ([0.95], [3.0, 2.9], "ok", ""),
        ([0.2, 0.4, 0.7], [3.0, 0.2], "ok", ""),
        ([0.7, 0.6, 0.6], [3.0, 0.2], "look", "do not match the label files"),
        ([0.1, 0.2, 0.5], [3.0, 0.2], "look", "do not match the label files"),
        ([0.2], [3.0, 2.9], "stop", "does not decrease"),
        ([0.2], [3.0, 0.2], "stop", "do not match the label files"),
        ([0.2], [3.0, float("inf")], "stop", "infinite"),
    ],
)
def test_verdict_follows_scores_and_loss(scores: list[float], losses: list[float], verdict: str, text: str) -> None:
    finding = diagnose_overfitting(OverfitTest(4, losses, scores))
    assert finding.verdict == verdict
    assert text in finding.advice
