"""The output folder of a run: settings, ledger, results of all evaluations, best and last weights, checkpoints."""

import csv
import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from detector.errors import FileError
from detector.files import file_sha256, json_bytes, read_json
from detector.metrics.seeds import VAL_HALVES
from detector.model.checkpoint import tensors_to_save
from detector.model.network import GridNetwork
from detector.output_folder import OutputFolder, claim_folder
from detector.remote_folder import upload
from detector.training.run_state import Progress, State, best_tensors, read_state, state_files, write_state
from detector.weights_info import WeightsInfo, to_metadata

log = logging.getLogger(__name__)

LOGGERS_FILE = "loggers.json"
"""Name of the file with the id of the run for experiment trackers, and its loggers."""

UNLABELED = "unlabeled.json"
"""Name of the file with the pseudo-labels of the unlabeled images."""

_BEST, _LAST = "weights/best.safetensors", "weights/last.safetensors"

_FILES = (
    "run.json", "split.json", "ledger.json", "config.json", "results.csv", "timing.csv", "not-finite.json", VAL_HALVES,
    UNLABELED, LOGGERS_FILE, _BEST, _LAST,
)  # fmt: skip
"""Names of the files of a run, without its checkpoints."""

_OWN_AT_RESUME = ("run.json", UNLABELED, _BEST, _LAST)
"""Files that belong to the run that is resumed, even if they were damaged: they can be written again, or another check
has a better message."""


def check_free(path: Path) -> None:
    """Raise FileError if a folder already contains a run, because a run is not overwritten without `overwrite`.

    Raises:
        FileError: the folder contains a run.
    """
    if any((path / name).exists() for name in ("weights", "results.csv", "run.json")):
        raise FileError(
            f"{path}: the folder already holds a run; choose another --out, remove the folder first, or add "
            "--overwrite to replace the run"
        )


class RunFolder:
    """The output folder of one run: reads and writes its files. It is locked against other processes until `close`.

    Args:
        path: path of the folder. A missing folder is created.
        resume: whether the run in the folder is resumed.
        overwrite: whether to replace files that this package did not write, or that were changed since.

    Attributes:
        path: the argument.
        last_is_intact: whether last.safetensors exists and is as the run wrote it, when the folder was opened.

    Raises:
        FileError: the folder cannot be created or written, or another process is training in it; or a file or link has
            the name of a file of the run, and is not provably an unchanged file of the run.
    """

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        self._files = claim_folder(path, "training", overwrite=overwrite)
        try:
            if not self._files.names and (overwrite or (resume and (path / "run.json").is_file())):
                states = (state.relative_to(path).as_posix() for state in state_files(path / "state"))
                self._files.adopt((*_FILES, *states))
            self.last_is_intact = self._files.is_intact(_LAST)
            if resume:
                self._vouch()
                self._files.claim((*_FILES, "state/x"), only_here=True)
            else:
                foreign = (name for name in self._files.foreign_files() if name.startswith("state/"))
                self._files.claim((*_FILES, "state/x", *foreign))
        except BaseException:
            self._files.close()
            raise

    def _vouch(self) -> None:
        """Count the weights and checkpoints of the resumed run as own files, even if they were damaged."""
        states = (name for name in self._files.names if name.startswith("state/"))
        for name in (*_OWN_AT_RESUME, *states):
            if (self.path / name).is_file():
                self._files.vouch(name)

    def remove_earlier(self) -> None:
        """Remove the files of an earlier run in the folder."""
        self._files.remove_earlier()

    def check_not_removed(self, path: Path) -> None:
        """Raise FileError if a file, which the new run needs, is a file of the earlier run that would be removed."""
        if any(path.resolve() == (self.path / name).resolve() for name in self._files.names):
            raise FileError(f"{path}: this file would be removed with the earlier run; use another --out")

    def close(self) -> None:
        """Unlock the folder."""
        self._files.close()

    @property
    def files(self) -> OutputFolder:
        """The folder, for the files of the report."""
        return self._files

    def read_results(self) -> list[dict[str, float]]:
        """Return the rows of results.csv; empty if the file is missing."""
        try:
            text = (self.path / "results.csv").read_text(encoding="utf-8")
        except OSError:
            return []
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]

    @property
    def best(self) -> Path:
        """Path of the weights with the highest AP on val; without a val split, of the last weights."""
        return self.path / _BEST

    @property
    def last(self) -> Path:
        """Path of the weights of the last evaluation."""
        return self.path / _LAST

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file with this name into the folder."""
        self._files.write(name, json_bytes(values), durable=True)

    def write_unlabeled(self, values: Any) -> str:
        """Write unlabeled.json and return the SHA-256 hash of the file."""
        self.write_json(UNLABELED, values)
        return file_sha256(self.path / UNLABELED)

    def read_unlabeled(self, sha256: str) -> Any:
        """Return the content of unlabeled.json.

        Args:
            sha256: hash of the file in the checkpoint.

        Raises:
            FileError: the file is missing, or is not the file of the checkpoint.
        """
        path = self.path / UNLABELED
        if not path.is_file() or file_sha256(path) != sha256:
            problem = "was changed or damaged" if path.is_file() else "is missing"
            raise FileError(
                f"{path}: this file with the pseudo-labels of the run {problem}, so the run cannot be resumed; restore "
                "it from a copy, or start a new run"
            )
        return read_json(path)

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
        self._files.write(name, text.getvalue().encode(), durable=True)

    def save(self, network: GridNetwork, info: WeightsInfo, *, float16: bool) -> None:
        """Write weights to last.safetensors, as float16 if `float16`."""
        # Not `save_weights`: its temporary file would not be in the manifest, and would stay if this process is killed.
        data = save(tensors_to_save(network, float16), to_metadata(info))
        self._files.write(_LAST, data, durable=True)

    def save_best(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
        """Write best.safetensors and return the SHA-256 hash of the file.

        Args:
            tensors: name → tensor, from `tensors_to_save`.
            metadata: metadata of the file.
        """
        data = save(tensors, metadata)
        self._files.write(_BEST, data, durable=True)
        return hashlib.sha256(data).hexdigest()

    def restore_tables(self, progress: Progress) -> None:
        """Write results.csv and timing.csv again from a checkpoint, if they are missing."""
        for name, rows in (("results.csv", progress.results), ("timing.csv", progress.timing)):
            if rows and not (self.path / name).exists():
                log.warning("%s: missing; written again from the checkpoint", self.path / name)
                self.write_table(name, rows)

    def restore_best(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Write best.safetensors again if it is not the file that a checkpoint describes.

        Args:
            progress: progress in the checkpoint; its hash of best.safetensors is updated.
            tensors: tensors in the checkpoint.
        """
        if not progress.best_sha256:
            return
        try:
            if file_sha256(self.best) == progress.best_sha256:
                return
        except FileError:
            pass
        log.warning("%s: missing, or not the file of the last checkpoint; written again from the checkpoint", self.best)
        progress.best_sha256 = self.save_best(best_tensors(tensors), progress.best_metadata)

    def save_state(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint that contains everything needed to resume the run."""
        write_state(self._files, progress, tensors)
        upload(self.path)

    def read_state(self) -> State | None:
        """Return the latest undamaged checkpoint; None if there is none."""
        return read_state(self.path / "state")


class UnwrittenFolder(RunFolder):
    """The output folder of a run in a process that writes nothing, because the first of several processes does.

    Args:
        path: path of the folder, which may be missing on this machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def close(self) -> None:
        """Do nothing."""

    def write_json(self, name: str, values: Any) -> None:
        """Do nothing."""

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing."""

    def save(self, network: GridNetwork, info: WeightsInfo, *, float16: bool) -> None:
        """Do nothing."""

    def save_best(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
        """Do nothing."""
        return ""

    def save_state(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Do nothing."""
