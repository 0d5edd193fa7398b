"""The process of a logger: receives messages from a training run and passes them to an experiment tracker.

Whatever fails here stays here. The process tells the run the first problem, and how many messages were logged.
"""

import json
import os
import pickle
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from itertools import groupby
from typing import IO

from detector.arrays import ImageArray
from detector.loggers.backend import Backend
from detector.loggers.messages import End, EvaluationRow, Message, Row, Settings, Start, Status

_NICENESS = 5
"""The process runs with lower priority than the training."""

_ATTEMPTS = 3
"""A message that cannot be logged is tried again so many times with the next messages, then left out."""

_MOST_PENDING = 10_000
"""Largest number of messages that wait for another attempt."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment variables of the process, unless the user has set them: no telemetry, no output, and short timeouts."""


class Replies:
    """Sends JSON lines to the training run.

    Args:
        pipe: a pipe to the run.
    """

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe

    def send(self, values: Mapping[str, object]) -> None:
        """Send an object as a line of JSON; do nothing if the run has ended."""
        try:
            self._pipe.write(json.dumps(values) + "\n")
            self._pipe.flush()
        except OSError:  # the run was killed; the tracker still gets what is here
            self._pipe = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (stays open)

    def problem(self, error: Exception) -> None:
        """Send the reason of a failure."""
        text = " ".join(str(error).split()) or "no message"
        self.send({"problem": f"{type(error).__name__}: {text:.300}"})


class Worker:
    """Passes messages to an experiment tracker, in their order. The tracker is opened at the first message.

    Args:
        name: name of the logger.
        start: the run.
        replies: for problems and the numbers of logged messages.
    """

    def __init__(self, name: str, start: Start, replies: Replies) -> None:
        self._name, self._start, self._replies = name, start, replies
        self._backend: Backend | None = None
        self._pending: list[Message] = []
        self._failures = 0

    def handle(self, messages: list[Message]) -> None:
        """Log messages, and those that could not be logged before."""
        self._pending += messages
        del self._pending[: max(0, len(self._pending) - _MOST_PENDING)]
        groups = [list(group) for _, group in groupby(self._pending, key=type)]
        groups = [part for group in groups for part in ([group] if isinstance(group[0], Row) else [[m] for m in group])]
        done = 0
        try:
            for group in groups:
                self._log(group)
                done += len(group)
                self._failures = 0
        except Exception as error:
            self._replies.problem(error)
            self._failures += 1
            if self._failures == _ATTEMPTS and self._backend is not None:
                done, self._failures = done + len(group), 0
        del self._pending[:done]

    def _log(self, group: list[Message]) -> None:
        """Log messages of the same kind, of which only rows of steps come several at a time."""
        backend = self._open()
        match group[0]:
            case Settings() as message:
                backend.settings(message.step, message.values)
            case EvaluationRow() as message:
                backend.evaluation(message.row, self._draw(message))
                self._replies.send({"evaluations": 1})
            case Row():
                backend.steps([row for row in group if isinstance(row, Row)])
                self._replies.send({"steps": len(group)})

    def _draw(self, message: EvaluationRow) -> dict[str, ImageArray]:
        images = self._start.images
        return {name: found.draw_on(images[name]) for name, found in message.found.items()}

    def _open(self) -> Backend:
        """Return the tracker; open it if it is not open yet."""
        if self._backend is None:
            import_module(self._name)
            self._replies.send({})  # a sign of life: the import may take long
            self._backend = make_backend(self._name, self._start)
            self._replies.send({"place": self._backend.place})
        return self._backend

    def close(self, status: Status, files: "End | None") -> None:
        """Store the files, and close the tracker."""
        try:
            backend = self._open()
            for path in files.files if files is not None else ():
                backend.file(path)
            backend.close(status)
            self._replies.send({"ended": True})
        except Exception as error:
            self._replies.problem(error)


def make_backend(name: str, start: Start) -> Backend:
    """Open a run of an experiment tracker.

    Args:
        name: name of the logger.
        start: the run.
    """
    if name == "tensorboard":
        from detector.loggers.tensorboard import TensorBoard

        return TensorBoard(start)
    if name == "mlflow":
        from detector.loggers.mlflow import MLflow

        return MLflow(start)
    assert name == "wandb"
    from detector.loggers.wandb import WeightsAndBiases

    return WeightsAndBiases(start)


def run_logger(name: str) -> None:
    """Log messages until the run ends: the main function of the process.

    Args:
        name: name of the logger.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C, the run sends its last messages
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # A tracker must neither read the messages, such as to ask for a password, nor print into the replies.
    messages, replies = os.fdopen(os.dup(0), "rb"), Replies(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (stays open)
    end: End | None = None
    try:
        worker = Worker(name, pickle.load(messages), replies)
        while not isinstance(end, End):
            received: list[Message] | End = pickle.load(messages)
            if isinstance(received, End):
                end = received
            else:
                worker.handle(received)
    except EOFError:  # the run was killed
        pass
    worker.close("interrupted" if end is None else end.status, end)
