"""Graceful shutdown: the first Ctrl-C or SIGTERM stops a run after the current step, the second immediately."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)


def _signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to stop; Windows has a second one for Ctrl-Break and for services."""
    if sys.platform == "win32":
        return signal.SIGINT, signal.SIGTERM, signal.SIGBREAK
    return signal.SIGINT, signal.SIGTERM


class GracefulShutdown:
    """Context manager for Ctrl-C and SIGTERM: the first signal sets `requested`, the second raises KeyboardInterrupt.

    The code inside the context checks `requested` after each step. In a thread other than the main thread, the context
    manager does nothing.

    Attributes:
        requested: whether Ctrl-C or SIGTERM has been received.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulShutdown":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _signals()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping after the current step; Ctrl-C or the same signal again stops immediately")


@contextmanager
def sigterm_as_keyboard_interrupt() -> Iterator[None]:
    """Context manager in which SIGTERM raises KeyboardInterrupt, as Ctrl-C does, so that cleanup code runs.

    In a thread other than the main thread, the context manager does nothing.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
