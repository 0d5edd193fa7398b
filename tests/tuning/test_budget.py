import pytest

from detector.tuning.budget import FULL_TRIALS, Spent, fits, trial_minutes


@pytest.mark.parametrize("total", [10.0, 60.0])
@pytest.mark.parametrize("seeds", [2, 5])
def test_sixteen_trials_of_full_length_fit_beside_the_comparison(total: float, seeds: int) -> None:
    seconds = trial_minutes(total, seeds) * 60 - 1e-6  # the sum is rounded
    done: list[Spent] = []
    while fits(done, total, seeds, seconds):
        done.append(Spent(seconds, ended=True, is_full=True))
    assert len(done) == FULL_TRIALS
    assert sum(trial.seconds for trial in done) + 2 * seeds * seconds <= total * 60


def test_trials_that_ended_early_make_room() -> None:
    seconds = trial_minutes(60, 5) * 60 - 1e-6
    done: list[Spent] = []
    while fits(done, 60, 5, seconds):
        done.append(Spent(seconds / 4, ended=True, is_full=False))
    assert len(done) > 3 * FULL_TRIALS


def test_running_trials_count_with_their_full_length() -> None:
    running = [Spent(1.0, ended=False, is_full=False)] * 3
    assert fits(running, 60 / 60 * 8, 2, 60.0)
    assert not fits(running, 60 / 60 * 8 - 0.1, 2, 60.0)
    assert not fits([Spent(500.0, ended=False, is_full=False)], 8, 2, 60.0)  # slower than planned


def test_measured_length_replaces_the_planned_one() -> None:
    slow = [Spent(120.0, ended=True, is_full=True)]
    assert fits(slow, 12, 2, 60.0)
    assert not fits(slow, 11.9, 2, 60.0)
    assert fits([], 1, 2, 0.0), "the length is not known before the first trial"


def test_time_of_planning_counts() -> None:
    assert fits([], 5, 2, 60.0)
    assert not fits([], 5, 2, 60.0, before=1.0)
