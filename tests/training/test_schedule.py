import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config import PLANNING_STEPS, Config
from detector.step_plan import StepPlan
from detector.training.schedule import backbone_factor, ema_decay, learning_rate_factor, min_quality

fractions = st.floats(0, 1)
names = st.sampled_from(["linear", "cosine", "step", "inverse", "exponential", "root_epoch", "root_step"])
configs = st.builds(
    Config, lr_schedule=names, warmup=fractions, lr_decay_start=fractions, final_lr=fractions, ema=fractions
)
lengths = st.integers(1, 20_000)


def interpolate(x: float, corners: list[tuple[float, float]]) -> float:
    """Return the piecewise linear function through the corners (x, y), at x."""
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        if x0 <= x <= x1:
            return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    raise AssertionError(x)


@pytest.mark.parametrize("steps", [200, 1000, 4000, 12_000])
@pytest.mark.parametrize(("warmup", "decay_start", "final"), [(0.1, 0.3, 0.02), (0.5, 0.3, 0.0), (0.2, 0.9, 1.0)])
def test_learning_rate_rises_stays_and_falls(steps: int, warmup: float, decay_start: float, final: float) -> None:
    peak_step = min(300, int(warmup * steps))
    decay_step = max(peak_step, decay_start * steps)
    corners = [(0.0, 0.0), (20.0, 0.2), (peak_step, 1.0), (decay_step, 1.0), (steps, final)]
    config = Config(warmup=warmup, lr_decay_start=decay_start, final_lr=final)
    for step in range(steps):
        expected = interpolate(step + 1, corners)
        assert learning_rate_factor(step, steps, config, 25) == pytest.approx(expected, abs=1e-9), step


@given(configs, lengths, lengths, st.integers(0, PLANNING_STEPS - 1))
def test_first_steps_do_not_depend_on_the_length(config: Config, steps: int, other_steps: int, step: int) -> None:
    assert learning_rate_factor(step, steps, config, 25) == learning_rate_factor(step, other_steps, config, 25)
    assert ema_decay(step, steps, config) == ema_decay(step, other_steps, config)
    assert min_quality(step, steps) == min_quality(step, other_steps)


@given(configs, lengths, st.data())
def test_every_schedule_stays_in_its_bounds(config: Config, steps: int, data: st.DataObject) -> None:
    step, per_epoch = data.draw(st.integers(0, steps - 1)), data.draw(st.floats(0.1, 1000))
    assert 0 <= learning_rate_factor(step, steps, config, per_epoch) <= 1 + 1e-9
    assert 0 <= ema_decay(step, steps, config) < 1
    assert min_quality(step, steps) in (0.0, 0.1)


@given(
    st.builds(Config, warmup=fractions, lr_decay_start=st.floats(0, 0.99), final_lr=fractions),
    st.integers(1000, 20_000),
)
def test_last_step_has_the_final_learning_rate(config: Config, steps: int) -> None:
    assert learning_rate_factor(steps - 1, steps, config, 25) == pytest.approx(config.final_lr, abs=1e-6)


def test_ema_decay_grows_to_its_fraction_of_the_run() -> None:
    config = Config(ema=0.02)
    assert [ema_decay(step, 10_000, config) for step in (0, 1, 8)] == [1 / 10, 2 / 11, 9 / 18]
    assert ema_decay(9_000, 10_000, config) == pytest.approx(1 - 2 / 200)
    assert ema_decay(5_000, 10_000, Config(ema=0)) == 0


def test_minimum_quality_ends_after_two_percent_of_the_run() -> None:
    assert [min_quality(step, 5000) for step in (0, 99, 100, 4999)] == [0.1, 0.1, 0, 0]


@pytest.mark.parametrize(("steps", "factor"), [(25, 0.3), (250, 0.3), (600, 0.6), (1000, 1), (5000, 1)])
def test_backbone_changes_less_in_short_runs(steps: int, factor: float) -> None:
    config = Config(lr_backbone="by_steps")
    assert backbone_factor(PLANNING_STEPS, steps, config) == pytest.approx(factor)
    assert backbone_factor(0, steps, config) == 0.3
    assert backbone_factor(PLANNING_STEPS, steps, Config()) == 1
    assert backbone_factor(0, steps, Config(lr_backbone=0.7)) == 0.7


def test_frozen_backbone_has_learning_rate_zero() -> None:
    config = Config(freeze=0.25, lr_backbone=0.5)
    assert [backbone_factor(step, 200, config) for step in (0, 49, 50, 199)] == [0, 0, 0.5, 0.5]
    assert [backbone_factor(step, 40, config) for step in (PLANNING_STEPS - 1, PLANNING_STEPS)] == [0, 0.5]


@settings(max_examples=30)
@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(200, 2000),
    st.lists(st.tuples(st.floats(0, 0.9), st.floats(0.5, 2)), max_size=3),
)
def test_learning_rate_does_not_jump_when_the_plan_changes(
    name: str, steps: int, changes: list[tuple[float, float]]
) -> None:
    config, plan = Config(lr_schedule=name), StepPlan.fixed(steps)  # type: ignore[arg-type]
    for where, factor in changes:
        latest = max(PLANNING_STEPS, plan.changes[-1][0])
        done = latest + int(where * (plan.steps - latest))
        plan = plan.changed(done, done + max(50, int(factor * (plan.steps - done))))

    def rates(plan: StepPlan) -> list[float]:
        return [learning_rate_factor(step, plan.length_at(step), config, 25) for step in range(plan.steps)]

    shortest = min(steps for _, steps in plan.changes)
    largest_difference = max(abs(b - a) for a, b in itertools.pairwise(rates(StepPlan.fixed(shortest))))
    changed = rates(plan)
    assert max(abs(b - a) for a, b in itertools.pairwise(changed)) <= 6 * largest_difference
    assert changed[-1] == pytest.approx(config.final_lr)
