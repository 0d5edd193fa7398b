"""The output folder of a run: settings, ledger, results of all evaluations, best and last weights, checkpoints."""

import csv
import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from detector.errors import FileError
from detector.files import locked, make_folder, read_json, write_atomic, write_json
from detector.model.checkpoint import save_weights
from detector.model.network import GridNetwork
from detector.training.run_state import Progress, State, best_tensors, read_state, write_state
from detector.weights_info import WeightsInfo

log = logging.getLogger(__name__)


def check_free(path: Path) -> None:
    """Raise FileError if a folder already contains a run, because a run is never overwritten.

    Raises:
        FileError: the folder contains a run.
    """
    if any((path / name).exists() for name in ("weights", "results.csv", "run.json")):
        raise FileError(f"{path}: the folder already holds a run; choose another --out, or remove the folder first")


class RunFolder:
    """The output folder of one run: reads and writes its files. It is locked against other processes until `close`.

    Args:
        path: path of the folder. A missing folder is created.

    Raises:
        FileError: the folder cannot be created or written, or another process is training in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path)
        self._lock = ExitStack()
        self._lock.enter_context(locked(path, "training"))

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    @property
    def best(self) -> Path:
        """Path of the weights with the highest AP on val; without a val split, of the last weights."""
        return self.path / "weights" / "best.safetensors"

    @property
    def last(self) -> Path:
        """Path of the weights of the last evaluation."""
        return self.path / "weights" / "last.safetensors"

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file with this name into the folder."""
        write_json(self.path / name, values)

    def read_json(self, name: str) -> Any:
        """Return the content of the JSON file with this name in the folder.

        Raises:
            FileError: the file is missing or is not JSON.
        """
        if not (self.path / name).exists():
            raise FileError(
                f"{self.path}: no run to resume, because {name} is missing; give the output folder of a run"
            )
        return read_json(self.path / name)

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a CSV file with this name into the folder; all rows have the same keys, which become the header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path / name, text.getvalue().encode())

    def save(self, network: GridNetwork, info: WeightsInfo, *, float16: bool) -> None:
        """Write weights to last.safetensors, as float16 if `float16`."""
        save_weights(self.last, network, info, float16)

    def save_best(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
        """Write best.safetensors and return the SHA-256 hash of the file.

        Args:
            tensors: name → tensor, from `tensors_to_save`.
            metadata: metadata of the file.
        """
        data = save(tensors, metadata)
        write_atomic(self.best, data)
        return hashlib.sha256(data).hexdigest()

    def restore_best(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Write best.safetensors again if it is not the file that a checkpoint describes.

        Args:
            progress: progress in the checkpoint; its hash of best.safetensors is updated.
            tensors: tensors in the checkpoint.
        """
        if not progress.best_sha256:
            return
        try:
            if hashlib.sha256(self.best.read_bytes()).hexdigest() == progress.best_sha256:
                return
        except OSError:
            pass
        log.warning("%s: missing, or not the file of the last checkpoint; written again from the checkpoint", self.best)
        progress.best_sha256 = self.save_best(best_tensors(tensors), progress.best_metadata)

    def save_state(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint that contains everything needed to resume the run."""
        write_state(self.path / "state", progress, tensors)

    def read_state(self) -> State | None:
        """Return the latest undamaged checkpoint; None if there is none."""
        return read_state(self.path / "state")
