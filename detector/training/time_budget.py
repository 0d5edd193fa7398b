"""Time budget: from a length in minutes to a number of steps, by timing the first steps of the run."""

import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from detector.config import PLANNING_STEPS, InputSizeConfig, RunConfig
from detector.loader.input_size import input_size_at

_SAMPLES = 1000
"""Points of the run at which the input size is sampled to average the cost of a step."""

_WARMED_UP = 8
"""The first steps of a process prepare kernels and memory; their duration is not representative."""

_EVALUATION_FRACTION = 0.05
"""Fraction of the budget that evaluations may take."""

_MARGIN = 0.05
"""Fraction of the budget kept free, since machines slow down during a run more often than they speed up."""

_RESERVE = 1.0
"""Seconds kept for saving and for leaving the process."""

OVERRUN = 1.15
"""Fraction of the budget above which an overrun is reported."""


@dataclass(frozen=True)
class Plan:
    """The length of a run.

    Attributes:
        steps: optimizer steps.
        evaluations: evaluations on val.
    """

    steps: int
    evaluations: int


def choose_batch_size(config: RunConfig, image_count: int) -> int:
    """Return the images per step: few for small data sets, since a short run needs many steps more than smooth ones."""
    if config.batch != "auto":
        return config.batch
    return 8 if image_count < 1000 else 16 if image_count < 5000 else 32


def choose_evaluations(config: RunConfig, affordable: int) -> int:
    """Return the number of evaluations: the setting, or `affordable` limited to 1..20."""
    return min(20, max(1, affordable)) if config.evaluations == "auto" else config.evaluations


def plan_minutes(
    config: RunConfig, step_seconds: float, evaluation_seconds: float, started: float
) -> tuple[Plan, bool]:
    """Turn the rest of a budget in minutes into a plan, after `PLANNING_STEPS` steps.

    Args:
        config: with `minutes`.
        step_seconds: expected mean duration of a step.
        evaluation_seconds: duration of an evaluation.
        started: `time.monotonic()` at the start of the run.

    Returns:
        The plan, and whether the budget suffices for more than the planning steps took.
    """
    assert config.minutes is not None
    budget = config.minutes * 60
    left = budget * (1 - _MARGIN) - _RESERVE - (time.monotonic() - started)
    evaluations = choose_evaluations(config, int(_EVALUATION_FRACTION * budget / max(evaluation_seconds, 1e-3)))
    more = max(1, int((left - evaluations * evaluation_seconds) / step_seconds))
    return Plan(PLANNING_STEPS + more, evaluations), more > PLANNING_STEPS


def expected_step_seconds(times: list[float], input_hw: tuple[int, int], config: InputSizeConfig) -> float:
    """Return the expected mean duration of a step over the whole run, from the durations of the planning steps.

    Args:
        times: seconds of each of the `PLANNING_STEPS` first steps.
        input_hw: full input size.
        config: the input size schedule.
    """
    first_full = next(
        step for step in range(PLANNING_STEPS) if input_size_at(input_hw, step, PLANNING_STEPS, config) == input_hw
    )
    if first_full == 0:
        return median(times[_WARMED_UP:])
    # The last planning steps use the full input size; the first of these prepares its kernels.
    small, large = median(times[_WARMED_UP:first_full]), median(times[first_full + 1 : PLANNING_STEPS])
    return mean_step_seconds(small, large, input_hw, config)


def mean_step_seconds(small: float, large: float, input_hw: tuple[int, int], config: InputSizeConfig) -> float:
    """Return the mean duration of a step over a whole run in which the input size grows.

    Args:
        small: seconds of a step at the first input size.
        large: seconds of a step at the full input size.
        input_hw: full input size.
        config: the input size schedule.
    """
    areas = np.array([float(np.prod(input_size_at(input_hw, step, _SAMPLES, config))) for step in range(_SAMPLES)])
    first, full = areas[0], areas[-1]
    return small if first == full else small + (large - small) * float(np.mean(areas) - first) / (full - first)
