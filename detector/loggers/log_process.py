"""`LogProcess`: passes messages to the process of a logger. It waits for it only at the end, for a limited time.

A tracker runs in a process of its own, so that a server that does not answer, a library that holds the interpreter or
a crash can neither stop nor slow down the training, and so that nothing of it changes the state of this process.
"""

import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

from detector.escaping import escape_line
from detector.loggers.messages import End, EvaluationRow, Message, Row, Start
from detector.loggers.names import LoggerName
from detector.wording import plural

log = logging.getLogger(__name__)

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from detector.loggers.process import run_logger; run_logger(sys.argv[1])"
)
"""Program of the process; its arguments are the logger, and the module search path of this process."""

_PERIOD = 1.0
"""Seconds between two batches of messages: a wake-up per step would cost the training time."""

_MOST_WAITING = 20_000
"""Largest number of messages that wait for the process; more are not logged."""

IDLE_SECONDS = 60.0
"""At the end, the run waits until the process has ended, but not longer than this after its last sign of life."""

LONGEST_SECONDS = 300.0
"""Longest time that the run waits at its end."""


class LogProcess:
    """The process of a logger. It starts at once.

    Args:
        name: the logger.
        start: the run.
    """

    def __init__(self, name: LoggerName, start: Start) -> None:
        self._name, self._start = name, start
        self._waiting: deque[Message] = deque()
        self._end: End | None = None
        self._closing = threading.Event()
        self._problem = ""
        self._has_ended = False
        self._alive_at = self._closed_at = time.monotonic()
        self._offered = {"steps": 0, "evaluations": 0}
        self._logged = dict(self._offered)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the end)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, name, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches only this process; and its children can be killed with it
        )
        self._sender = threading.Thread(target=self._send, name=f"log-{name}", daemon=True)
        self._receiver = threading.Thread(target=self._receive, name=f"log-{name}-replies", daemon=True)
        self._sender.start()
        self._receiver.start()

    def put(self, message: Message) -> None:
        """Pass a message on. Returns at once; if too many messages wait, this one is not logged."""
        kind = _kind(message)
        if kind is not None:
            self._offered[kind] += 1
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(message)

    def end(self, end: End) -> None:
        """Pass the last message on. Returns at once; `wait` must be called after it.

        Args:
            end: the last message.
        """
        self._end = end
        self._alive_at = self._closed_at = time.monotonic()
        self._closing.set()

    def wait(self) -> None:
        """Wait until everything is logged, or a limited time; end the process, and warn about what is not logged."""
        try:
            while self._receiver.is_alive():
                self._receiver.join(0.1)
                now = time.monotonic()
                if now - self._alive_at > IDLE_SECONDS or now - self._closed_at > LONGEST_SECONDS:
                    self._problem = self._problem or f"no answer for {now - self._alive_at:.0f} s"
                    break
        finally:
            self.kill()
        self._warn_about_lost()

    def _send(self) -> None:
        """Send the messages to the process: the function of a thread, which may wait for the process."""
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError):  # the process has ended, which `close` reports
            pipe.write(pickle.dumps(self._start))
            while True:
                is_last = self._closing.wait(_PERIOD)
                batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if batch:
                    pipe.write(pickle.dumps(batch))
                if is_last:
                    pipe.write(pickle.dumps(self._end))
                pipe.flush()
                if is_last:
                    break
        with contextlib.suppress(OSError):
            pipe.close()

    def _receive(self) -> None:
        """Read the replies of the process: the function of a thread."""
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            for line in pipe:
                self._alive_at = time.monotonic()
                if not line.endswith(b"\n"):  # the process was killed
                    break
                reply = json.loads(line)
                for kind in self._logged:
                    self._logged[kind] += reply.get(kind, 0)
                self._has_ended |= "ended" in reply
                if "place" in reply:
                    log.info("%s: %s", self._name, escape_line(reply["place"]))
                if "problem" in reply:
                    self._warn(reply["problem"])
        if not self._has_ended and not self._closing.is_set():
            self._warn(f"its process ended: {self._last_error()}")

    def _warn(self, problem: str) -> None:
        """Log the first problem as a warning; training continues."""
        if not self._problem:
            self._problem = problem
            log.warning("%s: cannot log (%s); the training continues", self._name, escape_line(problem))

    def _last_error(self) -> str:
        """Return the last line that the process wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{lines[-1]:.300}" if lines else "no message"

    def kill(self) -> None:
        """End the process, and the processes that it has started. Does nothing the second time."""
        if self._errors.closed:
            return
        with contextlib.suppress(OSError):
            if self._process.poll() is None:
                if sys.platform == "win32":  # it has no process groups of this kind
                    self._process.kill()
                else:
                    os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait for a file system
            self._process.wait(1.0)
        self._sender.join(1.0)
        if not self._problem and not self._has_ended:
            self._problem = self._last_error()
        self._errors.close()

    def _warn_about_lost(self) -> None:
        """Warn about what was not logged, with the reason."""
        assert self._end is not None
        files = len(self._end.files)
        lost = [
            f"{offered - self._logged[kind]} of {plural(offered, kind[:-1])}"
            for kind, offered in self._offered.items()
            if offered > self._logged[kind]
        ]
        if not self._has_ended:
            lost.append("the end of the run" + f" and {plural(files, 'file')}" * bool(files))
        if lost:
            folder: Path = self._start.folder
            log.warning(
                "%s: not logged: %s (%s); the files in %s are complete",
                self._name, ", ".join(lost), escape_line(self._problem), folder,
            )  # fmt: skip


def _kind(message: Message) -> str | None:
    """Return the kind of a message, for the numbers of logged messages; None: not counted."""
    if isinstance(message, Row):
        return "steps"
    return "evaluations" if isinstance(message, EvaluationRow) else None
