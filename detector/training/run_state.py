"""Checkpoints for resuming: everything needed to continue a run bit-exactly.

One safetensors file, with the progress of the run as JSON in its metadata. The file name contains a hash of the
content, so that a damaged file is detected. The order of the images and their augmentation are functions of the step
and need not be saved.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from detector.errors import FileError
from detector.files import write_atomic

log = logging.getLogger(__name__)

FORMAT = "detector-state-2"
_KEPT = 2


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        steps: planned steps.
        evaluations: planned evaluations.
        step: steps done.
        seconds: wall time so far, over all sessions.
        losses: sums of the loss terms since the last evaluation.
        steps_since: steps since then.
        without_better: evaluations since the best AP.
        best: the best evaluation, as `AveragePrecision.to_json` returns it.
        results: rows of results.csv.
        timing: rows of timing.csv.
    """

    steps: int
    evaluations: int
    step: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    steps_since: int = 0
    without_better: int = 0
    best: dict[str, Any] | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)


def write_state(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint into a folder and remove all but the last two.

    Raises:
        FileError: the checkpoint cannot be written; earlier ones are unchanged.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(on_cpu, {"format": FORMAT, "progress": json.dumps(asdict(progress))})
    write_atomic(folder / f"{progress.step:08d}-{_hash(data)}.safetensors", data)
    for old in _states(folder)[_KEPT:]:
        old.unlink()


def read_state(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """Return the latest intact checkpoint of a folder; None where there is none.

    Raises:
        FileError: the checkpoint was written by another version.
    """
    for path in _states(folder):
        try:
            return _read(path)
        except FileError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning(f"{path}: damaged, using the checkpoint before it ({error})")
    return None


def _read(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    data = path.read_bytes()
    if path.stem.partition("-")[2] != _hash(data):
        raise ValueError("the content does not match the hash in the file name")
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if head["format"] != FORMAT:
        raise FileError(f"{path}: written by another version ({head['format']}, expected {FORMAT})")
    return Progress(**json.loads(head["progress"])), load(data)


def _states(folder: Path) -> list[Path]:
    """Return the checkpoints, latest first."""
    return sorted(folder.glob("[0-9]*-*.safetensors"), reverse=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
