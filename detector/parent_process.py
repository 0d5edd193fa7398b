"""Ends a child process when its parent ends, also if the parent is killed: on every operating system, by a pipe."""

import contextlib
import os
import threading
from collections.abc import Mapping

_VARIABLE = "DETECTOR_EXIT_WITH_PARENT"
"""Environment variable that is set in a child process that must end with its parent."""

_STATUS = 130
"""Exit status of a child process that ends because its parent has ended."""


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child process that ends with this process.

    The standard input of the child process must be a pipe that this process keeps open and never writes to. When this
    process ends in whatever way, the operating system closes the pipe.

    Args:
        environment: the other environment variables of the child process.
    """
    return {**environment, _VARIABLE: "1"}


def exit_with_parent() -> None:
    """Start a thread that ends this process with its parent, if the parent has asked for it; see `child_environment`.

    Called first of all by the command line.
    """
    if os.environ.pop(_VARIABLE, None):
        threading.Thread(target=_wait_for_end_of_input, daemon=True).start()


def _wait_for_end_of_input() -> None:
    """End this process when the standard input ends."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(_STATUS)
