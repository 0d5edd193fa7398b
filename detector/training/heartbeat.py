"""Heartbeat: finds a process of a run that has ended or cannot be reached, and ends the others within seconds.

Without it, the other processes would wait for the lost one, some of them until a timeout of hours.
"""

import logging
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from torch.distributed.distributed_c10d import Store

from detector.errors import PeerError, ProcessError

log = logging.getLogger(__name__)

_PERIOD = 0.5
"""Seconds between two signs of life of a process."""

_SILENCE = 60.0
"""A process that gives no sign of life for so many seconds counts as lost. It is long, because some functions of
Python, such as the reading of a large JSON file, stop all threads of a process."""

_SILENCE_AFTER_ERROR = 3.0
"""The same, after an operation between processes has failed."""

_GRACE = 3.0
"""Seconds that a process has to stop by itself after another one is lost."""

_FAILURE = "failure"
"""Key in the store with the message of the process that failed first."""


def host_name() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


class Heartbeat:
    """A thread that tells the other processes that this process is alive, and watches them.

    Args:
        store: the store of the processes, for this thread alone.
        rank: number of this process.
        size: number of processes.
        is_local_first: whether this is the first process of its machine.
        timeout: largest time to wait for the start of all processes.

    Attributes:
        local_size: number of processes on this machine.

    Raises:
        ProcessError: not all processes have started.
    """

    def __init__(self, store: Store, rank: int, size: int, is_local_first: bool, timeout: timedelta) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._reports_lost_store = is_local_first or rank == 1
        self._closed, self._failed, self._suspects = threading.Event(), threading.Event(), threading.Event()
        self._message = ""
        self._answered = time.monotonic()
        self._lock = threading.Lock()  # the store answers one thread at a time
        namespace = Path("/proc/self/ns/pid")  # the process numbers of two containers are not comparable
        machine = f"{host_name()} {namespace.readlink() if namespace.exists() else ''}"
        store.set(f"beat/{rank}", "0")
        store.set(f"process/{rank}", f"{os.getpid()} {machine}")
        keys = [f"process/{other}" for other in range(size)]
        try:
            store.wait(keys, timeout)
        except RuntimeError:
            missing = [str(other) for other, key in enumerate(keys) if not store.check([key])]
            raise ProcessError(
                f"of {size} processes, number {', '.join(missing)} did not start within "
                f"{timeout.total_seconds():.0f} s; start torchrun on every machine"
            ) from None
        rows = [store.get(key).decode().split(" ", 1) for key in keys]
        self._names = [
            f"process {other} (pid {pid} on {place.split(' ')[0]})" for other, (pid, place) in enumerate(rows)
        ]
        self._local = {other: int(pid) for other, (pid, place) in enumerate(rows) if place == machine}
        self.local_size = len(self._local)
        store.set_timeout(timedelta(seconds=_SILENCE))
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch_store, name="store", daemon=True).start()

    @property
    def is_closed(self) -> bool:
        """Whether this process has stopped in good order."""
        return self._closed.is_set()

    def close(self) -> None:
        """Stop the thread: this process is about to end, in good order or not."""
        if not self._closed.is_set():
            self._closed.set()
            self._thread.join(_PERIOD * 4)

    def report(self, error: BaseException) -> bool:
        """Tell the other processes that this process stops because of an error; return whether it is the first error.

        Then this process must show the error. If another process stopped before, that process shows its own.
        """
        if self._message:  # this process has found the end of another one
            return True
        text = f"{self._names[self._rank]} stopped: {type(error).__name__}: {error}"
        if self._failed.is_set() or not self._fail(text):
            return False
        self._wait_for_others()
        return True

    def explain(self, error: Exception) -> ProcessError:
        """Return the error to raise after an operation between processes has failed.

        Args:
            error: the error of the operation.
        """
        self._suspects.set()
        if not self._failed.wait(_SILENCE_AFTER_ERROR + 8 * _PERIOD):
            return ProcessError(f"the connection to the other processes is broken: {str(error).splitlines()[0]:.200}")
        return ProcessError(self._message) if self._message else PeerError("another process of this run has ended")

    def _run(self) -> None:
        beats, changed = [b""] * self._size, [time.monotonic()] * self._size
        count = 0
        while not self._closed.wait(_PERIOD):
            count += 1
            self._answered = time.monotonic()
            try:
                with self._lock:
                    self._store.set(f"beat/{self._rank}", str(count))
                    now = self._store.multi_get([f"beat/{other}" for other in range(self._size)])
                    has_failed = self._store.check([_FAILURE])
            except RuntimeError:
                self._lose_store()
                break
            if has_failed:
                self._say_done()
                break
            moment = time.monotonic()
            changed = [
                moment if before != after else since for before, after, since in zip(beats, now, changed, strict=True)
            ]
            beats = now
            silence = _SILENCE_AFTER_ERROR if self._suspects.is_set() else _SILENCE
            if any(self._check(other, beats[other], moment - changed[other], silence) for other in range(self._size)):
                break
        if self._closed.is_set():
            self._say_done()
            return
        self._end()

    def _watch_store(self) -> None:
        """End this process if the store does not answer: its own timeout does not work after the link is cut."""
        while not self._closed.wait(_PERIOD):
            if self._failed.is_set():
                return
            if time.monotonic() - self._answered > _SILENCE:
                self._lose_store()
                self._end()

    def _end(self) -> None:
        """Give the main thread time to stop, then end this process."""
        self._failed.set()
        if not self._closed.wait(_GRACE + (_PERIOD if self._message else 0)):
            if self._message:
                log.error(self._message)
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            os._exit(1)

    def _check(self, other: int, beat: bytes, seconds: float, silence: float) -> bool:
        """Report another process that has ended or gives no sign of life; return whether it is lost.

        Args:
            other: number of the process.
            beat: its last sign of life.
            seconds: time since then.
            silence: longest time without a sign of life.
        """
        if beat == b"done" or other == self._rank:
            return False
        if other in self._local and not _exists(self._local[other]):
            self._fail(f"{self._names[other]} has ended")
            return True
        if seconds > silence:
            self._fail(f"{self._names[other]} has ended, or cannot be reached for {seconds:.0f} s")
            return True
        return False

    def _fail(self, reason: str) -> bool:
        """Tell all processes that the run stops; return whether this process is the first that says so."""
        message = f"{reason}; the run stops. To resume it, start all processes again with --resume and its folder"
        try:
            with self._lock:
                is_first: bool = self._store.compare_set(_FAILURE, "", message).decode() == message
        except RuntimeError:
            is_first = True
        if is_first:
            self._message = message
        return is_first

    def _wait_for_others(self) -> None:
        """Wait until the other processes know that the run stops: the store may end with this process."""
        keys = [f"beat/{other}" for other in range(self._size) if other != self._rank]
        end = time.monotonic() + _GRACE
        try:
            while time.monotonic() < end:
                with self._lock:
                    if all(beat == b"done" for beat in self._store.multi_get(keys)):
                        return
                time.sleep(0.1)
        except RuntimeError:
            log.debug("the store of the processes is gone")

    def _lose_store(self) -> None:
        """Report that the machine of process 0, which keeps the store, cannot be reached."""
        if self._reports_lost_store:
            self._message = f"{self._names[0]} has ended, or cannot be reached; the run stops"

    def _say_done(self) -> None:
        """Tell the other processes not to wait for this one: it ends in good order, or knows that the run stops."""
        try:
            with self._lock:
                self._store.set(f"beat/{self._rank}", "done")
        except RuntimeError:
            log.debug("the store of the processes is gone")


def _exists(pid: int) -> bool:
    """Return whether a process of this machine exists; on Windows always True, where a signal would end it."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
