"""The time budget: runs end in time, also on machines whose speed changes. Nothing here depends on a clock."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from detector.config import PLANNING_STEPS, Config
from detector.loader.input_size import InputStage, input_size_at, input_stages
from detector.step_plan import StepPlan
from detector.training.time_budget import RunTimes, TimeBudget, expected_times


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


overruns = import_file(Path(__file__).parents[2] / "tools" / "plan_overruns.py")

HW = (256, 320)
CONFIG = Config()
STAGES = input_stages(HW, CONFIG)
TIMES = RunTimes(STAGES, (0.02, 0.05, 0.08), 1.0)


def run_seconds(times: RunTimes, steps: int, first: int = 0) -> float:
    """Return the time of the steps of a run, from step `first` on."""
    return sum(times.step_at(input_size_at(HW, step, steps, CONFIG)) for step in range(first, steps))


def planning_times(small: float, large: float) -> list[float]:
    """Return the times of the planning steps, with slow first steps at both input sizes."""
    sizes = [input_size_at(HW, step, PLANNING_STEPS, CONFIG) for step in range(PLANNING_STEPS)]
    times = [large if size == HW else small for size in sizes]
    times[0] = times[sizes.index(HW)] = 10.0
    return times


def test_middle_input_size_is_measured_or_interpolated() -> None:
    measured = expected_times(planning_times(0.02, 0.08), [5.0, 0.06, 0.06], HW, CONFIG)
    assert measured == RunTimes(STAGES, (0.02, 0.06, 0.08))
    interpolated = expected_times(planning_times(0.02, 0.08), [], HW, CONFIG)
    small, middle, large = (math.prod(stage.input_hw) for stage in STAGES)
    expected = 0.02 + 0.06 * (middle - small) / (large - small)
    assert interpolated.step_seconds == pytest.approx((0.02, expected, 0.08))


def test_one_input_size_needs_one_duration() -> None:
    config = Config(first_input_size=1.0)
    times = expected_times([9.0, *[0.08] * (PLANNING_STEPS - 1)], [], HW, config)
    assert times.step_seconds == (0.08, 0.08, 0.08)


@pytest.mark.parametrize("done", [0, 10, 200, 390, 999])
def test_mean_step_is_that_of_the_rest_of_the_run(done: int) -> None:
    times = RunTimes(STAGES, (0.02, 0.05, 0.08))
    sizes = [input_size_at(HW, step, 1000, CONFIG) for step in range(max(done, PLANNING_STEPS), 1000)]
    expected = float(np.mean([times.step_at(size) for size in sizes]))
    assert times.mean_step(max(done, PLANNING_STEPS) / 1000) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("minutes", [0.5, 3.0])
def test_first_plan_fills_the_budget(minutes: float) -> None:
    elapsed = 7.0
    steps, evaluations = TimeBudget(minutes, TIMES).first_plan(Config(minutes=minutes), elapsed)
    assert evaluations == min(20, int(minutes * 60 * 0.05))
    total = elapsed + run_seconds(TIMES, steps, PLANNING_STEPS) + evaluations * TIMES.evaluation_seconds
    assert 0.97 * (minutes * 60 - 1.5) - 0.1 <= total <= minutes * 60 - 1.5


def half_way(step_seconds: list[float], elapsed: float) -> tuple[TimeBudget, StepPlan, int]:
    """Return the time budget of a run of 10 minutes in its last stage, its plan and the number of steps done."""
    budget = TimeBudget(10, TIMES)
    for seconds in [1.0, *step_seconds]:
        budget.record_step(HW, seconds)
    # 0.98 * 600 - 1.5 - elapsed - 2 evaluations = 2000 steps of 0.08 s
    assert elapsed == 424.5
    return budget, StepPlan.fixed(5000), 3000


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, None), (1.025, None), (0.975, None), (2.0, 1000), (0.5, 4000), (1.1, 1818)]
)
def test_plan_changes_with_the_speed_but_not_with_small_changes(factor: float, expected: int | None) -> None:
    budget, plan, done = half_way([0.08 * factor] * 300, 424.5)
    change = budget.change(plan, done, 2, 424.5)
    if expected is None:
        assert change is None
        return
    assert change is not None
    evaluations = 2 * TIMES.evaluation_seconds * (factor - 1) / (0.08 * factor)  # these become slower too
    assert change.plan.steps - done == pytest.approx(expected - evaluations, abs=1)
    assert change.plan.changes == ((0, 5000), (done, change.plan.steps))
    assert budget.times.step_seconds == pytest.approx([seconds * factor for seconds in TIMES.step_seconds])
    assert budget.change(change.plan, done, 2, 424.5) is None


def test_single_pause_or_noise_does_not_change_the_plan() -> None:
    budget, plan, done = half_way([*[0.08] * 290, 30.0, *[0.08] * 9], 424.5)
    assert budget.change(plan, done, 2, 424.5) is None
    noisy = 0.08 * np.random.default_rng(0).lognormal(-0.045, 0.3, 300)
    budget, plan, done = half_way(noisy.tolist(), 424.5)
    assert budget.change(plan, done, 2, 424.5) is None


def test_plan_always_has_one_more_step() -> None:
    budget, plan, done = half_way([0.08] * 300, 424.5)
    change = budget.change(plan, done, 2, 1e6)
    assert change is not None
    assert change.plan.steps == done + 1


def test_speed_of_few_steps_does_not_change_the_plan() -> None:
    budget, plan, done = half_way([0.8] * 3, 424.5)
    assert budget.change(plan, done, 2, 424.5) is None
    budget.record_step(STAGES[0].input_hw, 0.8)
    assert budget.change(plan, done, 2, 424.5) is None


def test_stages_of_small_inputs_may_have_the_same_size() -> None:
    assert input_stages((32, 32), Config()) == tuple(InputStage(start, (32, 32)) for start in (0.0, 0.35, 0.6))


LARGEST_OVERRUN = {name: 3.0 if name == "steady" else 6.0 for name in overruns.MACHINES}


@pytest.mark.parametrize("name", overruns.MACHINES)
def test_simulated_runs_end_in_time(name: str) -> None:
    for seed in range(20 if name == "steady" else 3):
        run = overruns.simulate(overruns.MACHINES[name], 1.0, seed)
        assert -15 < run.overrun <= LARGEST_OVERRUN[name], seed
        assert len(set(run.evaluated_after)) == len(run.evaluated_after) == run.evaluations
        assert run.evaluated_after[-1] == run.plan.steps


def test_simulated_run_without_noise_keeps_its_plan() -> None:
    run = overruns.simulate(overruns.MACHINES["steady"], 3.0, 0, noise=0.0, pauses=0.0)
    assert len(run.plan.changes) == 1
    assert run.overrun == pytest.approx(-2, abs=1)


MULTI = Config(multi_scale=0.25)


def multi_times() -> RunTimes:
    """Return the times of a machine on which a step takes time in proportion to the pixels of its input."""
    sizes = [input_size_at(HW, step, PLANNING_STEPS, MULTI) for step in range(PLANNING_STEPS)]
    times = [math.prod(size) * 1e-6 for size in sizes]
    for index in (0, 14, 17):  # the first step at each size is slow
        times[index] = 10.0
    return expected_times(times, [], HW, MULTI)


def test_multi_scale_durations_follow_from_the_planning_steps() -> None:
    times = multi_times()
    for stage in times.stages:
        for size in stage.sizes:
            assert times.step_at(size) == pytest.approx(math.prod(size) * 1e-6)
    sizes = [input_size_at(HW, step, 20_000, MULTI, 5) for step in range(20_000)]
    mean = sum(math.prod(size) for size in sizes) * 1e-6 / len(sizes)
    assert times.mean_step(0) == pytest.approx(mean, rel=0.02)


def test_multi_scale_speed_is_measured_over_changing_sizes() -> None:
    for factor in (1.0, 2.0):
        budget, plan, done = TimeBudget(10, multi_times()), StepPlan.fixed(6500), 4500
        for step in range(done - 400, done):
            size = input_size_at(HW, step, plan.steps, MULTI)
            budget.record_step(size, factor * math.prod(size) * 1e-6, HW)
        left = (plan.steps - done) * budget.times.mean_step(done / plan.steps)
        change = budget.change(plan, done, 0, 600 * 0.98 - 1.5 - left)
        if factor == 1.0:
            assert change is None
        else:
            assert change is not None
            assert change.plan.steps - done == pytest.approx(1000, abs=2)


def test_multi_scale_with_one_stage_size_is_planned_too() -> None:
    config = Config(multi_scale=0.25, first_input_size=1.0)
    times = expected_times([9.0, *[0.08] * 16, 9.0, 0.12, 0.12], [], HW, config)
    assert times.step_seconds == (0.08, 0.08, 0.08, 0.12)
    assert times.step_at((320, 384)) == 0.12
    assert 0.0 < times.step_at((192, 256)) < 0.08
