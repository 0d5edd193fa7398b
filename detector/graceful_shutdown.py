"""Graceful shutdown: the first Ctrl-C or SIGTERM asks the work to stop after the current step, the second stops it."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)


class GracefulShutdown:
    """Context manager in which the first signal only sets `requested`, and the second raises KeyboardInterrupt.

    Signals are handled in the main thread only; in other threads nothing changes.

    Attributes:
        requested: whether a signal has been received.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulShutdown":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping after the current step; press Ctrl-C again to stop at once")


@contextmanager
def sigterm_as_keyboard_interrupt() -> Iterator[None]:
    """Context manager in which SIGTERM also raises KeyboardInterrupt, so that cleanup runs."""

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
