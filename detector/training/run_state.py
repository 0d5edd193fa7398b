"""The state of a run on disk: all that is needed to go on to the same bits.

One safetensors file, numbers of the run as JSON in its metadata; a part of its name is the hash of its contents, so
that a damaged file is known as such. The order of the images and their augmentation are functions of the step:
nothing else exists.
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

from detector.errors import InputError
from detector.files import write_atomic

log = logging.getLogger(__name__)

FORMAT = "detector-state-1"
_KEPT = 2


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        steps: planned.
        evaluations: planned.
        step: steps done.
        seconds: wall time so far, of all its parts.
        losses: sums of the terms since the last evaluation.
        steps_since: steps since then.
        without_better: evaluations since the best AP.
        best: the best evaluation, as `AveragePrecision.to_json` gives it.
        results: lines of results.csv.
        timing: lines of timing.csv.
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
    """Write a state into the folder and remove all but the last two.

    Raises:
        InputError: it cannot be written; the states before are untouched.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(whole, {"format": FORMAT, "progress": json.dumps(asdict(progress))})
    write_atomic(folder / f"{progress.step:08d}-{_hash(data)}.safetensors", data)
    for old in _states(folder)[_KEPT:]:
        old.unlink()


def read_state(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """Return the last state that is whole; None where there is none."""
    for path in _states(folder):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning(f"{path}: damaged, the state before it is used ({error})")
    return None


def _read(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    data = path.read_bytes()
    if path.stem.partition("-")[2] != _hash(data):
        raise ValueError("its contents are not what was written")
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if head["format"] != FORMAT:
        raise InputError(f"{path}: a state of another version ({head['format']}, expected {FORMAT})")
    return Progress(**json.loads(head["progress"])), load(data)


def _states(folder: Path) -> list[Path]:
    """Return the states, the last one first."""
    return sorted(folder.glob("[0-9]*-*.safetensors"), reverse=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
