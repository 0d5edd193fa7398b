"""The runs of a comparison as a CSV, a line each, and what they say together as a table."""

import csv
import io
import math
import os
import typing
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev

from detector.comparing.variations import BASE_LINE, Variation
from detector.errors import InputError, location
from detector.files import read_text

_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t for 1 to 10 degrees of freedom: 95 % lie within plus and minus this. For more the last is strict."""

_HEAD = ("settings", "AP", "AP50", "difference", "CPU", "memory", "verdict")

_NOTE = (
    "AP: COCO's, on val, after the last step; mean over the seeds ± their standard std. Difference: to the base "
    "line, seed by seed; mean ± half of Student's 95 % interval (12.7, 4.3, 3.2, 2.8 standard errors for 2, 3, 4, 5 "
    "seeds). Better or worse: the interval leaves out zero; of twenty settings without effect one does so by chance. "
    "CPU: seconds of all cores; memory: peak resident; both of the whole process, and relative to the base line's."
)


@dataclass(frozen=True)
class Run:
    """A training run that has ended, well or not: one line of the CSV.

    Attributes:
        data: as given.
        base: checksum of all settings of the base line, and those that are not the defaults.
        threads: of the process.
        settings: name of the variation.
        seed: of everything random.
        steps: done; 0 where it failed.
        AP: COCO's average precision on val after the last step, 0..1; nan where it failed.
        AP50: the same at IoU 0.5.
        cpu_seconds: of all cores, for user and system.
        wall_seconds: from start to end of the process.
        peak_mb: largest resident memory of the process, in MB.
        error: why it failed, on one line; empty where it did not.
    """

    data: str
    base: str
    threads: int
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
class Row:
    """What the runs of a variation say together, as means over the seeds; nan where there is nothing to say.

    Attributes:
        variation: which.
        AP: on val, 0..1.
        spread: standard std of AP over the seeds.
        AP50: the same at IoU 0.5.
        difference: of AP to that of the base line with the same seed.
        margin: half the width of the 95 % interval of the difference.
        cpu_seconds: of all cores.
        peak_mb: largest resident memory, in MB.
        verdict: in words.
    """

    variation: Variation
    AP: float
    spread: float
    AP50: float
    difference: float
    margin: float
    cpu_seconds: float
    peak_mb: float
    verdict: str


def read_runs(path: Path, common: tuple[str, str, int]) -> list[Run]:
    """Read the runs in a CSV; none where there is no file yet.

    Args:
        path: the CSV.
        common: data, base and threads that every run must have.

    Raises:
        InputError: it is not such a table, or of another comparison; names the line.
    """
    text = read_text(path) if path.exists() else ""
    if not text:
        return []
    kinds = typing.get_type_hints(Run)
    head, *lines = csv.reader(text.splitlines())
    if head != list(kinds):
        raise InputError(f"{location(path, 1)}: not the runs of a comparison; give another --out")
    if not text.endswith("\n"):
        raise InputError(f"{location(path, len(lines) + 1)}: cut off in writing; remove the line, and it is run again")
    runs = []
    for number, cells in enumerate(lines, 2):
        try:
            run = Run(*(kind(cell) for kind, cell in zip(kinds.values(), cells, strict=True)))
        except ValueError as error:
            raise InputError(
                f"{location(path, number)}: not a run ({error}); remove the line, and it is run again"
            ) from None
        for name, theirs, ours in zip(kinds, astuple(run), common, strict=False):
            if theirs != ours:
                raise InputError(
                    f"{location(path, number)}: {name} was '{theirs}' and is now '{ours}', which cannot be compared; "
                    "give another --out"
                )
        runs.append(run)
    return runs


def add_run(path: Path, run: Run) -> None:
    """Append a run to a CSV, after the head if it is the first, and see it safely on the disk."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists() or not path.stat().st_size:
        writer.writerow(column.name for column in fields(Run))
    writer.writerow(astuple(run))
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())


def summarize(variations: Sequence[Variation], runs: Sequence[Run]) -> list[Row]:
    """Return what the runs say about each variation, in their order."""
    base = {run.seed: run.AP for run in runs if run.settings == BASE_LINE and not run.error}
    rows = []
    for variation in variations:
        mine = [run for run in runs if run.settings == variation.name]
        good = [run for run in mine if not run.error]
        differences = [run.AP - base[run.seed] for run in good if run.seed in base and variation.settings]
        difference, margin = mean_and_margin(differences)
        said = []
        if good:
            said.append(_verdict(differences, difference, margin) if variation.settings else "the base line")
        if errors := [run.error for run in mine if run.error]:
            said.append(f"{len(errors)} of {len(mine)} failed: {errors[0]}")
        scores = [run.AP for run in good]
        rows.append(
            Row(
                variation=variation,
                AP=_mean(scores),
                spread=stdev(scores) if len(scores) > 1 else math.nan,
                AP50=_mean([run.AP50 for run in good]),
                difference=difference,
                margin=margin,
                cpu_seconds=_mean([run.cpu_seconds for run in good]),
                peak_mb=_mean([run.peak_mb for run in good]),
                verdict="; ".join(said) or "not run",
            )
        )
    return rows


def mean_and_margin(numbers: Sequence[float]) -> tuple[float, float]:
    """Return the mean of a sample and half the width of its 95 % interval, by Student's t; nan for too few numbers."""
    count = len(numbers)
    if count < 2:
        return _mean(numbers), math.nan
    return fmean(numbers), _T95[min(count - 1, len(_T95)) - 1] * stdev(numbers) / math.sqrt(count)


def _mean(numbers: Sequence[float]) -> float:
    return fmean(numbers) if numbers else math.nan


def _verdict(differences: Sequence[float], difference: float, margin: float) -> str:
    if not differences:
        return "no base line to compare with"
    if not any(differences):
        return "the same"
    if len(differences) == 1:
        return "one seed: no verdict"
    if abs(difference) <= margin:
        return "within the noise"
    return "better" if difference > 0 else "worse"


def to_text(rows: Sequence[Row]) -> str:
    """Return the rows as a table for the terminal, and how to read it."""
    table = [_HEAD, *(_cells(row, rows[0]) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    head, *lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
    text, group = [head], ""
    for row, line in zip(rows, lines, strict=True):
        text += [f"[{row.variation.group}]"] * (row.variation.group != group) + [line]
        group = row.variation.group
    if scored := [row for row in rows if not math.isnan(row.AP)]:
        best = max(scored, key=lambda row: row.AP)
        text += ["", f"Highest AP: {best.variation.name}, {best.AP:.3f}; chosen on val, so ask test what it is worth."]
    return "\n".join([*text, "", _NOTE, ""])


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, the remarks as what was expected beside them, and how to read it."""
    has_remarks = any(row.variation.remark for row in rows)
    head = (*_HEAD, "expected") if has_remarks else _HEAD
    lines, group = [head, ("---",) * len(head)], ""
    for row in rows:
        if row.variation.group != group:
            group = row.variation.group
            lines.append((f"**{group}**", *[""] * (len(head) - 1)))
        name, *cells = _cells(row, rows[0])
        lines.append((f"`{name}`", *cells, *([row.variation.remark] if has_remarks else [])))
    table = ("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines)
    return "\n".join([*table, "", _NOTE, ""])


def _cells(row: Row, base: Row) -> tuple[str, ...]:
    if row is base:
        costs = (_number(row.cpu_seconds, ".0f", " s"), _number(row.peak_mb, ".0f", " MB"))
    else:
        costs = (_number(row.cpu_seconds / base.cpu_seconds), _number(row.peak_mb / base.peak_mb))
    return (
        row.variation.name,
        _number(row.AP, ".3f") + _number(row.spread, ".3f", before=" ± "),
        _number(row.AP50, ".3f"),
        _number(row.difference, "+.3f") + _number(row.margin, ".3f", before=" ± "),
        *costs,
        row.verdict,
    )


def _number(value: float, form: str = ".2f", after: str = "", before: str = "") -> str:
    """Return a number as text; nothing for nan."""
    return "" if math.isnan(value) else f"{before}{value:{form}}{after}"
