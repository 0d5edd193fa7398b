"""The result of a search: the final comparison, trials.csv, tune.md and best.yaml."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from shlex import quote

import yaml

from detector.comparing.table import ComparisonRow, Conditions, RunRecord, summarize, to_markdown
from detector.comparing.variations import Variation
from detector.config import Config, override
from detector.errors import FileError
from detector.metrics.seeds import ApHalves
from detector.tuning.study import Trial
from detector.version import VERSION
from detector.wording import metric, plural

log = logging.getLogger(__name__)

TABLE, REPORT, BEST = "trials.csv", "tune.md", "best.yaml"
"""Files in the output folder: one line per trial, the final comparison, and the settings if they are better."""

_NOTE = (
    "The settings were chosen on the images of val, so their AP on val is slightly too high also with new seeds; "
    "measure it on test."
)


@dataclass(frozen=True)
class TuneResult:
    """The result of a search.

    Attributes:
        folder: the output folder.
        trials: all trials of all workers.
        rows: the final comparison: the defaults and the best settings, each with the mean over the new seeds; empty if
            no trial was better than the defaults.
        settings: settings of the best trial, each as `key=value`.
        best: the base settings with the best settings, without a length; None: they are not better.
        importances: setting → how much it decides whether a trial is among the best quarter; empty: too few trials.
    """

    folder: Path
    trials: tuple[Trial, ...] = field(repr=False)
    rows: tuple[ComparisonRow, ...] = ()
    settings: tuple[str, ...] = ()
    best: Config | None = None
    importances: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_better(self) -> bool:
        """Whether the best settings are better than the defaults in the final comparison: its interval is above 0."""
        return bool(self.rows) and self.rows[1].verdict.startswith("better")

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        tried = sum(trial.kind == "search" for trial in self.trials)
        if not self.rows:
            reason = "no trial had a higher AP" if tried else "there was no time for a trial with other settings"
            return f"the defaults stay: {reason} ({plural(tried, 'trial')})"
        difference = self.rows[1].difference
        if self.is_better and difference.interval is not None:
            return f"better by {difference.value:.3f} {difference.interval.signed()} AP: {' '.join(self.settings)}"
        measured = "" if difference.interval is None else f"{difference.value:+.3f} {difference.interval.signed()} AP, "
        return (
            f"the defaults stay: the best of {plural(tried, 'trial')}, with new seeds: {measured}{self.rows[1].verdict}"
        )

    def lines(self) -> list[str]:
        """Return the importances, the verdict and what it means, as lines of text."""
        texts = [f"{key} {value:.2f}" for key, value in self.importances.items()]
        importances = ", ".join(texts) or "n/a, because fewer than 10 trials tell"
        note = [_NOTE] if self.is_better else []
        return [f"Importance of the settings, a rough hint (PED-ANOVA): {importances}", self.verdict, *note]

    def to_markdown(self, conditions: Conditions, minutes_total: float) -> str:
        """Return the content of tune.md."""
        states = [trial.state for trial in self.trials if trial.kind != "final"]
        counts = ", ".join(f"{states.count(own)} {own}" for own in ("complete", "pruned", "failed"))
        minutes = sum(trial.seconds for trial in self.trials) / 60
        head = (
            f"Data: {conditions.data}; {minutes:.1f} of {minutes_total:g} minutes; trials: {counts}; the defaults: "
            f"`{conditions.base}`"
        )
        table = [to_markdown(self.rows)] if self.rows else []
        return "\n\n".join([head, *table, *self.lines()]) + "\n"


def summarize_study(
    trials: Sequence[Trial], winner: int | None, base: Config, conditions: Conditions, folder: Path
) -> TuneResult:
    """Return the result of a study whose final comparison is done, without `best` and `importances`.

    Args:
        trials: all trials.
        winner: number of the best trial; -1 or None: no trial is better than the defaults.
        base: the base settings, with the length of a trial.
        conditions: conditions of the runs.
        folder: the output folder.
    """
    found = {trial.number: trial for trial in trials}
    if winner is None or winner < 0:
        return TuneResult(folder, tuple(trials))
    settings = found[winner].settings
    variations = [Variation((), base), Variation(settings, override(base, settings))]
    runs, halves = [], {}
    for trial in trials:
        if trial.kind != "final" or trial.state not in ("complete", "failed"):
            continue
        run = _run_of(trial, conditions)
        if trial.state == "failed" and any(own.attributes.get("repeats") == trial.number for own in trials):
            continue
        runs.append(run)
        if "halves" in trial.attributes:
            try:
                halves[run.settings, run.seed] = ApHalves.from_json(trial.attributes["halves"])
            except FileError as error:
                log.warning("trial %d: %s; the interval does not cover images", trial.number, error)
    return TuneResult(folder, tuple(trials), tuple(summarize(variations, runs, halves)), settings)


def _run_of(trial: Trial, conditions: Conditions) -> RunRecord:
    """Return a trial of the final comparison as a run of a comparison."""
    result = trial.attributes.get("result")
    if result is None:
        name = Variation(trial.settings, Config()).name
        error = str(trial.attributes.get("error", "its worker was killed"))
        result = {"settings": name, "seed": trial.attributes["seed"], "steps": 0, "error": error}
        result |= dict.fromkeys(("AP", "AP50"), float("nan")) | dict.fromkeys(
            ("cpu_seconds", "wall_seconds", "peak_mb"), 0.0
        )
    return RunRecord(data=conditions.data, base=conditions.base, threads=conditions.threads, **result)


def to_csv(trials: Sequence[Trial]) -> bytes:
    """Return the content of trials.csv, with a line for each trial."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "kind", "state", "AP", "seconds", "seed", "worker", "settings", "error"])
    for trial in trials:
        own = trial.attributes
        kind = f"final, {own['side']}" if trial.kind == "final" else trial.kind
        ap = "" if trial.AP is None else metric(trial.AP)
        settings, worker = " ".join(trial.settings), own.get("worker", "").rpartition(":")[0]
        row = [trial.number, kind, trial.state, ap, f"{trial.seconds:.1f}", own.get("seed", "")]
        writer.writerow([*row, worker, settings, own.get("error", "")])
    return text.getvalue().encode()


def to_yaml(result: TuneResult, data: str) -> bytes:
    """Return the content of best.yaml: the best settings, as a file for `detector train --config`.

    Args:
        result: the result, with settings that are better than the defaults.
        data: the dataset, as the user gave it.
    """
    config = result.best or Config()
    values = {own.name: getattr(config, own.name) for own in fields(config) if getattr(config, own.name) != own.default}
    lines = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    head = (
        f"# Found by detector tune {VERSION}: {result.verdict}\n"
        f"# detector train --data {quote(data)} --config {BEST} --minutes 10\n"
    )
    return (head + yaml.safe_dump(lines, sort_keys=False)).encode()
