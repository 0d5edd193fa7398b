"""The folder of a run: settings, ledger, a line per evaluation, the best and the last weights."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.errors import InputError
from detector.model.checkpoint import save_weights
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo


def check_free(path: Path) -> None:
    """Refuse a folder that holds a run; nothing is ever written over one.

    Raises:
        InputError: it does.
    """
    if (path / "weights").exists() or (path / "results.csv").exists():
        raise InputError(f"{path}: holds a run already; give another --out, or remove it first")


class RunFolder:
    """Writes the results of one run.

    Args:
        path: made if it is not there.
        half: save weights in float16.

    Raises:
        InputError: it holds a run already, or cannot be written.
    """

    def __init__(self, path: Path, half: bool = False) -> None:
        self.path, self._half = path, half
        check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be made ({error.strerror})") from None

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
        (self.path / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def add_result(self, row: Mapping[str, Any]) -> None:
        """Append a line to results.csv; the first one writes the head."""
        path = self.path / "results.csv"
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def save(self, network: GridNetwork, info: WeightsInfo, is_best: bool) -> None:
        """Write the last weights, and the best ones if these are the best."""
        for path in (self.last, self.best) if is_best else (self.last,):
            save_weights(path, network, info, self._half)
