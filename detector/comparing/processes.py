"""Training processes of a comparison: start them, read their results, and remove what is not needed any more.

Nothing in this module imports torch: the measured peak memory of a process is never below that of its parent.
"""

import csv
import hashlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from detector.comparing.table import Conditions, RunRecord
from detector.comparing.variations import Variation
from detector.config import Config
from detector.errors import FileError
from detector.files import file_sha256, make_folder, read_json
from detector.metrics.seeds import VAL_HALVES, ApHalves
from detector.output_folder import OutputFolder, claim_folder
from detector.parent_process import child_environment
from detector.shipped_weights import find_weights, lasting_name
from detector.threads import affinity_cpus
from detector.training.initial_weights import AUTO, RANDOM, default_start

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
"""Pause between two attempts to lock a folder, in seconds."""

_ORPHAN_SECONDS = 10.0
"""How long to wait for a training process of a killed comparison to end, in seconds."""

_AP_ROUNDING = 1e-4
"""Largest difference of AP in results.csv and in val_halves.json of the same run: only the first is rounded."""

_SIGKILL = 9
"""Number of the signal with which Linux ends a process if there is no memory left. Windows has no name for it."""

_LOG, _ERRORS = "log.txt", "errors.txt"
"""Files in the folder of a run, with the standard output and the standard error of the training process."""


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of all runs.

    Attributes:
        weights: a path, or a name such as "everyday" or "none".
        reuse_backbone: as for `train`.
        description: words for compare.csv, with the hash of the file; none for random weights.
    """

    weights: str
    reuse_backbone: bool
    description: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """The arguments for the command `train`."""
        return ["--weights", self.weights, *(["--reuse-backbone"] if self.reuse_backbone else [])]


def choose_start(weights: str | Path | None, reuse_backbone: bool, configs: Sequence[Config]) -> InitialWeights:
    """Choose the initial weights of all runs, and log them; the arguments are those of `compare`.

    Args:
        weights: as for `compare`.
        reuse_backbone: as for `compare`.
        configs: settings of all variations.

    Raises:
        FileError: the weights do not exist.
    """
    if weights == AUTO:
        starts = {default_start(config) for config in configs}
        weights = starts.pop() if len(starts) == 1 else None
        reason = "; not all settings fit the shipped weights" if starts else ""
        reuse_backbone = weights is not None
    else:
        reason = ""
    if weights is None or weights == RANDOM:
        log.info("initial weights of all runs: random%s", reason)
        return InitialWeights(RANDOM, False, ())
    path = find_weights(weights)
    log.info("initial weights of all runs: %s", weights)
    description = [f"weights={file_sha256(path)[:8]}", *(["reuse_backbone"] if reuse_backbone else [])]
    return InitialWeights(lasting_name(weights), reuse_backbone, tuple(description))


def changed_settings(config: Config) -> list[str]:
    """Return `key=value` for each setting that differs from its default, in the form that `--set` accepts."""
    values = ((setting.name, getattr(config, setting.name), setting.default) for setting in fields(config))
    return [f"{name}={json.dumps(value)}" for name, value, default in values if value != default]


def threads_per_run(jobs: int) -> int:
    """Return the number of CPU threads of each run: OMP_NUM_THREADS if it is set, else the number of cores / `jobs`.

    All runs use the same number of threads, and the number is recorded. With another number of threads, sums are added
    in another order, and the results differ.
    """
    if (requested := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(1, int(requested))
    return max(1, affinity_cpus() // jobs)


@dataclass(frozen=True)
class ActiveRun:
    """A training process that is running, or has ended and is not recorded yet.

    Attributes:
        variation: settings of the run.
        seed: seed of the run.
        folder: output folder of the run.
        process: the training process.
        started: `time.monotonic()` at the start of the process.
    """

    variation: Variation
    seed: int
    folder: Path
    process: subprocess.Popen[bytes]
    started: float

    def kill(self) -> None:
        """End the training process at once; do nothing if it has ended."""
        self.process.kill()
        self.process.wait()
        _close_input(self.process)


def start_process(
    variation: Variation, seed: int, conditions: Conditions, start: InitialWeights, parent: OutputFolder
) -> ActiveRun:
    """Start a training process with a new output folder in `parent`; its output goes to log.txt and errors.txt."""
    run = run_name(variation.name, seed)
    folder = parent.path / run
    _make_empty(folder, parent.overwrite)
    # -P: import the package from PYTHONPATH, never from the current folder.
    command = [sys.executable, "-P", "-m", "detector", "train", "--data", conditions.data, "--out", str(folder)]
    command += start.arguments
    command += ["--no-report", "--val-halves"]  # nobody reads the reports of so many runs
    for setting in changed_settings(replace(variation.config, seed=seed)):
        command += ["--set", setting]
    package_parent = str(Path(__file__).resolve().parents[2])
    python_path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": str(conditions.threads)}
    environment = child_environment(environment)
    for name in (_LOG, _ERRORS):
        with parent.beginning(f"{run}/{name}") as part:
            part.touch()
    with (folder / _LOG).open("ab") as output, (folder / _ERRORS).open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors, env=environment)
    return ActiveRun(variation, seed, folder, process, time.monotonic())


def run_name(variation: str, seed: int) -> str:
    """Return the name of the folder of a run, relative to the folder of the comparison, from that of its variation."""
    readable = re.sub(r"[^\w.=-]+", "_", variation)[:80]
    # Two different variations may have the same readable name, so the folder name also contains a checksum.
    checksum = hashlib.sha256(variation.encode()).hexdigest()[:6]
    return f"runs/{readable}-{checksum}-seed{seed}"


def check_run_folders(names: Iterable[str], out: OutputFolder) -> None:
    """Raise FileError if the folder of a run contains files that are not results of this comparison.

    Args:
        names: names of the folders, relative to `out`.
        out: folder of the comparison.
    """
    for name in names:
        out.claim([f"{name}/{_LOG}", f"{name}/{_ERRORS}"])
        if (out.path / name).is_dir() and not out.overwrite:
            with claim_when_free(out.path / name, out.overwrite) as folder:
                folder.claim(foreign for foreign in folder.foreign_files() if foreign not in (_LOG, _ERRORS))


def _make_empty(folder: Path, overwrite: bool) -> None:
    """Create the folder of a run; remove what a failed or interrupted run left there.

    Raises:
        FileError: another process trains in the folder, or the folder cannot be created.
    """
    if folder.is_dir():
        with claim_when_free(folder, overwrite) as run_folder:
            run_folder.remove_earlier()
    make_folder(folder)


def claim_when_free(folder: Path, overwrite: bool) -> OutputFolder:
    """Claim the existing folder of a run, and return it.

    The process of a comparison that was killed may need a moment to end; until then, it holds the lock of its folder.

    Raises:
        FileError: another process trains in the folder.
    """
    patience = time.monotonic() + _ORPHAN_SECONDS
    while True:
        try:
            return claim_folder(folder, "training", overwrite=overwrite)
        except FileError:
            if time.monotonic() > patience:
                raise
        time.sleep(_POLL_SECONDS)


def _close_input(process: "subprocess.Popen[bytes]") -> None:
    """Close the pipe to a process that has ended."""
    if process.stdin is not None:
        process.stdin.close()


@dataclass(frozen=True)
class _Cost:
    """What a process has used: CPU time in seconds and peak resident memory in MB; nan: unknown."""

    cpu_seconds: float
    peak_mb: float


def _cost_if_ended(process: "subprocess.Popen[bytes]") -> _Cost | None:
    """Set the exit status of a process that has ended, and return what it used; None if it has not ended."""
    if sys.platform == "win32":  # which has no wait4
        return None if process.poll() is None else _Cost(math.nan, math.nan)
    # wait4 reports the resources of this one process. The reported peak memory is never below the memory of the process
    # that started it. That process is small because nothing in this module imports torch.
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if not pid:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    peak_mb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return _Cost(usage.ru_utime + usage.ru_stime, peak_mb)


def record_if_ended(run: ActiveRun, conditions: Conditions, parent: OutputFolder) -> RunRecord | None:
    """Return the record of a run in `parent` if its process has ended, else None."""
    cost = _cost_if_ended(run.process)
    if cost is None:
        return None
    _close_input(run.process)
    for name in (_LOG, _ERRORS):
        parent.seal((run.folder / name).relative_to(parent.path).as_posix())
    wall_seconds = time.monotonic() - run.started
    error, steps, ap, ap50 = "", 0, math.nan, math.nan
    if run.process.returncode:
        error = failure_reason(run.process.returncode, run.folder)
    else:
        try:
            steps, ap, ap50 = read_result(run.folder / "results.csv")
        except (OSError, ValueError, KeyError, IndexError, TypeError, csv.Error) as problem:
            error = f"results.csv cannot be read ({problem!r:.100})"
    return RunRecord(
        data=conditions.data,
        base=conditions.base,
        threads=conditions.threads,
        settings=run.variation.name,
        seed=run.seed,
        steps=steps,
        AP=ap,
        AP50=ap50,
        cpu_seconds=round(cost.cpu_seconds, 2),
        wall_seconds=round(wall_seconds, 2),
        peak_mb=round(cost.peak_mb, 2),
        error=error,
    )


def read_result(path: Path) -> tuple[int, float, float]:
    """Return the number of steps, AP and AP50 in the last row of results.csv.

    It is not the best row: selecting by AP would make the compared AP too high.

    Raises:
        OSError, ValueError, KeyError, IndexError, TypeError, csv.Error: the file is missing or damaged.
    """
    with path.open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return int(last["step"]), float(last["AP"]), float(last["AP50"])


def failure_reason(status: int, folder: Path) -> str:
    """Return one line that says why a run failed: the signal, the error message, or the exception.

    Args:
        status: exit status of the process; negative: the number of the signal that killed it.
        folder: output folder of the run, with errors.txt.
    """
    if status < 0:  # never on Windows
        reason = f"killed by signal {-status}"
        return reason + " (out of memory?)" if -status == _SIGKILL else reason
    text = (folder / _ERRORS).read_text(encoding="utf-8", errors="replace").strip()
    *_, last = re.split(r"^error: ", text, flags=re.MULTILINE)
    # The first line of the message, or the last line of a traceback: the exception.
    lines = last.splitlines()[:1] if last != text else text.splitlines()[-1:]
    return " ".join("".join(lines).split()) or f"exit status {status}"


def read_halves(folder: Path, ap: float) -> ApHalves | None:
    """Return AP of a run on random halves of the val images; None if the run has not written it.

    Log a warning if the file cannot be used.

    Args:
        folder: output folder of the run.
        ap: AP of the run after the last step.
    """
    path = folder / VAL_HALVES
    if not path.exists():
        return None
    try:
        own = ApHalves.from_json(read_json(path))
    except FileError as error:
        log.warning("%s: %s; its intervals do not cover images", path, error)
        return None
    if abs(float(own.ap[0]) - ap) > _AP_ROUNDING:
        reason = f"is of another run, with AP {own.ap[0]:.4f} instead of {ap:.4f}"
        log.warning("%s: %s; its intervals do not cover images", path, reason)
        return None
    return own


def data_checksums(folder: Path) -> tuple[str, str] | None:
    """Return the settings that decide which pixels a run has read, and the checksums of its data, each as text.

    Two runs in which the first text is equal have used the same data if, and only if, the second is equal. None: the
    run left no checksums, because it has not read the data yet, or it failed.

    Args:
        folder: output folder of the run.
    """
    try:
        settings, facts = read_json(folder / "config.json"), read_json(folder / "run.json")["facts"]
        key = json.dumps([settings[name] for name in ("input_size", "max_pixels", "allow_outside")])
        return key, json.dumps([facts[name] for name in ("data", "val", "classes")])
    except (FileError, KeyError, TypeError):
        return None


def remove_run(run: ActiveRun, parent: OutputFolder) -> None:
    """Remove all files of a run that has ended, or was killed.

    Args:
        run: the run.
        parent: the folder in which it was started.
    """
    with claim_when_free(run.folder, parent.overwrite) as folder:
        for name in folder.names:
            folder.remove(name)
    for name in (_LOG, _ERRORS):
        relative = (run.folder / name).relative_to(parent.path).as_posix()
        parent.seal(relative)
        parent.remove(relative)


def remove_weights(folder: Path, overwrite: bool) -> None:
    """Remove the weights and checkpoints of a run that has ended.

    Args:
        folder: output folder of the run.
        overwrite: whether to remove files that were changed, too.
    """
    with claim_when_free(folder, overwrite) as run_folder:
        for name in run_folder.names:
            if name.startswith(("weights/", "state/")):
                run_folder.remove(name)
