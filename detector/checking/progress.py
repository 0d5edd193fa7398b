"""Progress of the checks that train: on a slow machine, they say what runs and how long it will take."""

import time
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Function that is called with the number of steps that are done, and the number of all steps."""

_PATIENCE = 20.0
"""Seconds after which a check says that it is running."""

_INTERVAL = 60.0
"""Seconds between two such messages."""


def no_progress(done: int, total: int) -> None:
    """Do nothing."""


def report_progress(name: str, report: Callable[[str], None]) -> Progress:
    """Return a function that reports the progress of a check which takes long.

    Args:
        name: name of the check.
        report: function that is called with each line of text.
    """
    start = time.monotonic()
    due = start + _PATIENCE

    def progress(done: int, total: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now < due or done >= total:
            return
        due = now + _INTERVAL
        left = (now - start) / done * (total - done)
        report(f"      {name}: step {done} of at most {total}, about {left:.0f} s left; the machine is slow or busy")

    return progress
