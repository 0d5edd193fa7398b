"""The `detector` command, also as `python -m detector`: exit status 130 and one line after Ctrl-C, at any moment.

This module imports nothing that takes time before it handles Ctrl-C.
"""

import _signal  # type: ignore[import-not-found]  # `signal` imports `enum`, which takes long
import os
import sys

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than everything else here
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_INTERRUPTED = 130
"""Exit status after Ctrl-C."""

_IMPORT = "<frozen importlib"
"""Start of the file name of Python's import code."""

_raises = False
"""Whether Ctrl-C raises KeyboardInterrupt. If not, no command is running, and Ctrl-C ends the process at once."""


def main() -> int:
    """Run the command line of this process, and return the exit status."""
    global _raises
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # not if the parent process ignores Ctrl-C
        _signal.signal(_signal.SIGINT, _handle)
    from detector.parent_process import exit_with_parent

    exit_with_parent()
    from detector.cli.commands import main as run

    try:
        _raises = True
        try:
            return run()
        finally:
            _raises = False
    except KeyboardInterrupt:  # in the moment before or after the command
        _raises = False
        _leave()


def _handle(number: int, frame: "FrameType | None") -> None:
    """Handle Ctrl-C: raise KeyboardInterrupt while a command runs; before, after and in an import, end the process.

    Some packages print a KeyboardInterrupt that is raised while they are imported, or replace it by another exception.
    """
    if _raises and not _is_importing(frame):
        raise KeyboardInterrupt
    _leave()


def _is_importing(frame: "FrameType | None") -> bool:
    """Return True if the code of a frame was called by an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORT):
            return True
        frame = frame.f_back
    return False


def _leave() -> "NoReturn":
    """Print one line and end the process, without what Python does at its end: that would print a traceback."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
