"""The budget of a search in minutes: how long a trial is, and whether another one fits."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

FULL_TRIALS = 16
"""Number of trials of full length for which the search has time. As half of the trials end early, it does some twenty.
Fewer would not cover a dozen settings. With more, each would be so short that it says little about a longer run."""

EVALUATIONS = 4
"""Number of evaluations of a trial, evenly spaced."""

FIRST_RUNG = 2
"""Number of the evaluation after which a trial may end early: at half of its steps. Before, the learning rate is still
rising or at its peak and the images are small, so AP says little about the end."""


def trial_minutes(minutes_total: float, seeds: int) -> float:
    """Return the length of a trial in minutes.

    The total is divided into `FULL_TRIALS` trials, and the final comparison: `seeds` runs with the best settings found,
    and as many with the defaults.

    Args:
        minutes_total: sum of the minutes of all workers.
        seeds: number of seeds of the final comparison.

    >>> round(trial_minutes(60, seeds=5), 2)
    2.31
    """
    return minutes_total / (FULL_TRIALS + 2 * seeds)


@dataclass(frozen=True)
class Spent:
    """Time that a trial has taken.

    Attributes:
        seconds: time so far; of a trial of a killed worker, until its last sign of life.
        ended: whether the trial has ended.
        is_full: whether the trial has done all of its steps.
    """

    seconds: float
    ended: bool
    is_full: bool


def fits(trials: Iterable[Spent], minutes_total: float, seeds: int, trial_seconds: float, before: float = 0.0) -> bool:
    """Return whether another trial of full length, and then the final comparison, end within the total.

    A trial that is running or waiting counts with the length of a full trial, so that no clocks of different machines
    are compared.

    Args:
        trials: the trials of all workers.
        minutes_total: the total in minutes.
        seeds: number of seeds of the final comparison.
        trial_seconds: planned length of a trial in seconds; 0: it is not known. It counts until a trial has done all
            steps; then the mean of these trials does.
        before: seconds that were spent before the first trial.
    """
    trials = list(trials)
    full = [trial.seconds for trial in trials if trial.is_full]
    length = fmean(full) if full else trial_seconds
    spent = sum(trial.seconds if trial.ended else max(length, trial.seconds) for trial in trials)
    return before + spent + length * (1 + 2 * seeds) <= minutes_total * 60
