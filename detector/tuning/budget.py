"""The budget of a search in minutes: how long a run is, and whether another one fits."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from detector.config import PLANNING_STEPS

FULL_RUNS = 16
"""Number of runs of full length for which the search has time. As half of the trials end after a short run, it does
some twenty trials. Fewer would not cover a dozen settings. With more, a run would be so short that it says little about
a longer one."""

RUNGS = (0.25, 1.0)
"""Lengths of the runs of a trial, as fractions of the full length. A trial ends after its short run unless this is
among the better half. The short run is complete, with its own learning rate schedule: AP in the middle of a full run
tells nothing about its end (docs/results.md)."""


def rung_steps(steps: int) -> tuple[int, ...]:
    """Return the number of steps of each run of a trial; a run of `steps` steps alone, if a short one says nothing.

    >>> rung_steps(1000), rung_steps(100)
    ((250, 1000), (100,))
    """
    short = round(RUNGS[0] * steps)
    return (short, steps) if short > 2 * PLANNING_STEPS else (steps,)


def run_minutes(minutes_total: float, seeds: int) -> float:
    """Return the length of a run in minutes.

    The total is divided into `FULL_RUNS` runs, and the final comparison: `seeds` runs with the best settings found, and
    as many with the defaults.

    Args:
        minutes_total: sum of the minutes of all workers.
        seeds: number of seeds of the final comparison.

    >>> round(run_minutes(60, seeds=5), 2)
    2.31
    """
    return minutes_total / (FULL_RUNS + 2 * seeds)


@dataclass(frozen=True)
class Spent:
    """Time that a trial has taken.

    Attributes:
        seconds: time so far; of a trial of a killed worker, until its last sign of life.
        ended: whether the trial has ended.
        is_full: whether the trial has done all of its runs.
    """

    seconds: float
    ended: bool
    is_full: bool


def fits(trials: Iterable[Spent], minutes_total: float, seeds: int, run_seconds: float, before: float = 0.0) -> bool:
    """Return whether another trial with all of its runs, and then the final comparison, end within the total.

    A trial that is running or waiting counts with all of its runs, so that no clocks of different machines are
    compared.

    Args:
        trials: the trials of all workers.
        minutes_total: the total in minutes.
        seeds: number of seeds of the final comparison.
        run_seconds: planned length of a run in seconds; 0: it is not known. It counts until a trial has done all of its
            runs; then the mean of these trials does.
        before: seconds that were spent before the first trial.
    """
    trials = list(trials)
    full = [trial.seconds for trial in trials if trial.is_full]
    length = fmean(full) if full else run_seconds * sum(RUNGS)
    spent = sum(trial.seconds if trial.ended else max(length, trial.seconds) for trial in trials)
    return before + spent + length * (1 + 2 * seeds / sum(RUNGS)) <= minutes_total * 60
