"""Time budget: convert a length in minutes to a number of steps, at the start of a run and when its speed changes.

Everything here is a function of measured durations; no function reads a clock.
"""

import math
from bisect import bisect
from dataclasses import dataclass, replace
from statistics import mean, median

import numpy as np

from detector.config import PLANNING_STEPS, InputSizeConfig, RunConfig
from detector.loader.input_size import InputStage, input_size_at, input_stages
from detector.step_plan import StepPlan

_WARMED_UP = 8
"""Number of first steps that are not timed: they also prepare kernels and memory, so they are slower."""

_EVALUATION_FRACTION = 0.05
"""Largest fraction of the budget that evaluations may take if the setting `evaluations` is "auto"."""

_MARGIN = 0.02
"""Fraction of the budget that is reserved for a machine that becomes slower after the last change of the plan."""

_RESERVE = 1.5
"""Seconds that are reserved for importing the package, saving the weights and ending the process."""

CHECKS = 40
"""Number of points of the run, evenly spaced, at which the plan is compared with the speed, besides evaluations."""

_SMALL_CHANGE, _SMALL_CHANGE_OF_BUDGET = 0.10, 0.015
"""The plan is kept if the error of the end of the run is less than the first fraction of the time left, or less than
the second fraction of the budget."""

_STANDARD_ERRORS = 3.0
"""The plan is also kept if the error is within so many standard errors of the measured speed, so that noise does not
change it."""

_ITERATIONS = 20
"""Number of iterations in which the number of steps is computed. It converges in about five."""

_FEWEST_TIMES, _WINDOWS = 4, 20
"""The speed is measured from the latest steps: at least the first number, and one of so many equal parts of the run as
the second number says."""

_OUTLIER = 3.0
"""A step that takes more than this factor times the median counts as so many medians: a single pause is not a speed."""

OVERRUN = 1.15
"""A warning is logged if a run takes more than this factor times its budget."""


def choose_batch_size(config: RunConfig, image_count: int) -> int:
    """Return the number of images per step: the setting, or 8, 16 or 32 depending on the number of training images.

    Small datasets get small batches, because in a short run many steps are better than few steps with less noise.
    """
    if config.batch != "auto":
        return config.batch
    return 8 if image_count < 1000 else 16 if image_count < 5000 else 32


def choose_evaluations(config: RunConfig, affordable: int) -> int:
    """Return the number of evaluations: the setting, or `affordable` limited to 1..20 if the setting is "auto"."""
    return min(20, max(1, affordable)) if config.evaluations == "auto" else config.evaluations


@dataclass(frozen=True)
class RunTimes:
    """Expected durations of the parts of a run.

    Attributes:
        stages: the input sizes of the run.
        step_seconds: duration of a step at the input size of each stage, in seconds; with multi-scale training, also
            at the largest size of the run, as the last number.
        evaluation_seconds: duration of an evaluation, in seconds.
    """

    stages: tuple[InputStage, ...]
    step_seconds: tuple[float, ...]
    evaluation_seconds: float = 0.0

    def step_at(self, input_hw: tuple[int, int]) -> float:
        """Return the duration of a step at one of the input sizes, in seconds.

        With multi-scale training, the duration at most sizes is inter- or extrapolated by the number of pixels.
        """
        sizes = [*(stage.input_hw for stage in self.stages), self.stages[-1].sizes[-1]]
        if input_hw in sizes[: len(self.step_seconds)]:
            return self.step_seconds[sizes.index(input_hw)]
        known = {math.prod(size): seconds for size, seconds in zip(sizes, self.step_seconds, strict=False)}
        areas = sorted(known)
        if len(areas) == 1:
            return known[areas[0]] * math.prod(input_hw) / areas[0]
        upper = min(max(1, bisect(areas, math.prod(input_hw))), len(areas) - 1)
        low, high = areas[upper - 1], areas[upper]
        seconds = known[low] + (known[high] - known[low]) * (math.prod(input_hw) - low) / (high - low)
        return max(seconds, known[areas[0]] / 2)  # not 0 or less, if the line falls steeply at small sizes

    def mean_step(self, done: float) -> float:
        """Return the mean duration of the steps in the rest of the run, in seconds.

        Args:
            done: fraction of the run that is done, less than 1.
        """
        starts = np.array([stage.start for stage in self.stages] + [1.0])
        means = [mean([self.step_at(size) for size in stage.sizes]) for stage in self.stages]
        return float(np.dot(np.diff(np.maximum(starts, done)), means)) / (1 - done)

    def scaled(self, factor: float) -> "RunTimes":
        """Return the durations on a machine that is slower by this factor."""
        steps = tuple(seconds * factor for seconds in self.step_seconds)
        return replace(self, step_seconds=steps, evaluation_seconds=self.evaluation_seconds * factor)


def expected_times(
    times: list[float], middle_times: list[float], input_hw: tuple[int, int], config: InputSizeConfig
) -> RunTimes:
    """Return the expected duration of a step at each input size, from the times of the planning steps.

    Args:
        times: duration of each of the first `PLANNING_STEPS` steps, in seconds.
        middle_times: durations of steps at the input size of the middle stage; the first of them prepares kernels, so
            it does not count. If empty, the duration is interpolated by the number of pixels.
        input_hw: full input size, in pixels.
        config: settings of the input size schedule.
    """
    stages = input_stages(input_hw, config)
    sizes = [input_size_at(input_hw, step, PLANNING_STEPS, config) for step in range(PLANNING_STEPS)]
    # The first step at an input size also prepares kernels, so it is not timed.
    known = {
        size: median([
            seconds
            for step, (own, seconds) in enumerate(zip(sizes, times, strict=False))
            if own == size and step >= _WARMED_UP and step > sizes.index(size)
        ])
        for size in set(sizes)
    }  # fmt: skip
    largest = (known[sizes[-1]],) if config.multi_scale else ()
    if sizes.index(input_hw) == 0:
        return RunTimes(stages, (known[input_hw],) * len(stages) + largest)
    small, large = known[sizes[0]], known[input_hw]
    if middle_times:
        known[stages[1].input_hw] = median(middle_times[1:])
    areas = [float(np.prod(stage.input_hw)) for stage in stages]
    interpolated = np.interp(areas, [areas[0], areas[-1]], [small, large])
    pairs = zip(stages, interpolated, strict=True)
    return RunTimes(stages, (*(known.get(stage.input_hw, float(seconds)) for stage, seconds in pairs), *largest))


@dataclass(frozen=True)
class PlanChange:
    """A new plan of a run with a length in minutes.

    Attributes:
        plan: the new plan.
        step_seconds: measured duration of the last steps, in seconds.
        expected_seconds: duration of these steps by which the old plan was made, in seconds.
        total_seconds: duration of the whole run with the old plan, in seconds.
    """

    plan: StepPlan
    step_seconds: float
    expected_seconds: float
    total_seconds: float


class TimeBudget:
    """Plans the number of steps of a run with a length in minutes, and changes the plan when the speed changes.

    Args:
        minutes: length of the run.
        times: expected durations.

    Attributes:
        times: the durations by which the latest plan was made.
    """

    def __init__(self, minutes: float, times: RunTimes) -> None:
        self._seconds = minutes * 60
        self.times = times
        self._input_hw: tuple[int, int] | None = None
        self._recent: list[float] = []
        self._seen: set[tuple[int, int]] = set()

    def first_plan(self, config: RunConfig, elapsed: float) -> tuple[int, int]:
        """Return the number of steps and of evaluations of the run, after its first `PLANNING_STEPS` steps.

        If no time remains for more steps than the planning steps, the number of steps is at most twice their number.

        Args:
            config: settings of the run.
            elapsed: seconds since the start of the run.
        """
        affordable = int(_EVALUATION_FRACTION * self._seconds / max(self.times.evaluation_seconds, 1e-3))
        evaluations = choose_evaluations(config, affordable)
        left = self._left(elapsed, evaluations, self.times)
        steps = PLANNING_STEPS + 1
        for _ in range(_ITERATIONS):  # the longer the run, the more of its steps have small inputs
            steps = PLANNING_STEPS + max(1, int(left / self.times.mean_step(PLANNING_STEPS / steps)))
        # None is due within the planning steps, so that a run with these two numbers does the same.
        return steps, min(evaluations, max(1, steps // (PLANNING_STEPS + 1)))

    def record_step(self, input_hw: tuple[int, int], seconds: float, stage_hw: tuple[int, int] | None = None) -> None:
        """Record the duration of a step. The first step at a new input size does not count: it prepares kernels.

        Args:
            input_hw: input size of the step.
            seconds: duration of the step.
            stage_hw: input size of the stage of the step; None: `input_hw`. With multi-scale training, both differ, and
                the duration is converted to that of a step at the size of the stage.
        """
        stage_hw = stage_hw or input_hw
        if stage_hw != self._input_hw:
            self._input_hw, self._recent, self._seen = stage_hw, [], set()
        if input_hw in self._seen:
            if input_hw != stage_hw:
                seconds *= self.times.step_at(stage_hw) / self.times.step_at(input_hw)
            self._recent.append(seconds)
        self._seen.add(input_hw)

    def record_evaluation(self, seconds: float) -> None:
        """Record the duration of an evaluation, relative to the latest steps: `change` scales all durations alike."""
        if self._input_hw is not None and len(self._recent) >= _FEWEST_TIMES:
            recent = float(np.median(self._recent[-2 * _FEWEST_TIMES :]))
            seconds *= self.times.step_at(self._input_hw) / recent
        self.times = replace(self.times, evaluation_seconds=seconds)

    def change(self, plan: StepPlan, done: int, evaluations: int, elapsed: float) -> PlanChange | None:
        """Return a new plan if the run would not end at the end of its budget otherwise; None: the plan is kept.

        Args:
            plan: the plan so far.
            done: number of steps done, less than the number of steps of the run.
            evaluations: number of evaluations that are left.
            elapsed: seconds since the start of the run.
        """
        recent = np.array(self._recent[-max(_FEWEST_TIMES, plan.steps // _WINDOWS) :])
        if self._input_hw is None or len(recent) < _FEWEST_TIMES:
            return None
        recent = np.minimum(recent, _OUTLIER * np.median(recent))
        step_seconds, expected = float(np.mean(recent)), self.times.step_at(self._input_hw)
        times = self.times.scaled(step_seconds / expected)
        mean = times.mean_step(1 - float(plan.left_after(done)))
        left = self._left(elapsed, evaluations, times)
        error = (plan.steps - done) * mean - left
        noise = float(np.std(recent)) / len(recent) ** 0.5 / step_seconds
        tolerated = max(_SMALL_CHANGE * left, _STANDARD_ERRORS * noise * left, _SMALL_CHANGE_OF_BUDGET * self._seconds)
        if abs(error) <= tolerated:
            return None
        steps = done + max(1, int(left / mean))
        if steps == plan.steps:
            return None
        total = elapsed + (plan.steps - done) * mean + evaluations * times.evaluation_seconds
        self.times = times
        return PlanChange(plan.changed(done, steps), step_seconds, expected, total)

    def _left(self, elapsed: float, evaluations: int, times: RunTimes) -> float:
        """Return the seconds that are left for steps, if `evaluations` evaluations are left too."""
        return self._seconds * (1 - _MARGIN) - _RESERVE - elapsed - evaluations * times.evaluation_seconds
