import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.comparing.table import Conditions
from detector.config import Config, read_config
from detector.tuning.report import TuneResult, summarize_study, to_csv, to_yaml
from detector.tuning.study import Kind, State, Trial

BASE = Config(steps=100, evaluations=1)
CONDITIONS = Conditions("scenes", "base", 1)
SETTINGS = ["lr=0.02", "scale=[0.5, 1.5]"]


def trial(number: int, kind: Kind, ap: float | None, state: State = "complete", **attributes: Any) -> Trial:
    """Return a trial; a run of the final comparison has a result."""
    if kind == "final" and ap is not None:
        name = " ".join(attributes["settings"]) or "as configured"
        costs = {"cpu_seconds": 1.0, "wall_seconds": 1.0, "peak_mb": 300.0}
        numbers = {"settings": name, "seed": attributes["seed"], "steps": 100, "AP": ap, "AP50": ap, "error": ""}
        attributes["result"] = numbers | costs
    return Trial(number, state, kind, {}, ap, {"seconds": 60.0, "worker": "host:1:2", **attributes})


def study(best: list[float], defaults: list[float]) -> list[Trial]:
    """Return a search with one trial, and a final comparison with AP of each side for each seed."""
    trials = [trial(0, "defaults", 0.5), trial(1, "search", 0.6, settings=SETTINGS)]
    for seed, (one, other) in enumerate(zip(best, defaults, strict=True), 1):
        trials.append(trial(len(trials), "final", other, side="defaults", seed=seed, settings=[]))
        trials.append(trial(len(trials), "final", one, side="best", seed=seed, settings=SETTINGS))
    return trials


def summarize(trials: list[Trial], winner: int = 1) -> TuneResult:
    return summarize_study(trials, winner, BASE, CONDITIONS, Path("out"))


def test_better_settings_are_better_by_an_interval() -> None:
    result = summarize(study([0.61, 0.62, 0.60], [0.50, 0.52, 0.51]))
    assert result.is_better
    assert result.verdict.startswith("better by 0.100 [+0.0")
    assert result.verdict.endswith("AP: lr=0.02 scale=[0.5, 1.5]")
    assert "measure it on test" in result.lines()[-1]


def test_defaults_stay_if_the_interval_contains_zero() -> None:
    result = summarize(study([0.61, 0.49, 0.52], [0.50, 0.52, 0.51]))
    assert not result.is_better
    assert result.verdict.startswith("the defaults stay: the best of 1 trial, with new seeds: +0.030 [-")
    assert "cannot tell" in result.verdict


def test_score_of_the_search_decides_nothing() -> None:
    # The best trial of the search has 0.6 against 0.5 of the defaults; with new seeds both are the same.
    result = summarize(study([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]))
    assert not result.is_better


def test_defaults_stay_if_no_trial_was_better() -> None:
    only = [trial(0, "defaults", 0.5)]
    assert "there was no time for a trial with other settings (0 trials)" in summarize(only, -1).verdict
    searched = [*only, trial(1, "search", 0.4, settings=SETTINGS)]
    assert summarize(searched, -1).verdict == "the defaults stay: no trial had a higher AP (1 trial)"


def test_a_failed_final_run_counts_unless_it_was_repeated() -> None:
    trials = study([0.61, 0.62, 0.60], [0.50, 0.52, 0.51])
    number = len(trials)
    trials.append(trial(number, "final", None, "failed", side="best", seed=1, settings=SETTINGS, error="killed"))
    assert summarize(trials).rows[1].failed == 1
    repeated = replace(trials[3], attributes={**trials[3].attributes, "repeats": number})
    assert summarize([*trials[:3], repeated, *trials[4:]]).rows[1].failed == 0


def test_best_settings_are_a_valid_configuration(tmp_path: Path) -> None:
    result = summarize(study([0.61, 0.62, 0.60], [0.50, 0.52, 0.51]))
    best = Config(lr=0.02, scale=(0.5, 1.5), flip=0.0)
    path = tmp_path / "best.yaml"
    path.write_bytes(to_yaml(replace(result, best=best), "my data"))
    assert read_config(path) == best
    assert "# detector train --data 'my data' --config best.yaml" in path.read_text()


def test_table_has_a_line_for_each_trial() -> None:
    trials = study([0.61], [0.5])
    rows = list(csv.DictReader(io.StringIO(to_csv(trials).decode())))
    assert [row["kind"] for row in rows] == ["defaults", "search", "final, defaults", "final, best"]
    assert rows[3] == {
        "trial": "3",
        "kind": "final, best",
        "state": "complete",
        "AP": "0.610",
        "seconds": "60.0",
        "seed": "1",
        "worker": "host:1",
        "settings": "lr=0.02 scale=[0.5, 1.5]",
        "error": "",
    }


@pytest.mark.parametrize("importances", [{}, {"lr": 0.8, "flip": 0.2}])
def test_importances_are_shown_if_known(importances: dict[str, float]) -> None:
    result = replace(summarize(study([0.5], [0.5])), importances=importances)
    expected = "lr 0.80, flip 0.20" if importances else "n/a, because fewer than 10 trials tell"
    assert result.lines()[0].endswith(expected)
    assert expected in result.to_markdown(CONDITIONS, 10)
