"""Comparing settings on the user's own data: a list, a grid or a random search against the base line, in one CSV.

Every run is a process of its own, so that its time and memory are its own and its crash stops no other. What is run is
a pure function of what was given, so that a comparison that was stopped goes on where it was.
"""

import csv
import hashlib
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from detector.comparing.table import Row, Run, add_run, read_runs, summarize, to_markdown
from detector.comparing.variations import Variation, read_variations
from detector.config import Config
from detector.data.open_data import open_data
from detector.errors import InputError
from detector.files import make_folder
from detector.graceful_shutdown import sigterm_as_keyboard_interrupt

log = logging.getLogger(__name__)

_POLL = 0.05
"""Seconds between two looks at the processes."""


def compare(
    data: str | Path,
    words: Iterable[str],
    base: Config | None = None,
    out: str | Path = "runs/compare",
    seeds: int = 3,
    trials: int = 10,
    jobs: int = 1,
    keep_weights: bool = False,
) -> list[Row]:
    """Train with the base settings and with each variation, for each seed; leave a CSV and a table.

    Args:
        data: anything `open_data` takes, with a val split, which is what the variations are compared on.
        words: variations and files of them; see `read_variations`.
        base: the settings that are varied, with a length in steps or epochs. Evaluated once, at the end, unless set.
        out: folder for compare.csv, compare.md and the folders of the runs. What stands in its compare.csv is not run
            again; to have it run again, remove its line.
        seeds: how many, from the base's seed on.
        trials: draws of a variation with random numbers.
        jobs: runs at once; they share the cores evenly_spaced, unless OMP_NUM_THREADS says how many each takes.
        keep_weights: else they are removed once their AP is known.

    Returns:
        One row per variation, the base line first.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; runs under way are ended.
        InputError: something given will not do, or compare.csv is of another data set, base or number of threads.
    """
    for name, count in (("seeds", seeds), ("trials", trials), ("jobs", jobs)):
        if count < 1:
            raise InputError(f"{name}: must be at least 1, got {count}")
    base = base or Config()
    base = replace(base, evaluations=1) if base.evaluations == "auto" else base
    variations = read_variations(words, base, trials)
    if "val" not in (names := open_data(data, allow_outside=base.allow_outside).split_names):
        raise InputError(f"{data}: settings are compared on a split named val; there is only {', '.join(names)}")
    out = Path(out)
    make_folder(out)

    common = (str(data), describe_base(base), _threads(jobs))
    table = out / "compare.csv"
    runs = read_runs(table, common)
    done = {(run.settings, run.seed) for run in runs}
    # Seed by seed: a comparison stopped early has treated all alike, and so has a machine that grows slower.
    every_seed = range(base.seed, base.seed + seeds)
    wanted = [(variation, seed) for seed in every_seed for variation in variations]
    todo = [(variation, seed) for variation, seed in wanted if (variation.name, seed) not in done]
    before = len(wanted) - len(todo)
    log.info(f"{len(variations)} settings with {seeds} seeds each: {len(wanted)} runs, {before} of them done already; "
             f"{jobs} at once, {common[2]} threads each")  # fmt: skip
    with sigterm_as_keyboard_interrupt(), closing(_run_all(todo, common, out / "runs", jobs, keep_weights)) as ended:
        for count, run in enumerate(ended, before + 1):
            add_run(table, run)
            runs.append(run)
            outcome = f"failed: {run.error}" if run.error else f"AP {run.AP:.3f}"
            log.info(f"{count}/{len(wanted)} {run.settings}, seed {run.seed}, {run.wall_seconds:.0f} s: {outcome}")
    rows = summarize(variations, [run for run in runs if run.seed in every_seed])
    heading = f"Data: {data}; seeds: {seeds}; threads: {common[2]}; base line: `{common[1]}`"
    (out / "compare.md").write_text(f"{heading}\n\n{to_markdown(rows)}", encoding="utf-8")
    log.info(f"every run stands in {table}, the table in {out / 'compare.md'}")
    return rows


def describe_base(base: Config) -> str:
    """Return a checksum of all settings but the seed, and those that are not the defaults."""
    base = replace(base, seed=0)
    checksum = hashlib.sha256(json.dumps(asdict(base)).encode()).hexdigest()[:8]
    return " ".join([checksum, *_changed(base)]).replace('"', "")


def _changed(config: Config) -> list[str]:
    """Return the settings that are not the defaults, as `--set` takes them."""
    values = ((setting.name, getattr(config, setting.name), setting.default) for setting in fields(config))
    return [f"{name}={json.dumps(value)}" for name, value, default in values if value != default]


def _threads(jobs: int) -> int:
    """Return the threads of a run: another number adds up in another order, so it is fixed and recorded."""
    if (wish := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(1, int(wish))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


@dataclass(frozen=True)
class _Started:
    """A run under way; `at` is `time.monotonic()`."""

    variation: Variation
    seed: int
    folder: Path
    process: subprocess.Popen[bytes]
    at: float


def _run_all(
    todo: Sequence[tuple[Variation, int]], common: tuple[str, str, int], folder: Path, jobs: int, keep_weights: bool
) -> Generator[Run]:
    """Do runs, `jobs` at once; yield each when it has ended."""
    waiting, running = deque(todo), list[_Started]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(*waiting.popleft(), common, folder))
            time.sleep(_POLL)
            for started in tuple(running):
                if run := _ended(started, common):
                    running.remove(started)
                    if not keep_weights:
                        for name in ("weights", "state"):
                            shutil.rmtree(started.folder / name, ignore_errors=True)
                    yield run
    finally:
        for started in running:
            started.process.kill()
            started.process.wait()


def _start(variation: Variation, seed: int, common: tuple[str, str, int], parent: Path) -> _Started:
    """Start a run in its folder below `parent`; what it prints goes to log.txt there."""
    readable = re.sub(r"[^\w.=-]+", "_", variation.name)[:80]
    checksum = hashlib.sha256(variation.name.encode()).hexdigest()[:6]  # two names may be alike when made readable
    folder = parent / f"{readable}-{checksum}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # what a run left that never came to its line in the CSV
    folder.mkdir(parents=True)
    # -P: this package, and not one that happens to lie in the folder we are in.
    command = [sys.executable, "-P", "-m", "detector", "train", "--data", common[0], "--out", str(folder)]
    for setting in _changed(replace(variation.config, seed=seed)):
        command += ["--set", setting]
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(common[2])}
    with (folder / "log.txt").open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    return _Started(variation, seed, folder, process, time.monotonic())


def _ended(started: _Started, common: tuple[str, str, int]) -> Run | None:
    """Return what a run came to, or None while it goes on."""
    # The system's own account of this one process. Its peak is never below that of the process that started it, which
    # is small, since nothing here imports torch.
    pid, status, usage = os.wait4(started.process.pid, os.WNOHANG)
    if not pid:
        return None
    started.process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - started.at
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    output = (started.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    error = _reason(started.process.returncode, output)
    steps, ap, ap50 = 0, math.nan, math.nan
    if not error:
        with (started.folder / "results.csv").open(newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]  # not the best: that would be chosen on what it is judged by
        steps, ap, ap50 = int(last["step"]), float(last["AP"]), float(last["AP50"])
    cpu, wall, peak = (round(cost, 2) for cost in (usage.ru_utime + usage.ru_stime, wall, peak))
    return Run(*common, started.variation.name, started.seed, steps, ap, ap50, cpu, wall, peak, error)


def _reason(status: int, output: str) -> str:
    """Return on one line why a process failed, or nothing, from exit status (below zero: a signal) and output."""
    if status == 0:
        return ""
    if status < 0:
        return f"ended by signal {-status}" + (", as where memory runs out" if status == -9 else "")
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return " ".join((errors or lines or [f"exit status {status}"])[-1].split()).rstrip(":")
