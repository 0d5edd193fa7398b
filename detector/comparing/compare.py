"""Compare settings on the user's data: a list of settings, a grid or a random search, each against a baseline.

Every run is a separate process. So the time and the memory of each run can be measured, and a crash of one run does not
stop the other runs. The list of runs is a pure function of the arguments. So an interrupted comparison continues where
it stopped. The processes end with the process that compares, even if it is killed.
"""

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from detector.comparing.processes import (
    ActiveRun,
    InitialWeights,
    changed_settings,
    check_run_folders,
    choose_start,
    data_checksums,
    read_halves,
    record_if_ended,
    remove_weights,
    run_name,
    start_process,
    threads_per_run,
)
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
from detector.files import local_path
from detector.graceful_shutdown import sigterm_as_keyboard_interrupt
from detector.metrics.seeds import ApHalves
from detector.output_folder import OutputFolder, claim_folder
from detector.wording import metric, plural

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
"""Pause between two checks whether a process has ended, in seconds."""

_TABLE, _MARKDOWN = "compare.csv", "compare.md"
"""Files in the folder of the comparison: a line per run, and the table of the results."""


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
        data: the dataset, in any form that `open_data` accepts. AP is measured on its val split, or on
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
    start = choose_start(weights, reuse_backbone, [variation.config for variation in to_compare])
    check_has_val(data, base)
    check_same_val(to_compare, base)
    conditions = Conditions(str(data), " ".join([describe_base(base), *start.description]), threads_per_run(jobs))
    seed_range = range(base.seed, base.seed + seeds)
    with claim_folder(local_path(out), "comparing", names=[_MARKDOWN], overwrite=overwrite) as folder:
        runs = _do_runs(to_compare, seed_range, conditions, start, folder, jobs=jobs, keep_weights=keep_weights)
        halves = _read_halves(runs, folder.path)
        rows = summarize(to_compare, [run for run in runs if run.seed in seed_range], halves)
        heading = f"Data: {data}; seeds: {seeds}; threads: {conditions.threads}; baseline: `{conditions.base}`"
        folder.write(_MARKDOWN, f"{heading}\n\n{to_markdown(rows)}".encode())
    log.info(f"all runs: {folder.path / _TABLE}; table of the results: {folder.path / _MARKDOWN}")
    return rows


def check_has_val(data: str | Path, base: Config) -> None:
    """Raise LabelError if the dataset has no val split, and no training images are held back instead.

    Every run holds back the same images, because the choice depends on the data only.
    """
    data_set = open_data(local_path(data), allow_outside=base.allow_outside, max_pixels=base.max_pixels)
    if {"train", "val"} <= set(data_set.split_names):
        return
    splits = read_training_splits(data_set, None, base.val_fraction)
    if splits.val is None:
        raise LabelError(
            f"{data}: this dataset has no val split, only {', '.join(data_set.split_names)}; add a val split, on "
            "which the AP of the settings is measured, or let --val-fraction hold back some of at least "
            f"{MIN_IMAGES} training images"
        )
    for note in splits.notes:
        log.info("%s", note)
    for warning in splits.warnings:
        log.warning("%s", warning)


def check_same_val(variations: Iterable[Variation], base: Config) -> None:
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
    return " ".join([checksum, *changed_settings(base)]).replace('"', "")


def _do_runs(
    variations: Sequence[Variation],
    seeds: range,
    conditions: Conditions,
    start: InitialWeights,
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
    check_run_folders([run_name(variation.name, seed) for variation, seed in todo], out)
    data_of: dict[str, str] = {}
    for run in runs:
        _check_same_data(out.path / run_name(run.settings, run.seed), data_of)
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
                remove_weights(folder, out.overwrite)
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
        if not run.error and (own := read_halves(out / run_name(run.settings, run.seed), run.AP)) is not None:
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
    checksums = data_checksums(folder)
    if checksums is None:
        return
    key, data = checksums
    if data_of.setdefault(key, data) != data:
        raise FileError(
            f"{folder}: this run used other images, labels or classes than the earlier runs of the comparison, so it "
            "is not recorded; the data has changed since, or the path leads to another dataset. Restore the data, or "
            "use another --out"
        )


def _train_all(
    todo: Sequence[tuple[Variation, int]],
    conditions: Conditions,
    start: InitialWeights,
    parent: OutputFolder,
    jobs: int,
) -> Generator[tuple[RunRecord, Path]]:
    """Do the runs, `jobs` at the same time; when a run has ended, yield its record and its folder in `parent`."""
    waiting, active = deque(todo), list[ActiveRun]()
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                active.append(start_process(*waiting.popleft(), conditions, start, parent))
            time.sleep(_POLL_SECONDS)
            for run in tuple(active):
                if record := record_if_ended(run, conditions, parent):
                    active.remove(run)
                    yield record, run.folder
    finally:
        for run in active:
            run.kill()
