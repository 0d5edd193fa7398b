"""The output folder of a run: settings, ledger, results per evaluation, best and last weights, checkpoints."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from detector.errors import FileError
from detector.files import locked, make_folder, read_json, write_atomic, write_json
from detector.model.checkpoint import save_weights
from detector.model.network import GridNetwork
from detector.training.run_state import Progress, read_state, write_state
from detector.weights_info import WeightsInfo


def check_free(path: Path) -> None:
    """Refuse a folder that already holds a run: a run is never overwritten.

    Raises:
        FileError: the folder holds a run.
    """
    if any((path / name).exists() for name in ("weights", "results.csv", "run.json")):
        raise FileError(f"{path}: the folder already holds a run; choose another --out, or remove it first")


class RunFolder:
    """Reads and writes the files of one run; locked against other processes until `close`.

    Args:
        path: created if it does not exist.

    Raises:
        FileError: the folder cannot be written, or another run is using it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path)
        self._lock = ExitStack()
        self._lock.enter_context(locked(path, "training"))

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    @property
    def best(self) -> Path:
        """The weights with the best AP on val; the last ones where nothing is evaluated."""
        return self.path / "weights" / "best.safetensors"

    @property
    def last(self) -> Path:
        """The weights at the end."""
        return self.path / "weights" / "last.safetensors"

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.path / name, values)

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder.

        Raises:
            FileError: the file is missing or not JSON.
        """
        if not (self.path / name).exists():
            raise FileError(f"{self.path}: no run to resume ({name} is missing)")
        return read_json(self.path / name)

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows with the same keys as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path / name, text.getvalue().encode())

    def save(self, network: GridNetwork, info: WeightsInfo, *, is_best: bool, float16: bool) -> None:
        """Write the last weights, and also the best ones if these are the best."""
        for path in (self.last, self.best) if is_best else (self.last,):
            save_weights(path, network, info, float16)

    def save_state(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint with everything needed to resume."""
        write_state(self.path / "state", progress, tensors)

    def read_state(self) -> tuple[Progress, dict[str, Tensor]] | None:
        """Return the latest intact checkpoint, None where there is none."""
        return read_state(self.path / "state")
