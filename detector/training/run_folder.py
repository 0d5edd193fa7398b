"""The folder of a run: what it is, ledger, a line per evaluation, the best and the last weights, the state."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from detector.errors import InputError
from detector.files import locked, make_folder, read_json, write_atomic, write_json
from detector.model.checkpoint import save_weights
from detector.model.network import GridNetwork
from detector.training.run_state import Progress, read_state, write_state
from detector.weights_info import WeightsInfo


def check_free(path: Path) -> None:
    """Refuse a folder that holds a run; nothing is ever written over one.

    Raises:
        InputError: it does.
    """
    if any((path / name).exists() for name in ("weights", "results.csv", "run.json")):
        raise InputError(f"{path}: holds a run already; give another --out, or remove it first")


class RunFolder:
    """Reads and writes what belongs to one run; no other process may at the same time.

    Args:
        path: made if it is not there.

    Raises:
        InputError: it cannot be written, or another run is using it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path)
        self._lock = ExitStack()
        self._lock.enter_context(locked(path, "training"))

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()

    @property
    def best(self) -> Path:
        """Weights with the best AP on val; the last ones where nothing is evaluated."""
        return self.path / "weights" / "best.safetensors"

    @property
    def last(self) -> Path:
        """Weights at the end."""
        return self.path / "weights" / "last.safetensors"

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.path / name, values)

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder.

        Raises:
            InputError: it is not there, or no JSON.
        """
        if not (self.path / name).exists():
            raise InputError(f"{self.path}: holds no run that could go on ({name} is missing)")
        return read_json(self.path / name)

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows with the same keys as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path / name, text.getvalue().encode())

    def save(self, network: GridNetwork, info: WeightsInfo, is_best: bool, float16: bool) -> None:
        """Write the last weights, and the best ones if these are the best; in float16 if `save_float16`."""
        for path in (self.last, self.best) if is_best else (self.last,):
            save_weights(path, network, info, float16)

    def save_state(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Write all that is needed to go on."""
        write_state(self.path / "state", progress, tensors)

    def read_state(self) -> tuple[Progress, dict[str, Tensor]] | None:
        """Return the last whole state, None where there is none."""
        return read_state(self.path / "state")
