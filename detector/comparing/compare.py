"""Compare settings on the user's data: a list of settings, a grid or a random search, each against a baseline.

Every run is a separate process. So the time and the memory of each run can be measured, and a crash of one run does not
stop the other runs. The list of runs is a pure function of the arguments. So an interrupted comparison continues where
it stopped. The processes end with the process that compares, even if it is killed.
"""

import csv
import hashlib
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from detector.comparing.table import (
    ComparisonRow,
    Conditions,
    RunRecord,
    read_runs,
    summarize,
    to_csv,
    to_markdown,
)
from detector.comparing.variations import Variation, read_variations
from detector.config import Config
from detector.data.holdout import MIN_IMAGES
from detector.data.open_data import open_data
from detector.data.training_splits import read_training_splits
from detector.errors import ConfigError, FileError, LabelError
from detector.files import file_sha256, local_path, make_folder, read_json
from detector.graceful_shutdown import sigterm_as_keyboard_interrupt
from detector.metrics.seeds import VAL_HALVES, ApHalves
from detector.output_folder import OutputFolder, claim_folder
from detector.parent_process import child_environment
from detector.shipped_weights import find_shipped, find_weights
from detector.threads import affinity_cpus
from detector.training.initial_weights import AUTO, RANDOM, default_start
from detector.wording import metric, plural

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
"""Pause between two checks whether a process has ended, in seconds."""

_AP_ROUNDING = 1e-4
"""Largest difference of AP in compare.csv and in val_halves.json of the same run: only the first is rounded."""

_ORPHAN_SECONDS = 10.0
"""How long to wait for a training process of a killed comparison to end, in seconds."""

_TABLE, _MARKDOWN = "compare.csv", "compare.md"
"""Files in the folder of the comparison: a line per run, and the table of the results."""

_LOG, _ERRORS = "log.txt", "errors.txt"
"""Files in the folder of a run, with the standard output and the standard error of the training process."""


def compare(
    data: str | Path,
    variations: Iterable[str],
    base: Config | None = None,
    *,
    out: str | Path = "runs/compare",
    seeds: int = 3,
    trials: int = 10,
    jobs: int = 1,
    weights: str | Path | None = "auto",
    reuse_backbone: bool = False,
    keep_weights: bool = False,
    overwrite: bool = False,
) -> list[ComparisonRow]:
    """Train with the base settings and with each variation, once per seed; return a row of mean results per variation.

    Writes to the folder `out`: compare.csv (one line per run), compare.md (the table), and one folder per run. A run
    that already has a result in compare.csv is not repeated; to repeat it, remove its line. A run that failed is
    repeated.

    Args:
        data: the data set, in any form that `open_data` accepts. AP is measured on its val split, or on
            training images that are held back; see the setting `val_fraction`.
        variations: variations as text, and paths of files with variations; see `read_variations`.
        base: the settings of the baseline, which the variations change. `steps` or `epochs` must be set. With
            `evaluations="auto"`, each run is evaluated once, after its last step.
        out: folder for the results.
        seeds: number of runs per variation, with the seeds base.seed, base.seed + 1, ...
        trials: number of random draws for each variation that contains a range.
        jobs: number of runs at the same time. Each run gets the same number of CPU threads: the number of cores divided
            by `jobs`, or the value of the environment variable OMP_NUM_THREADS.
        weights: initial weights of all runs, as for `train`. "auto": shipped weights only if all runs can start from
            them, else random weights.
        reuse_backbone: as for `train`.
        keep_weights: whether to keep the weights and checkpoints of the runs. If not, they are removed when the run has
            ended.
        overwrite: whether to replace files in `out` that this package did not write, or that were changed since.

    Returns:
        One row per variation. The first row is the baseline.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after all running processes have been killed.
        InputError: an argument is invalid, the data has no val split, the runs in compare.csv were done with other
            data, other base settings or another number of threads, another process compares in the folder, or a file in
            `out` would be replaced that this package did not write, or that was changed since.
    """
    for name, count in (("seeds", seeds), ("trials", trials), ("jobs", jobs)):
        if count < 1:
            raise ConfigError(f"{name}: must be at least 1, got {count}")
    base = base or Config()
    base = replace(base, evaluations=1) if base.evaluations == "auto" else base
    to_compare = read_variations(variations, base, trials)
    start = _choose_start(weights, reuse_backbone, [variation.config for variation in to_compare])
    _check_has_val(data, base)
    _check_same_val(to_compare, base)
    conditions = Conditions(str(data), " ".join([describe_base(base), *start.description]), _threads_per_run(jobs))
    seed_range = range(base.seed, base.seed + seeds)
    with claim_folder(local_path(out), "comparing", names=[_MARKDOWN], overwrite=overwrite) as folder:
        runs = _do_runs(to_compare, seed_range, conditions, start, folder, jobs=jobs, keep_weights=keep_weights)
        halves = _read_halves(runs, folder.path)
        rows = summarize(to_compare, [run for run in runs if run.seed in seed_range], halves)
        heading = f"Data: {data}; seeds: {seeds}; threads: {conditions.threads}; baseline: `{conditions.base}`"
        folder.write(_MARKDOWN, f"{heading}\n\n{to_markdown(rows)}".encode())
    log.info(f"all runs: {folder.path / _TABLE}; table of the results: {folder.path / _MARKDOWN}")
    return rows


@dataclass(frozen=True)
class _Start:
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


def _choose_start(weights: str | Path | None, reuse_backbone: bool, configs: Sequence[Config]) -> _Start:
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
        return _Start(RANDOM, False, ())
    path = find_weights(weights)
    log.info("initial weights of all runs: %s", weights)
    name = str(weights) if find_shipped(weights) else str(path.resolve())
    description = [f"weights={file_sha256(path)[:8]}", *(["reuse_backbone"] if reuse_backbone else [])]
    return _Start(name, reuse_backbone, tuple(description))


def _check_has_val(data: str | Path, base: Config) -> None:
    """Raise LabelError if the data set has no val split, and no training images are held back instead.

    Every run holds back the same images, because the choice depends on the data only.
    """
    data_set = open_data(data, allow_outside=base.allow_outside, max_pixels=base.max_pixels)
    if {"train", "val"} <= set(data_set.split_names):
        return
    splits = read_training_splits(data_set, None, base.val_fraction)
    if splits.val is None:
        raise LabelError(
            f"{data}: this data set has no val split, only {', '.join(data_set.split_names)}; add a val split, on "
            "which the AP of the settings is measured, or let --val-fraction hold back some of at least "
            f"{MIN_IMAGES} training images"
        )
    for note in splits.notes:
        log.info("%s", note)
    for warning in splits.warnings:
        log.warning("%s", warning)


def _check_same_val(variations: Iterable[Variation], base: Config) -> None:
    """Raise ConfigError if a variation would be evaluated on other images than the baseline."""
    for variation in variations:
        if variation.config.val_fraction != base.val_fraction:
            raise ConfigError(
                f"{variation.name}: with another val_fraction, AP is measured on other images and cannot be compared; "
                "set --val-fraction for all runs"
            )


def describe_base(base: Config) -> str:
    """Describe the base settings on one line, for compare.csv: a checksum, then the settings that differ from defaults.

    The seed is not included.
    """
    base = replace(base, seed=0)
    checksum = hashlib.sha256(json.dumps(asdict(base)).encode()).hexdigest()[:8]
    return " ".join([checksum, *_changed_settings(base)]).replace('"', "")


def _changed_settings(config: Config) -> list[str]:
    """Return `key=value` for each setting that differs from its default, in the form that `--set` accepts."""
    values = ((setting.name, getattr(config, setting.name), setting.default) for setting in fields(config))
    return [f"{name}={json.dumps(value)}" for name, value, default in values if value != default]


def _threads_per_run(jobs: int) -> int:
    """Return the number of CPU threads of each run: OMP_NUM_THREADS if it is set, else the number of cores / `jobs`.

    All runs use the same number of threads, and the number is recorded. With another number of threads, sums are added
    in another order, and the results differ.
    """
    if (requested := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(1, int(requested))
    return max(1, affinity_cpus() // jobs)


def _do_runs(
    variations: Sequence[Variation],
    seeds: range,
    conditions: Conditions,
    start: _Start,
    out: OutputFolder,
    *,
    jobs: int,
    keep_weights: bool,
) -> list[RunRecord]:
    """Do each run that has no result in compare.csv yet, and add a line for it; return all runs, also earlier runs."""
    table = out.path / _TABLE
    runs = [run for run in read_runs(table, conditions) if not run.error]
    if table.exists():
        out.vouch(_TABLE)  # its header and its conditions have been recognized; the user may have removed lines
    out.claim([_TABLE])
    done = {(run.settings, run.seed) for run in runs}
    # All variations with the first seed, then all with the next: an early stop or a slower machine affects all alike.
    planned = [(variation, seed) for seed in seeds for variation in variations]
    todo = [(variation, seed) for variation, seed in planned if (variation.name, seed) not in done]
    _check_run_folders([_run_name(variation.name, seed) for variation, seed in todo], out)
    data_of: dict[str, str] = {}
    for run in runs:
        _check_same_data(out.path / _run_name(run.settings, run.seed), data_of)
    already_done = len(planned) - len(todo)
    log.info(
        f"{plural(len(variations), 'variation')} x {plural(len(seeds), 'seed')} = {plural(len(planned), 'run')}, "
        f"{already_done} already done; "
        f"runs at the same time: {jobs}; threads per run: {conditions.threads}"
    )
    with sigterm_as_keyboard_interrupt(), closing(_train_all(todo, conditions, start, out, jobs)) as ended_runs:
        for count, (run, folder) in enumerate(ended_runs, already_done + 1):
            _check_same_data(folder, data_of)
            if not keep_weights:
                with claim_folder(folder, "training", overwrite=out.overwrite) as run_folder:
                    for name in run_folder.names:
                        if name.startswith(("weights/", "state/")):
                            run_folder.remove(name)
            runs.append(run)
            out.write(_TABLE, to_csv(runs), durable=True)
            outcome = f"failed: {run.error}" if run.error else f"AP {metric(run.AP)}"
            log.info(f"{count}/{len(planned)} {run.settings}, seed {run.seed}, {run.wall_seconds:.0f} s: {outcome}")
    return runs


def _read_halves(runs: Iterable[RunRecord], out: Path) -> dict[tuple[str, int], ApHalves]:
    """Return name of the variation and seed → AP on random halves of the val images, for the runs that have written it.

    Args:
        runs: the runs.
        out: folder of the comparison.
    """
    halves = {}
    for run in runs:
        path = out / _run_name(run.settings, run.seed) / VAL_HALVES
        if not run.error and path.exists():
            try:
                own = ApHalves.from_json(read_json(path))
            except FileError as error:
                log.warning("%s: %s; its intervals do not cover images", path, error)
                continue
            if abs(float(own.ap[0]) - run.AP) > _AP_ROUNDING:
                reason = f"is of another run, with AP {own.ap[0]:.4f} instead of {run.AP:.4f}"
                log.warning("%s: %s; its intervals do not cover images", path, reason)
                continue
            halves[run.settings, run.seed] = own
    return halves


def _check_same_data(folder: Path, data_of: dict[str, str]) -> None:
    """Raise FileError if a run used other data than an earlier run of the comparison, which had the same path then.

    The run is not recorded, because its AP cannot be compared. The checksums of the data depend on the settings that
    decide which pixels are read, so only runs in which these are equal are compared. A run that left no checksums (it
    failed, or its folder was removed) is not checked.

    Args:
        folder: folder of the run.
        data_of: settings → checksums of the data, of the earlier runs; those of this run are added.
    """
    try:
        settings, facts = read_json(folder / "config.json"), read_json(folder / "run.json")["facts"]
        key = json.dumps([settings[name] for name in ("input_size", "max_pixels", "allow_outside")])
        data = json.dumps([facts[name] for name in ("data", "val", "classes")])
    except (FileError, KeyError, TypeError):
        return
    if data_of.setdefault(key, data) != data:
        raise FileError(
            f"{folder}: this run used other images, labels or classes than the earlier runs of the comparison, so it "
            "is not recorded; the data has changed since, or the path leads to another data set. Restore the data, or "
            "use another --out"
        )


@dataclass(frozen=True)
class _ActiveRun:
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


def _train_all(
    todo: Sequence[tuple[Variation, int]], conditions: Conditions, start: _Start, parent: OutputFolder, jobs: int
) -> Generator[tuple[RunRecord, Path]]:
    """Do the runs, `jobs` at the same time; when a run has ended, yield its record and its folder in `parent`."""
    waiting, active = deque(todo), list[_ActiveRun]()
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                active.append(_start(*waiting.popleft(), conditions, start, parent))
            time.sleep(_POLL_SECONDS)
            for run in tuple(active):
                if record := _record_if_ended(run, conditions):
                    active.remove(run)
                    for name in (_LOG, _ERRORS):
                        parent.seal((run.folder / name).relative_to(parent.path).as_posix())
                    yield record, run.folder
    finally:
        for run in active:
            run.process.kill()
            run.process.wait()
            _close_input(run.process)


def _start(variation: Variation, seed: int, conditions: Conditions, start: _Start, parent: OutputFolder) -> _ActiveRun:
    """Start a training process with a new output folder in `parent`; its output goes to log.txt and errors.txt."""
    run = _run_name(variation.name, seed)
    folder = parent.path / run
    _make_empty(folder, parent.overwrite)
    # -P: import the package from PYTHONPATH, never from the current folder.
    command = [sys.executable, "-P", "-m", "detector", "train", "--data", conditions.data, "--out", str(folder)]
    command += start.arguments
    command += ["--no-report", "--val-halves"]  # nobody reads the reports of so many runs
    for setting in _changed_settings(replace(variation.config, seed=seed)):
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
    return _ActiveRun(variation, seed, folder, process, time.monotonic())


def _run_name(variation: str, seed: int) -> str:
    """Return the name of the folder of a run, relative to the folder of the comparison, from that of its variation."""
    readable = re.sub(r"[^\w.=-]+", "_", variation)[:80]
    # Two different variations may have the same readable name, so the folder name also contains a checksum.
    checksum = hashlib.sha256(variation.encode()).hexdigest()[:6]
    return f"runs/{readable}-{checksum}-seed{seed}"


def _check_run_folders(names: Iterable[str], out: OutputFolder) -> None:
    """Raise FileError if the folder of a run contains files that are not results of this comparison.

    Args:
        names: names of the folders, relative to `out`.
        out: folder of the comparison.
    """
    for name in names:
        out.claim([f"{name}/{_LOG}", f"{name}/{_ERRORS}"])
        if (out.path / name).is_dir() and not out.overwrite:
            with _claim_when_free(out.path / name, out.overwrite) as folder:
                folder.claim(foreign for foreign in folder.foreign_files() if foreign not in (_LOG, _ERRORS))


def _make_empty(folder: Path, overwrite: bool) -> None:
    """Create the folder of a run; remove what a failed or interrupted run left there.

    Raises:
        FileError: another process trains in the folder, or the folder cannot be created.
    """
    if folder.is_dir():
        with _claim_when_free(folder, overwrite) as run_folder:
            run_folder.remove_earlier()
    make_folder(folder)


def _claim_when_free(folder: Path, overwrite: bool) -> OutputFolder:
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


def _record_if_ended(run: _ActiveRun, conditions: Conditions) -> RunRecord | None:
    """Return the record of a run if its process has ended, else None."""
    # wait4 reports the resources of this one process. The reported peak memory is never below the memory of the process
    # that started it. That process is small because nothing in this module imports torch.
    pid, status, usage = os.wait4(run.process.pid, os.WNOHANG)
    if not pid:
        return None
    run.process.returncode = os.waitstatus_to_exitcode(status)
    _close_input(run.process)
    wall_seconds = time.monotonic() - run.started
    peak_mb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    error, steps, ap, ap50 = "", 0, math.nan, math.nan
    if run.process.returncode:
        error = _failure_reason(run.process.returncode, run.folder)
    else:
        try:
            steps, ap, ap50 = _read_result(run.folder / "results.csv")
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
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        wall_seconds=round(wall_seconds, 2),
        peak_mb=round(peak_mb, 2),
        error=error,
    )


def _read_result(path: Path) -> tuple[int, float, float]:
    """Return the number of steps, AP and AP50 in the last row of results.csv.

    It is not the best row: selecting by AP would make the compared AP too high.

    Raises:
        OSError, ValueError, KeyError, IndexError, TypeError, csv.Error: the file is missing or damaged.
    """
    with path.open(newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return int(last["step"]), float(last["AP"]), float(last["AP50"])


def _failure_reason(status: int, folder: Path) -> str:
    """Return one line that says why a run failed: the signal, the error message, or the exception.

    Args:
        status: exit status of the process; negative: the number of the signal that killed it.
        folder: output folder of the run, with errors.txt.
    """
    if status < 0:
        reason = f"killed by signal {-status}"
        return reason + " (out of memory?)" if -status == signal.SIGKILL else reason
    text = (folder / _ERRORS).read_text(encoding="utf-8", errors="replace").strip()
    *_, last = re.split(r"^error: ", text, flags=re.MULTILINE)
    # The first line of the message, or the last line of a traceback: the exception.
    lines = last.splitlines()[:1] if last != text else text.splitlines()[-1:]
    return " ".join("".join(lines).split()) or f"exit status {status}"
