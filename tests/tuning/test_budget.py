import pytest

from detector.tuning.budget import RUNGS, Spent, fits, run_minutes


@pytest.mark.parametrize("total", [10.0, 60.0])
@pytest.mark.parametrize("seeds", [2, 5])
def test_trials_and_comparison_fit_into_the_total(total: float, seeds: int) -> None:
    run = run_minutes(total, seeds) * 60
    done: list[Spent] = []
    while fits(done, total, seeds, run):
        ends_early = len(done) % 2 == 1
        done.append(Spent(run * (RUNGS[0] if ends_early else sum(RUNGS)), ended=True, is_full=not ends_early))
    assert 18 <= len(done) <= 22
    spent = sum(trial.seconds for trial in done) + 2 * seeds * run
    assert total * 60 - 3 * run < spent <= total * 60


def test_running_trials_count_with_all_of_their_runs() -> None:
    running = [Spent(1.0, ended=False, is_full=False)] * 3
    minutes = 4 * sum(RUNGS) + 4  # three trials, another one, and the comparison with two seeds
    assert fits(running, minutes + 1e-6, 2, 60.0)
    assert not fits(running, minutes - 0.1, 2, 60.0)
    assert not fits([Spent(500.0, ended=False, is_full=False)], 8, 2, 60.0)  # slower than planned


def test_measured_length_replaces_the_planned_one() -> None:
    slow = [Spent(120.0 * sum(RUNGS), ended=True, is_full=True)]
    minutes = 2 * (2 * sum(RUNGS) + 4)
    assert fits(slow, minutes + 1e-6, 2, 60.0)
    assert not fits(slow, minutes - 0.1, 2, 60.0)
    assert fits([], 1, 2, 0.0), "the length is not known before the first trial"


def test_time_of_planning_counts() -> None:
    assert fits([], 5.25 + 1e-6, 2, 60.0)
    assert not fits([], 5.25, 2, 60.0, before=1.0)
