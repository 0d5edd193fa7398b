"""Ctrl-C on the command line: a command that is interrupted ends without a traceback."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STATUS = 130
"""Exit status of an interrupted command: 128 + SIGINT, as in a shell."""

_IMPORT = "<frozen importlib"
"""Start of the file name of Python's import code."""


@contextmanager
def quick_interrupts(*, until_exit: bool) -> Iterator[None]:
    """Context manager in which Ctrl-C raises KeyboardInterrupt, and during an import ends the process.

    Packages such as torch take seconds to import, and some of their code prints a KeyboardInterrupt or replaces it by
    another exception. In a thread other than the main thread, the context manager does nothing.

    Args:
        until_exit: True: the process exits after the context, and Ctrl-C then ends it at once. False: restore the
            previous handler.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if until_exit else before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORT):
            os.write(2, b"interrupted\n")
            os._exit(EXIT_STATUS)
        frame = frame.f_back
    raise KeyboardInterrupt
