"""Time budget: convert a length in minutes to a number of steps, from the duration of the first steps of the run."""

import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from detector.config import PLANNING_STEPS, InputSizeConfig, RunConfig
from detector.loader.input_size import input_size_at

_SAMPLES = 1000
"""Number of points of the run at which the input size is sampled, to compute the mean duration of a step."""

_WARMED_UP = 8
"""Number of first steps that are not timed: they also prepare kernels and memory, so they are slower."""

_EVALUATION_FRACTION = 0.05
"""Largest fraction of the budget that evaluations may take if the setting `evaluations` is "auto"."""

_MARGIN = 0.05
"""Fraction of the budget that is reserved, because machines become slower during a run more often than faster."""

_RESERVE = 1.0
"""Seconds that are reserved for saving the weights and ending the process."""

OVERRUN = 1.15
"""A warning is logged if a run takes more than this factor times its budget."""


@dataclass(frozen=True)
class Plan:
    """The planned length of a run.

    Attributes:
        steps: number of optimizer steps.
        evaluations: number of evaluations on val.
    """

    steps: int
    evaluations: int


def choose_batch_size(config: RunConfig, image_count: int) -> int:
    """Return the number of images per step: the setting, or 8, 16 or 32 depending on the number of training images.

    Small data sets get small batches, because in a short run many steps are better than few steps with less noise.
    """
    if config.batch != "auto":
        return config.batch
    return 8 if image_count < 1000 else 16 if image_count < 5000 else 32


def choose_evaluations(config: RunConfig, affordable: int) -> int:
    """Return the number of evaluations: the setting, or `affordable` limited to 1..20 if the setting is "auto"."""
    return min(20, max(1, affordable)) if config.evaluations == "auto" else config.evaluations


def plan_minutes(
    config: RunConfig, step_seconds: float, evaluation_seconds: float, started: float
) -> tuple[Plan, bool]:
    """Return the plan of a run with a length in minutes, after its first `PLANNING_STEPS` steps.

    Args:
        config: settings of the run; `minutes` must be set.
        step_seconds: expected mean duration of a step.
        evaluation_seconds: duration of an evaluation.
        started: `time.monotonic()` at the start of the run.

    Returns:
        The plan, and True if time remains for more steps than the planning steps.
    """
    assert config.minutes is not None
    budget = config.minutes * 60
    left = budget * (1 - _MARGIN) - _RESERVE - (time.monotonic() - started)
    evaluations = choose_evaluations(config, int(_EVALUATION_FRACTION * budget / max(evaluation_seconds, 1e-3)))
    more = max(1, int((left - evaluations * evaluation_seconds) / step_seconds))
    return Plan(PLANNING_STEPS + more, evaluations), more > PLANNING_STEPS


def expected_step_seconds(times: list[float], input_hw: tuple[int, int], config: InputSizeConfig) -> float:
    """Return the expected mean duration of a step over the whole run in seconds, from the times of the planning steps.

    Args:
        times: duration of each of the first `PLANNING_STEPS` steps, in seconds.
        input_hw: full input size, in pixels.
        config: settings of the input size schedule.
    """
    first_full = next(
        step for step in range(PLANNING_STEPS) if input_size_at(input_hw, step, PLANNING_STEPS, config) == input_hw
    )
    if first_full == 0:
        return median(times[_WARMED_UP:])
    # The last planning steps use the full input size. The first of them also prepares kernels, so it is not timed.
    small, large = median(times[_WARMED_UP:first_full]), median(times[first_full + 1 : PLANNING_STEPS])
    return mean_step_seconds(small, large, input_hw, config)


def mean_step_seconds(small: float, large: float, input_hw: tuple[int, int], config: InputSizeConfig) -> float:
    """Return the mean duration of a step in seconds, over a whole run in which the input size grows.

    Args:
        small: duration of a step at the first input size, in seconds.
        large: duration of a step at the full input size, in seconds.
        input_hw: full input size, in pixels.
        config: settings of the input size schedule.
    """
    areas = np.array([float(np.prod(input_size_at(input_hw, step, _SAMPLES, config))) for step in range(_SAMPLES)])
    first, full = areas[0], areas[-1]
    return small if first == full else small + (large - small) * float(np.mean(areas) - first) / (full - first)
