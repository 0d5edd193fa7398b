"""Checkpoints: everything needed to resume a run with exactly the same result as without the interruption.

A checkpoint is one safetensors file, with the progress of the run as JSON in its metadata. The file name contains a
hash of the content, so that a damaged file is detected. The order and the augmentation of the images are functions of
the step, so a checkpoint does not contain them.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from detector.errors import FileError
from detector.output_folder import OutputFolder
from detector.step_plan import StepPlan

log = logging.getLogger(__name__)

FORMAT = "detector-state-4"
_KEPT = 2
"""Number of checkpoints in a folder; older ones are removed."""


@dataclass
class Progress:
    """The progress of a run: planned and done steps, losses and results so far.

    Attributes:
        plan_changes: the changes of the planned number of steps; see `StepPlan`. Empty before the run is planned.
        evaluations: planned number of evaluations; 0 before the run is planned.
        step: number of steps done.
        step_seconds: durations of a step by which the latest plan was made; see `RunTimes`. Empty without a length in
            minutes.
        evaluation_seconds: the same for an evaluation.
        seconds: wall time of the run, without interruptions.
        losses: name of a loss term → its sum since the last evaluation.
        steps_since: number of steps since the last evaluation.
        without_better: number of evaluations since the highest AP was reached.
        best: the evaluation with the highest AP, as `AveragePrecision.to_json` returns it; None before it.
        results: rows of results.csv.
        timing: rows of timing.csv.
        run: hash of the content of run.json; see `run_record.content_hash`.
        best_sha256: SHA-256 hash of the file best.safetensors; empty before it is written.
        best_metadata: metadata of this file. Its tensors are in the checkpoint, too.
        labeling_seconds: with a length in minutes: expected duration of the labeling of unlabeled images; 0 after it.
        unlabeled_sha256: SHA-256 hash of the file unlabeled.json; empty before it is written.
        processes: number of processes that did the last steps.
    """

    plan_changes: list[tuple[int, int]] = field(default_factory=list)
    evaluations: int = 0
    step: int = 0
    step_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: float = 0.0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    steps_since: int = 0
    without_better: int = 0
    best: dict[str, Any] | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)
    run: str = ""
    best_sha256: str = ""
    best_metadata: dict[str, str] = field(default_factory=dict)
    labeling_seconds: float = 0.0
    unlabeled_sha256: str = ""
    processes: int = 1

    @property
    def plan(self) -> StepPlan:
        """The planned number of steps, after the run has been planned."""
        return StepPlan(tuple((done, steps) for done, steps in self.plan_changes))

    @property
    def steps(self) -> int:
        """The planned number of steps according to the latest plan; 0 before the run is planned."""
        return self.plan.steps if self.plan_changes else 0


State = tuple[Progress, dict[str, Tensor]]
"""A checkpoint: progress, and name → tensor."""


_BEST = "best."
"""Start of the names of the tensors of best.safetensors."""


def best_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of best.safetensors, by their names in this file, from the tensors of a checkpoint."""
    return {name.removeprefix(_BEST): tensor for name, tensor in tensors.items() if name.startswith(_BEST)}


def with_best(tensors: Mapping[str, Tensor], best: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint: those of the trainer, and those of best.safetensors."""
    return {**tensors, **{_BEST + name: tensor for name, tensor in best.items()}}


def write_state(folder: OutputFolder, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint into the subfolder `state`, then remove all checkpoints of the run except the latest two.

    Raises:
        FileError: the checkpoint cannot be written. Earlier checkpoints are unchanged.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(on_cpu, {"format": FORMAT, "progress": json.dumps(asdict(progress))})
    folder.write(f"state/{progress.step:08d}-{_hash(data)}.safetensors", data, durable=True)
    for old in state_files(folder.path / "state")[_KEPT:]:
        folder.remove(f"state/{old.name}")


def read_state(folder: Path) -> State | None:
    """Read and return the latest undamaged checkpoint in a folder: progress and tensors; None if there is none.

    Raises:
        FileError: another version of this package wrote the checkpoint.
    """
    for path in state_files(folder):
        try:
            return _read(path)
        except FileError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            log.warning(f"{path}: the checkpoint is damaged ({error}); using the checkpoint before it")
    return None


def _read(path: Path) -> State:
    if not path.is_file():
        raise ValueError("it is not a file")  # to read a pipe would wait forever
    data = path.read_bytes()
    if path.stem.partition("-")[2] != _hash(data):
        raise ValueError("the content does not match the hash in the file name")
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if head["format"] != FORMAT:
        raise FileError(
            f"{path}: the checkpoint was written by another version (format {head['format']!r}, expected {FORMAT!r}); "
            "resume with that version, or train again"
        )
    return Progress(**json.loads(head["progress"])), load(data)


def state_files(folder: Path) -> list[Path]:
    """Return the paths of the checkpoints in a folder, the latest first."""
    return sorted(folder.glob("[0-9]*-*.safetensors"), reverse=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
