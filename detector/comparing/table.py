"""The results of a comparison: compare.csv with one line per run, and the table that summarizes the runs."""

import csv
import io
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev

from detector.comparing.variations import BASELINE, Variation
from detector.errors import FileError, location
from detector.files import read_text
from detector.metrics.bootstrap import few_images_note
from detector.metrics.seeds import ApHalves, SeedsDifference, seeds_difference
from detector.wording import UNDEFINED

_HEADER = ("settings", "AP", "AP50", "difference", "seeds only", "seeds and images", "CPU", "memory", "verdict")

_NOTE = (
    "AP: COCO AP (IoU 0.50:0.95) on val after the last step; mean over the seeds ± standard deviation. AP50: AP at IoU "
    "0.5.",
    "Difference: mean of AP minus the AP of the baseline with the same seed. It has two 95 % confidence intervals. "
    "Seeds only: for other seeds on the same val images (Student's t: 12.7, 4.3, 3.2, 2.8 standard errors for 2, 3, 4, "
    "5 seeds). Seeds and images: also for other val images of the same kind (images only: with one seed, it does not "
    "cover other seeds).",
    "Verdict: better or worse if the interval for seeds and images does not contain zero; by chance, that also happens "
    "for one of twenty settings that have no effect. Cannot tell: so many seeds, or val images, would tell in 4 of 5 "
    "cases, if the true difference is the measured one.",
    "CPU: CPU time of all cores; memory: peak resident memory; both of the whole process. The baseline has seconds and "
    "MB, the other rows have the ratio to the baseline.",
)
"""Explanation of the columns, a line for each part."""

_NOTE_SEEDS_ONLY = (
    "On these val images: these runs have no usable val_halves.json, so the verdict follows from the interval for "
    "seeds only."
)


@dataclass(frozen=True)
class Conditions:
    """The conditions that must be equal in all runs of a comparison, because the AP depends on them.

    Attributes:
        data: name or path of the dataset, as the user gave it.
        base: checksum of the base settings and the base settings that differ from their defaults; see `describe_base`.
        threads: number of CPU threads of each run.
    """

    data: str
    base: str
    threads: int


@dataclass(frozen=True)
class RunRecord(Conditions):
    """A training run that has ended, successfully or with an error: one line of compare.csv.

    Attributes:
        settings: name of the variation.
        seed: random seed of the run.
        steps: number of optimizer steps; 0 if the run failed.
        AP: COCO AP (IoU 0.50:0.95) on val after the last step, 0..1; nan if the run failed.
        AP50: AP at IoU 0.5 on val after the last step, 0..1; nan if the run failed.
        cpu_seconds: CPU time of all cores, user and system; nan on Windows.
        wall_seconds: wall time from the start to the end of the process.
        peak_mb: peak resident memory of the process, in MB (10^6 bytes); nan on Windows.
        error: reason of the failure, on one line; empty if the run succeeded.
    """

    settings: str
    seed: int
    steps: int
    AP: float
    AP50: float
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    error: str


@dataclass(frozen=True)
class ComparisonRow:
    """The results of one variation: means over its successful runs, one per seed; nan for a value that is unknown.

    Attributes:
        variation: the variation.
        AP: mean of COCO AP (IoU 0.50:0.95) on val, 0..1.
        std: standard deviation of AP over the seeds.
        AP50: mean of AP at IoU 0.5 on val, 0..1.
        difference: AP minus the AP of the baseline with the same seed: mean, intervals and what they cover.
        cpu_seconds: mean CPU time of all cores.
        peak_mb: mean of the peak resident memory, in MB (10^6 bytes).
        verdict: last column of the table: "better", "worse", "cannot tell; ...", a failure, ...
        failed: number of runs that failed.
    """

    variation: Variation
    AP: float
    std: float
    AP50: float
    difference: SeedsDifference
    cpu_seconds: float
    peak_mb: float
    verdict: str
    failed: int = 0


def read_runs(path: Path, conditions: Conditions) -> list[RunRecord]:
    """Read compare.csv and return its runs; an empty list if the file is missing or empty.

    Args:
        path: path of compare.csv.
        conditions: the conditions of this comparison; every run in the file must have the same.

    Raises:
        FileError: the file is not a table of runs, a line is damaged, or a run was done under other conditions. The
            message names the line.
    """
    text = read_text(path) if path.exists() else ""
    if not text:
        return []
    kinds = typing.get_type_hints(RunRecord)
    try:
        header, *lines = csv.reader(text.splitlines())
    except csv.Error as error:
        raise FileError(f"{path}: not a table that `detector compare` writes ({error}); use another --out") from None
    if header != list(kinds):
        raise FileError(
            f"{location(path, 1)}: the first line is not the header that `detector compare` writes; use another --out"
        )
    if not text.endswith("\n"):
        raise FileError(f"{location(path, len(lines) + 1)}: the line is incomplete; remove the line to repeat its run")
    runs = []
    for number, cells in enumerate(lines, 2):
        try:
            run = RunRecord(*(kind(cell) for kind, cell in zip(kinds.values(), cells, strict=True)))
            _check_numbers(run)
        except ValueError as error:
            raise FileError(
                f"{location(path, number)}: the line is not a valid run ({error}); remove the line to repeat its run"
            ) from None
        _check_conditions(run, conditions, location(path, number))
        runs.append(run)
    return runs


def _check_numbers(run: RunRecord) -> None:
    """Raise ValueError if a number of a run is impossible."""
    costs = (run.cpu_seconds, run.wall_seconds, run.peak_mb)
    if not all(math.isnan(cost) or 0 <= cost < math.inf for cost in costs):
        raise ValueError("a negative or infinite cost")
    if not run.error and not all(UNDEFINED <= ap <= 1 for ap in (run.AP, run.AP50)):
        raise ValueError(f"AP {run.AP}, AP50 {run.AP50}")


def _check_conditions(run: RunRecord, conditions: Conditions, place: str) -> None:
    """Raise FileError if a run was done under other conditions; `place` is the file and line of the run."""
    for condition in fields(Conditions):
        before, now = getattr(run, condition.name), getattr(conditions, condition.name)
        if before != now:
            raise FileError(
                f"{place}: {condition.name} was '{before}' and is now '{now}', so the runs cannot be compared; use "
                "another --out"
            )


def to_csv(runs: Iterable[RunRecord]) -> bytes:
    """Return the content of compare.csv, with a line for each run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in fields(RunRecord))
    writer.writerows(map(astuple, runs))
    return text.getvalue().encode()


def summarize(
    variations: Sequence[Variation], runs: Sequence[RunRecord], halves: Mapping[tuple[str, int], ApHalves] | None = None
) -> list[ComparisonRow]:
    """Return one row of mean results per variation, in the order of `variations`.

    Args:
        variations: the variations, of which the first is the baseline.
        runs: the runs.
        halves: name of the variation and seed → AP of the run on random halves of the val images; a run may be missing.
    """
    baseline = {run.seed: run for run in runs if run.settings == BASELINE and not run.error}
    own = {variation.name: [run for run in runs if run.settings == variation.name] for variation in variations}
    return [_summarize_one(variation, own[variation.name], baseline, halves or {}) for variation in variations]


def _summarize_one(
    variation: Variation,
    runs: Sequence[RunRecord],
    baseline: Mapping[int, RunRecord],
    halves: Mapping[tuple[str, int], ApHalves],
) -> ComparisonRow:
    """Return the mean results of one variation as a row of the table.

    Args:
        variation: the variation.
        runs: the runs of this variation.
        baseline: seed → successful run of the baseline.
        halves: as for `summarize`.
    """
    is_baseline = not variation.settings
    finished = [run for run in runs if not run.error]
    no_objects = any(run.AP == UNDEFINED for run in finished)  # then there are none in any run, on the same val images
    paired = [run for run in finished if run.seed in baseline and not is_baseline and not no_objects]
    difference = seeds_difference(
        [run.AP - baseline[run.seed].AP for run in paired],
        [(halves.get((run.settings, run.seed)), halves.get((BASELINE, run.seed))) for run in paired],
    )
    verdicts = []
    if finished:
        verdict = "cannot tell, because val has no objects" if no_objects else difference.verdict()
        verdicts.append("baseline" if is_baseline else verdict)
    errors = [run.error for run in runs if run.error]
    if errors:
        verdicts.append(f"{len(errors)} of {len(runs)} failed: {errors[0]}")
    scores = [run.AP for run in finished]
    return ComparisonRow(
        variation=variation,
        AP=_mean(scores),
        std=stdev(scores) if len(scores) > 1 else math.nan,
        AP50=_mean([run.AP50 for run in finished]),
        difference=difference,
        cpu_seconds=_mean([run.cpu_seconds for run in finished]),
        peak_mb=_mean([run.peak_mb for run in finished]),
        verdict="; ".join(verdicts) or "not run",
        failed=len(errors),
    )


def _mean(numbers: Sequence[float]) -> float:
    """Return the mean, or nan if there is no number."""
    return fmean(numbers) if numbers else math.nan


def to_text(rows: Sequence[ComparisonRow]) -> str:
    """Return the rows as a text table for the terminal, followed by a note that explains the columns."""
    table = [_HEADER, *(_cells(row, rows[0]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    header, *lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
    text, group = [header], ""
    for row, line in zip(rows, lines, strict=True):
        text += [f"[{row.variation.group}]"] * (row.variation.group != group) + [line]
        group = row.variation.group
    if scored := [row for row in rows if not math.isnan(row.AP) and row.AP != UNDEFINED]:
        best = max(scored, key=lambda row: row.AP)
        text += [
            "",
            f"Highest AP: {best.variation.name}, {best.AP:.3f}. Because it was selected on val, evaluate it on test.",
        ]
    return "\n".join([*text, "", *_few_images_lines(rows), *_note_lines(rows), ""])


def to_markdown(rows: Sequence[ComparisonRow]) -> str:
    """Return the rows as a Markdown table, followed by a note that explains the columns.

    If a variation has a remark, the table has a last column "expected" with the remarks.
    """
    has_remarks = any(row.variation.remark for row in rows)
    header = (*_HEADER, "expected") if has_remarks else _HEADER
    lines, group = [header, ("---",) * len(header)], ""
    for row in rows:
        if row.variation.group != group:
            group = row.variation.group
            lines.append((f"**{group}**", *[""] * (len(header) - 1)))
        name, *cells = _cells(row, rows[0])
        lines.append((f"`{name}`", *cells, *([row.variation.remark] if has_remarks else [])))
    table = ("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines)
    return "\n".join([*table, "", *_few_images_lines(rows), *_note_lines(rows), ""])


def _note_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return the explanation of the columns."""
    return [*_NOTE, *[_NOTE_SEEDS_ONLY] * any(row.difference.covers == "seeds" for row in rows)]


def _few_images_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return a line if classes with objects in few images make the intervals for images too narrow; else nothing."""
    names = dict.fromkeys(name for row in rows for name in row.difference.few_images)
    note = few_images_note({"seeds and images": tuple(names)} if names else {})
    return [] if note is None else [f"{note[0].upper()}{note[1:]}.", ""]


def _cells(row: ComparisonRow, baseline: ComparisonRow) -> tuple[str, ...]:
    """Return the cells of a row as text, in the order of `_HEADER`."""
    if row is baseline:
        costs = (_format(row.cpu_seconds, ".0f", " s"), _format(row.peak_mb, ".0f", " MB"))
    else:
        costs = (_format(row.cpu_seconds / baseline.cpu_seconds), _format(row.peak_mb / baseline.peak_mb))
    return (
        row.variation.name,
        _format(row.AP, ".3f") + (_format(row.std, ".3f", before=" ± ") if row.AP != UNDEFINED else ""),
        _format(row.AP50, ".3f"),
        *(_difference_cells(row.difference) if row.AP != UNDEFINED else ("", "", "")),
        *costs,
        row.verdict,
    )


def _difference_cells(difference: SeedsDifference) -> tuple[str, str, str]:
    """Return the cells of a difference as text: its mean, and its two intervals; empty where something is unknown."""
    seeds_only = "" if difference.seeds_only is None else difference.seeds_only.signed()
    both = "" if difference.interval is None or difference.covers == "seeds" else difference.interval.signed()
    return (
        _format(difference.value, "+.3f"),
        seeds_only,
        f"{both} (images only)" if difference.seeds == 1 and both else both,
    )


def _format(value: float, spec: str = ".2f", after: str = "", before: str = "") -> str:
    """Return a number as text between `before` and `after`; an empty string for nan, and "n/a" for an undefined AP."""
    if value == UNDEFINED:
        return "n/a"
    return "" if math.isnan(value) else f"{before}{value:{spec}}{after}"
