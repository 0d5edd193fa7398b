import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.step_plan import StepPlan

lengths = st.integers(1, 20_000)


@st.composite
def plans(draw: st.DrawFn) -> StepPlan:
    """Return a plan with up to six changes."""
    plan = StepPlan.fixed(draw(lengths))
    for _ in range(draw(st.integers(0, 6))):
        latest = plan.changes[-1][0]
        if latest == plan.steps - 1:
            break
        done = draw(st.integers(latest, plan.steps - 1))
        plan = plan.changed(done, draw(st.integers(done + 1, done + 5000)))
    return plan


@given(lengths, st.data())
def test_without_changes_everything_is_a_function_of_the_step(steps: int, data: st.DataObject) -> None:
    plan, step = StepPlan.fixed(steps), data.draw(st.integers(0, steps - 1))
    assert plan.steps == plan.length_at(step) == steps
    assert float(plan.left_after(step)) == pytest.approx(1 - step / steps)
    count = data.draw(st.integers(1, 100))
    assert plan.evenly_spaced(count) == sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


@given(plans(), st.data())
def test_progress_grows_from_zero_to_one(plan: StepPlan, data: st.DataObject) -> None:
    assert float(plan.left_after(0)) == 1
    assert float(plan.left_after(plan.steps)) == 0
    assert plan.length_at(plan.steps - 1) == plan.steps
    step = data.draw(st.integers(0, plan.steps - 1))
    assert plan.left_after(step) > plan.left_after(step + 1)
    assert plan.length_at(step) == pytest.approx((step + 1) / (1 - plan.left_after(step + 1)))


@given(plans(), st.data())
def test_a_change_keeps_the_progress_made(plan: StepPlan, data: st.DataObject) -> None:
    done = data.draw(st.integers(plan.changes[-1][0], plan.steps - 1))
    changed = plan.changed(done, done + data.draw(lengths))
    for before in {0, done // 2, done}:
        assert changed.left_after(before) == plan.left_after(before)
    slopes = {changed.left_after(step) - changed.left_after(step + 1) for step in (done, changed.steps - 1)}
    assert len(slopes) == 1  # the rest is spread evenly


@given(lengths, st.integers(1, 100))
def test_evaluations_are_evenly_spaced_and_include_the_end(steps: int, count: int) -> None:
    after = StepPlan.fixed(steps).evenly_spaced(count)
    assert after[-1] == steps
    assert after == sorted(set(after))
    assert after[0] >= 1
    assert len(after) <= min(count, steps)
    if count <= steps / 2:
        assert len(after) == count
        gaps = [b - a for a, b in itertools.pairwise([0, *after])]
        assert max(gaps) - min(gaps) <= 1


@given(plans(), st.integers(1, 20), st.data())
def test_a_change_neither_loses_nor_doubles_evaluations(plan: StepPlan, count: int, data: st.DataObject) -> None:
    before = plan.evenly_spaced(count)
    done = data.draw(st.sampled_from([step for step in before if step < plan.steps] or [0]))
    if done < plan.changes[-1][0]:
        return
    changed = plan.changed(done, done + data.draw(st.integers(4 * count, 5000)))
    after = changed.evenly_spaced(count)
    assert [step for step in after if step <= done] == [step for step in before if step <= done]
    assert after[-1] == changed.steps
    assert len(after) == len(set(after))
    if len(before) == count:
        assert len(after) == count
