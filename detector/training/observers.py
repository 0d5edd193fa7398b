"""Callbacks and loggers of a run. They see the run and cannot change it: with and without them, the result is the same.

An exception in a callback stops the run as Ctrl-C does. A logger that fails or hangs does not.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from detector.detections import Detections
from detector.errors import FileError
from detector.evaluating.evaluate import LetterboxedImage
from detector.loggers.log_process import LogProcess
from detector.loggers.messages import End, EvaluationRow, Message, Row, Settings, Start, Status
from detector.loggers.names import LoggerName, check_loggers
from detector.loggers.tensorboard import FOLDER as TENSORBOARD
from detector.training.events import EvaluationCallback, StepCallback, TrainingEvaluation, TrainingStep
from detector.training.run_folder import LOGGERS_FILE, RunFolder
from detector.url_names import with_urls

log = logging.getLogger(__name__)

_IMAGES = 4
"""Number of validation images that are logged."""

_LOGGED_SCORE = 0.25
"""Lowest score of a detection that is drawn in a logged image."""

_LONGEST_NAME = 100
"""Largest number of characters of the name of a metric of a class."""


@dataclass(frozen=True)
class Observers:
    """Who is told about a run.

    Attributes:
        on_step: called after each step; None: nothing is called.
        on_evaluation: called after each evaluation; None: nothing is called.
        loggers: experiment trackers to log to; None: those that the resumed run had before.
    """

    on_step: StepCallback | None = None
    on_evaluation: EvaluationCallback | None = None
    loggers: Sequence[LoggerName] | None = None

    def __post_init__(self) -> None:
        if self.loggers is not None:  # before a run is started
            object.__setattr__(self, "loggers", check_loggers(self.loggers))


NOBODY = Observers()
"""No callbacks and no loggers."""


class Observation:
    """Tells callbacks and loggers about one run.

    Args:
        observers: who is told.
        folder: folder of the run.

    Attributes:
        error: the exception of a callback, because of which the run must stop; None: there is none.
    """

    def __init__(self, observers: Observers, folder: RunFolder) -> None:
        self._observers, self._folder = observers, folder
        self._loggers: list[LogProcess] = []
        self._run_id = ""
        self._shown: dict[str, LetterboxedImage] = {}
        self.error: Exception | None = None

    @property
    def wants_steps(self) -> bool:
        """Whether someone wants to know about each step."""
        return bool(self._observers.on_step or self._loggers)

    @contextmanager
    def of_run(self, step: int, val_images: Sequence[LetterboxedImage]) -> Iterator[None]:
        """Context manager around a run: starts the loggers, and ends them within a limited time.

        At the end, the exception of a callback is raised again.

        Args:
            step: number of steps done before; 0: a new run.
            val_images: letterboxed images of val.

        Raises:
            InputError: loggers.json of a resumed run cannot be used, or a package is not installed.
        """
        status: Status = "failed"
        try:
            self._start_loggers(step, val_images)
            yield
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            if self.error is None:
                raise
        finally:
            self._close(status)
        if self.error is not None:
            raise self.error

    def step(self, event: TrainingStep) -> None:
        """Tell about a step."""
        self._call(self._observers.on_step, event)
        values = {"train/loss": event.loss} | {f"train/loss_{name}": value for name, value in event.losses.items()}
        values |= {f"lr/{name}": rate for name, rate in event.learning_rates.items()}
        values |= {"train/images_per_second": event.images_per_second, "train/seconds": event.seconds}
        values |= {"train/epoch": event.epoch, "train/input_size": float(max(event.input_hw))}
        self._put(Row(event.step, time.time(), values))

    def evaluation(self, event: TrainingEvaluation, found: Mapping[int, Detections]) -> None:
        """Tell about an evaluation.

        Args:
            event: the evaluation.
            found: image id → detections in the image.
        """
        self._call(self._observers.on_evaluation, event)
        if not self._loggers:
            return
        values: dict[str, float] = {}
        if event.ap is not None:
            metrics = asdict(replace(event.ap, per_class={}, many=None, intervals=None))
            values = {f"val/{name}": value for name, value in metrics.items() if isinstance(value, float)}
            names = metric_names(tuple(event.ap.per_class))
            values |= {f"val_per_class/AP_{names[k]}": float(v["AP"]) for k, v in event.ap.per_class.items()}
        values = {name: value for name, value in values.items() if value >= 0}  # -1: there are no such objects
        drawn = {
            name: _in_input(found[image.annotation.image_id], image)
            for name, image in self._shown.items()
            if image.annotation.image_id in found
        }
        self._put(EvaluationRow(Row(event.step, time.time(), values), drawn))
        self._vouch()

    def settings(self, step: int, values: Mapping[str, object]) -> None:
        """Tell about the settings, or a change of the plan after a number of steps."""
        # Plain values: the version of torch has a type of its own, for which the loggers would import torch.
        self._put(Settings(step, json.loads(json.dumps(values, default=str))))

    def _call(self, callback: Any, event: TrainingStep | TrainingEvaluation) -> None:
        """Call a callback, unless one has failed before; keep its exception."""
        if callback is None or self.error is not None:
            return
        try:
            callback(event)
        except Exception as error:
            self.error = error
            log.warning("step %d: a callback raised %s; the run stops", event.step, type(error).__name__)

    def _put(self, message: Message) -> None:
        for logger in self._loggers:
            logger.put(message)

    def _start_loggers(self, step: int, val_images: Sequence[LetterboxedImage]) -> None:
        """Start the loggers; the arguments are those of `of_run`."""
        self._run_id, before = self._read()
        names = check_loggers(before if self._observers.loggers is None else self._observers.loggers)
        if not names and not before:
            return
        self._folder.write_json(LOGGERS_FILE, {"run_id": self._run_id, "loggers": list(names)})
        every = max(1, len(val_images) // _IMAGES)
        self._shown = {f"image_{index}": image for index, image in enumerate(val_images[::every][:_IMAGES])}
        path = self._folder.path.resolve()
        shown_path = with_urls(str(path))
        record = self._folder.read_json("run.json")
        facts = dict(record["facts"]) | {"run.json": record["sha256"]}
        start = Start(
            run_id=self._run_id,
            name=PurePath(shown_path).name,
            folder=path,
            resumed_after=step or None,
            facts=facts,
            images={name: image.pixels for name, image in self._shown.items()},
            metrics=("val/AP", "val/AP50") if val_images else (),
        )
        for name in names:
            try:
                self._loggers.append(LogProcess(name, start))
            except OSError as error:  # no memory for a process, or a full disk
                log.warning("%s: cannot log (%s); the training continues", name, error)

    def _read(self) -> tuple[str, Sequence[str]]:
        """Return the id of the run and its loggers from loggers.json; a new id and no loggers if there is no file.

        Raises:
            FileError: the file is damaged.
        """
        path = self._folder.path / LOGGERS_FILE
        if not path.exists():
            return uuid.uuid4().hex[:16], ()
        values = self._folder.read_json(LOGGERS_FILE)
        try:
            run_id, names = values["run_id"], values["loggers"]
            if not (re.fullmatch(r"[0-9a-f]{16}", run_id) and all(isinstance(name, str) for name in names)):
                raise TypeError
        except (KeyError, TypeError):
            raise FileError(
                f"{path}: the file is damaged; remove it, and give the loggers again (--log), to continue with new "
                "curves"
            ) from None
        return run_id, names

    def _close(self, status: Status) -> None:
        """End the loggers."""
        best = self._folder.path.resolve() / "weights" / "best.safetensors"
        files = (best,) if status == "finished" and self._loggers else ()
        with ExitStack() as stack:
            for logger in self._loggers:
                stack.callback(logger.kill)  # also if Ctrl-C interrupts the waiting
                logger.end(End(status, files))
            for logger in self._loggers:
                logger.wait()
        self._vouch(sealed=True)

    def _vouch(self, *, sealed: bool = False) -> None:
        """Count the event files of this run as files of the run, so that `--overwrite` replaces them.

        Args:
            sealed: whether they are complete.
        """
        if not self._loggers:
            return
        for path in (self._folder.path / TENSORBOARD).glob(f"events.out.tfevents.*.{self._run_id}"):
            name = f"{TENSORBOARD}/{path.name}"
            with suppress(FileError):  # a file of a logger must not stop the run
                self._folder.files.vouch(name)
                if sealed:
                    self._folder.files.seal(name)


def metric_names(class_names: Sequence[str]) -> dict[str, str]:
    """Return class name → its name in a metric, which all trackers accept; the names are different.

    Args:
        class_names: the names of the classes, which are different.

    >>> metric_names(["red blood cell", "a/b", "a:b"])
    {'red blood cell': 'red blood cell', 'a/b': 'a_b', 'a:b': 'a_b 2'}
    """
    names: dict[str, str] = {}
    for index, name in enumerate(class_names):
        short = re.sub(r"[^\w\-. ]", "_", name)[:_LONGEST_NAME]
        names[name] = short if short not in names.values() else f"{short} {index}"
    return names


def _in_input(found: Detections, image: LetterboxedImage) -> Detections:
    """Return detections with a score that is worth drawing, in pixels of the letterboxed image."""
    best = found[found.scores >= _LOGGED_SCORE]
    return replace(best, boxes=image.letterbox.to_input(best.boxes))
