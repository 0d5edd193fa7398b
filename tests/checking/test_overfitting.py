"""Tests of the overfit test, with a fixed number of steps: the result does not depend on the speed of the machine."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detector.checking.overfitting import OverfitTest, diagnose_overfitting, overfit_test
from detector.config import Config
from detector.data.split import Split

INPUT_HW = (64, 96)
NO_TIME_LIMIT = 1e6


def run(split: Split, config: Config, steps: int) -> OverfitTest:
    return overfit_test(split, config, INPUT_HW, torch.float32, NO_TIME_LIMIT, steps)


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
    assert diagnose_overfitting(test).verdict == "look"


def test_time_limit_ends_the_overfit_test(tiny_split: Split) -> None:
    test = overfit_test(tiny_split, Config(model="pico"), INPUT_HW, torch.float32, 0.0)
    assert len(test.losses) == 1
    assert test.AP50 >= 0


@pytest.mark.parametrize(
    ("ap50", "losses", "verdict", "text"),
    [
        (0.95, [3.0, 0.2], "ok", ""),
        (0.95, [3.0, 2.9], "ok", ""),
        (0.2, [3.0, 0.2], "look", "too few"),
        (0.2, [3.0, 2.9], "stop", "does not decrease"),
        (0.2, [3.0] * 399 + [0.2], "stop", "do not match the label files"),
        (0.6, [3.0] * 399 + [0.2], "look", "do not match the label files"),
        (0.2, [3.0, float("inf")], "stop", "infinite"),
    ],
)
def test_verdict_follows_ap_loss_and_number_of_steps(ap50: float, losses: list[float], verdict: str, text: str) -> None:
    finding = diagnose_overfitting(OverfitTest(4, losses, ap50, seconds=3.0, time_limit=25.0))
    assert finding.verdict == verdict
    assert text in finding.advice
