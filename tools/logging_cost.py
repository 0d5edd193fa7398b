"""Measure the CPU time that loggers take in the training process: python tools/logging_cost.py DATA --log tensorboard.

Measured are all calls from the training to callbacks and loggers, the start and end of the loggers, and the threads
that talk to their processes. The processes of the loggers themselves are not part of it: they have a low priority.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any

import detector
from detector.loggers.log_process import LogProcess
from detector.loggers.names import LOGGERS
from detector.training.observers import Observation

seconds: dict[str, float] = {}
"""What was called → its CPU time, in seconds."""


def timed(owner: type, name: str, kind: str) -> None:
    """Add the CPU time of the thread in each call of a method to `seconds`."""
    function: Callable[..., Any] = getattr(owner, name)

    def wrapper(*arguments: Any, **named: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            seconds[kind] = seconds.get(kind, 0.0) + time.thread_time() - start

    setattr(owner, name, wrapper)


def main() -> None:
    """Train, and print the CPU time of the logging."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--log", nargs="*", default=list(LOGGERS), choices=LOGGERS)
    parser.add_argument("--steps", type=int, default=250)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for owner, name, kind in (
        (Observation, "step", "steps"),
        (Observation, "evaluation", "evaluations"),
        (Observation, "settings", "settings"),
        (Observation, "_start_loggers", "start"),
        (Observation, "_close", "end"),
        (LogProcess, "_send", "threads"),
        (LogProcess, "_receive", "threads"),
    ):
        timed(owner, name, kind)
    before = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = detector.Config(steps=options.steps, evaluations=5)
        detector.train(options.data, config, out=f"{folder}/run", loggers=options.log)
    total = time.process_time() - before
    for kind, value in seconds.items():
        print(f"{kind:12} {value:7.3f} s")
    print(f"logging to {', '.join(options.log)}: {sum(seconds.values()):.2f} s of {total:.1f} s CPU time,", end=" ")
    print(f"{100 * sum(seconds.values()) / total:.2f} %")


if __name__ == "__main__":
    main()
