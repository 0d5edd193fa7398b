"""The report at the end of a training run."""

import json
from pathlib import Path

import pytest

from detector.cli.commands import main
from detector.config import Config
from detector.training.train import train

SETTINGS = ["model=pico", "input_size=[64, 96]", "steps=4", "batch=4", "evaluations=2", "precision=fp32"]
FLAGS = ["--device", "cpu", "--ignore-check", *(flag for setting in SETTINGS for flag in ("--set", setting))]


def test_train_writes_a_report_with_the_curves_of_the_run(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", "--data", str(tiny_data), "--out", str(tmp_path / "run"), *FLAGS]) == 0
    report = tmp_path / "run" / "report"
    values = json.loads((report / "report.json").read_text())
    rows = [line.split(",") for line in (tmp_path / "run" / "results.csv").read_text().splitlines()]
    assert [row["step"] for row in values["training"]] == [2, 4] == [int(row[0]) for row in rows[1:]]
    best = max(row["AP"] for row in values["training"])
    assert values["metrics"]["AP"] == pytest.approx(best, abs=1e-3)
    assert (report / "plots" / "training-loss.svg").is_file()
    assert "s, after the end of the run)" in caplog.text


def test_no_report_writes_no_report(tiny_data: Path, tmp_path: Path) -> None:
    assert main(["train", "--data", str(tiny_data), "--out", str(tmp_path / "run"), "--no-report", *FLAGS]) == 0
    assert not (tmp_path / "run" / "report").exists()


def test_python_writes_a_report_only_if_asked(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = Config(**{**vars(tiny_config), "steps": 2, "evaluations": 1, "ignore_check": True})
    for report in (False, True):
        train(tiny_data, config, out=tmp_path / str(report), report=report)
        assert (tmp_path / str(report) / "report" / "report.html").exists() == report


def test_foreign_report_is_refused_before_the_run(tmp_path: Path, tiny_data: Path) -> None:
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "report" / "report.html").write_text("mine")
    assert main(["train", "--data", str(tiny_data), "--out", str(run), *FLAGS]) == 2
    assert (run / "report" / "report.html").read_text() == "mine"
    assert not (run / "weights").exists()
