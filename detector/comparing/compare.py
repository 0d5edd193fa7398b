"""Compare settings on the user's data: a list, a grid or a random search against a baseline.

Every run is a process of its own, so that its time and memory can be measured and a crash does not stop the other runs.
The list of runs is a pure function of the arguments, so that an interrupted comparison continues where it stopped.
"""

import csv
import hashlib
import json
import logging
import math
import os
import re
import shutil
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
    add_run,
    read_runs,
    summarize,
    to_markdown,
)
from detector.comparing.variations import Variation, read_variations
from detector.config import Config
from detector.data.open_data import open_data
from detector.errors import ConfigError, LabelError
from detector.files import make_folder, write_atomic
from detector.graceful_shutdown import sigterm_as_keyboard_interrupt

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
"""Time between two checks of the running processes."""

_LOG, _ERRORS = "log.txt", "errors.txt"
"""Files in the folder of a run: standard output and standard error of its process."""

_INPUT_ERROR = 2
"""Exit status of the command line after an InputError; it prints `error: MESSAGE` to standard error."""


def compare(
    data: str | Path,
    variations: Iterable[str],
    base: Config | None = None,
    *,
    out: str | Path = "runs/compare",
    seeds: int = 3,
    trials: int = 10,
    jobs: int = 1,
    keep_weights: bool = False,
) -> list[ComparisonRow]:
    """Train with the base settings and with each variation, once per seed, and compare AP on val.

    Writes compare.csv (a line per run), compare.md (the table) and the folders of the runs. Runs that are already in
    compare.csv are not done again; to repeat a run, remove its line.

    Args:
        data: anything `open_data` takes; must have a val split, on which the settings are compared.
        variations: variations and files of variations; see `read_variations`.
        base: the settings that are varied, with a length in steps or epochs. Evaluated once, at the end of the run,
            unless `evaluations` is set.
        out: folder for the results.
        seeds: number of runs per variation, with the seeds base.seed, base.seed + 1, ...
        trials: number of draws for each variation with random numbers.
        jobs: number of runs at the same time. They share the CPU cores evenly, unless the environment variable
            OMP_NUM_THREADS sets the threads per run.
        keep_weights: whether to keep the weights of the runs; else they are removed once their AP is known.

    Returns:
        One row per variation; the baseline is first.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all running processes are killed first.
        InputError: an invalid argument, or compare.csv belongs to other data, base settings or number of threads.
    """
    for name, count in (("seeds", seeds), ("trials", trials), ("jobs", jobs)):
        if count < 1:
            raise ConfigError(f"{name}: must be at least 1, got {count}")
    base = base or Config()
    base = replace(base, evaluations=1) if base.evaluations == "auto" else base
    to_compare = read_variations(variations, base, trials)
    _check_has_val(data, base)
    out = Path(out)
    make_folder(out)

    conditions = Conditions(str(data), describe_base(base), _threads_per_run(jobs))
    seed_range = range(base.seed, base.seed + seeds)
    runs = _do_runs(to_compare, seed_range, conditions, out, jobs=jobs, keep_weights=keep_weights)
    rows = summarize(to_compare, [run for run in runs if run.seed in seed_range])
    heading = f"Data: {data}; seeds: {seeds}; threads: {conditions.threads}; baseline: `{conditions.base}`"
    write_atomic(out / "compare.md", f"{heading}\n\n{to_markdown(rows)}".encode())
    log.info(f"all runs are listed in {out / 'compare.csv'}, the table is in {out / 'compare.md'}")
    return rows


def _check_has_val(data: str | Path, base: Config) -> None:
    names = open_data(data, allow_outside=base.allow_outside, max_pixels=base.max_pixels).split_names
    if "val" not in names:
        raise LabelError(f"{data}: settings are compared on a split named val; this data has only {', '.join(names)}")


def describe_base(base: Config) -> str:
    """Return a checksum of all settings except the seed, and the settings that differ from their defaults."""
    base = replace(base, seed=0)
    checksum = hashlib.sha256(json.dumps(asdict(base)).encode()).hexdigest()[:8]
    return " ".join([checksum, *_changed_settings(base)]).replace('"', "")


def _changed_settings(config: Config) -> list[str]:
    """Return the settings that differ from their defaults, as arguments of `--set`."""
    values = ((setting.name, getattr(config, setting.name), setting.default) for setting in fields(config))
    return [f"{name}={json.dumps(value)}" for name, value, default in values if value != default]


def _threads_per_run(jobs: int) -> int:
    """Return the number of threads of a run.

    It is fixed and recorded, because with another number sums are added in another order and the results differ.
    """
    if (requested := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(1, int(requested))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def _do_runs(
    variations: Sequence[Variation],
    seeds: range,
    conditions: Conditions,
    out: Path,
    *,
    jobs: int,
    keep_weights: bool,
) -> list[RunRecord]:
    """Do the runs that are not in compare.csv yet and add them to it; return all runs."""
    table = out / "compare.csv"
    runs = read_runs(table, conditions)
    done = {(run.settings, run.seed) for run in runs}
    # Seed by seed: if the comparison is stopped early, or the machine slows down, all variations are affected alike.
    planned = [(variation, seed) for seed in seeds for variation in variations]
    todo = [(variation, seed) for variation, seed in planned if (variation.name, seed) not in done]
    already_done = len(planned) - len(todo)
    log.info(
        f"{len(variations)} settings x {len(seeds)} seeds = {len(planned)} runs, {already_done} of them already done; "
        f"{jobs} at the same time, {conditions.threads} threads each"
    )
    with sigterm_as_keyboard_interrupt(), closing(_train_all(todo, conditions, out / "runs", jobs)) as ended_runs:
        for count, (run, folder) in enumerate(ended_runs, already_done + 1):
            if not keep_weights:
                for name in ("weights", "state"):
                    shutil.rmtree(folder / name, ignore_errors=True)
            add_run(table, run)
            runs.append(run)
            outcome = f"failed: {run.error}" if run.error else f"AP {run.AP:.3f}"
            log.info(f"{count}/{len(planned)} {run.settings}, seed {run.seed}, {run.wall_seconds:.0f} s: {outcome}")
    return runs


@dataclass(frozen=True)
class _ActiveRun:
    """A run whose process has been started and not yet waited for; `started` is `time.monotonic()`."""

    variation: Variation
    seed: int
    folder: Path
    process: subprocess.Popen[bytes]
    started: float


def _train_all(
    todo: Sequence[tuple[Variation, int]], conditions: Conditions, parent: Path, jobs: int
) -> Generator[tuple[RunRecord, Path]]:
    """Train with each (variation, seed), `jobs` at the same time; yield each run and its folder when it has ended."""
    waiting, active = deque(todo), list[_ActiveRun]()
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                active.append(_start(*waiting.popleft(), conditions, parent))
            time.sleep(_POLL_SECONDS)
            for run in tuple(active):
                if record := _record_if_ended(run, conditions):
                    active.remove(run)
                    yield record, run.folder
    finally:
        for run in active:
            run.process.kill()
            run.process.wait()


def _start(variation: Variation, seed: int, conditions: Conditions, parent: Path) -> _ActiveRun:
    """Start a training run in a folder below `parent`; its output goes to log.txt and errors.txt there."""
    readable = re.sub(r"[^\w.=-]+", "_", variation.name)[:80]
    checksum = hashlib.sha256(variation.name.encode()).hexdigest()[:6]  # two names may become equal when made readable
    folder = parent / f"{readable}-{checksum}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # from an interrupted run that has no line in the CSV
    folder.mkdir(parents=True)
    # -P: import this package, not one that happens to be in the current folder.
    command = [sys.executable, "-P", "-m", "detector", "train", "--data", conditions.data, "--out", str(folder)]
    for setting in _changed_settings(replace(variation.config, seed=seed)):
        command += ["--set", setting]
    package_parent = str(Path(__file__).resolve().parents[2])
    python_path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": str(conditions.threads)}
    with (folder / _LOG).open("wb") as output, (folder / _ERRORS).open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment)
    return _ActiveRun(variation, seed, folder, process, time.monotonic())


def _record_if_ended(run: _ActiveRun, conditions: Conditions) -> RunRecord | None:
    """Return the record of a run, or None while it is running."""
    # wait4 reports the resources of this one process. The reported peak memory is at least that of the process that
    # started it, which is small because nothing here imports torch.
    pid, status, usage = os.wait4(run.process.pid, os.WNOHANG)
    if not pid:
        return None
    run.process.returncode = os.waitstatus_to_exitcode(status)
    wall_seconds = time.monotonic() - run.started
    peak_mb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    error, steps, ap, ap50 = "", 0, math.nan, math.nan
    if run.process.returncode:
        error = _failure_reason(run.process.returncode, run.folder)
    else:
        with (run.folder / "results.csv").open(newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]  # not the best one: it would be selected by what is compared
        steps, ap, ap50 = int(last["step"]), float(last["AP"]), float(last["AP50"])
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


def _failure_reason(status: int, folder: Path) -> str:
    """Return the reason of a failure on one line, for the table; the kind of the failure is given by the exit status.

    Args:
        status: exit status of the process, not 0; negative: it was ended by a signal.
        folder: folder of the run.
    """
    if status < 0:
        reason = f"killed by signal {-status}"
        return reason + " (out of memory?)" if -status == signal.SIGKILL else reason
    text = (folder / _ERRORS).read_text(encoding="utf-8", errors="replace").strip()
    if status == _INPUT_ERROR:
        lines = re.split(r"^error: ", text, flags=re.MULTILINE)[-1].splitlines()[:1]  # what the message begins with
    else:
        lines = text.splitlines()[-1:]  # the last line of a traceback: the exception
    return " ".join("".join(lines).split()) or f"exit status {status}"
