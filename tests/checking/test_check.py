"""The whole check: on sound data it passes and leaves images to look at; with planted faults it says stop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detector.checking.check import CheckReport, check
from detector.cli.commands import main
from detector.config import Config
from detector.images import check_array


@pytest.fixture(scope="module")
def report(tiny_data: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> CheckReport:
    return check(tiny_data, tiny_config, tmp_path_factory.mktemp("check"))


def test_sound_data_and_a_sound_network_are_not_stopped(report: CheckReport) -> None:
    assert [str(finding) for finding in report.findings if finding.verdict == "stop"] == []


def test_every_part_of_the_pipe_is_looked_at(report: CheckReport) -> None:
    parts = {finding.check.split(":")[0] for finding in report.findings}
    assert {"data", "augmentation", "images", "network", "signal", "learning", "cost"} <= parts
    assert len({finding.check for finding in report.findings}) == len(report.findings)


def test_what_is_not_ok_says_what_to_do(report: CheckReport) -> None:
    for finding in report.findings:
        assert finding.measured
        assert finding.expected
        assert bool(finding.advice) == (finding.verdict != "ok"), finding


def test_there_are_images_to_look_at(report: CheckReport) -> None:
    assert set(report.images) == {"classes.jpg", "augmentation.jpg", "signal.png", "learning-rate.png"}
    for image in report.images.values():
        assert check_array(image).std() > 10


def test_a_learning_rate_far_too_high_stops(tiny_data: Path, tiny_config: Config) -> None:
    found = check(tiny_data, replace(tiny_config, optimizer="sgd", lr=50.0, clip_norm=1e9))
    assert found.verdict == "stop"


def test_the_command_prints_a_line_per_check_and_its_status_is_the_worst(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "input_size=[64, 96]", "--set", "precision=fp32", "--model", "pico", "--epochs", "5"]
    status = main(
        ["check", "--data", str(tiny_data), *settings, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "j")]
    )
    said = json.loads((tmp_path / "j").read_text())
    assert status == {"ok": 0, "look": 4, "stop": 5}[said["verdict"]]
    printed = capsys.readouterr().out
    for finding in said["findings"]:
        assert f"{finding['verdict']:<4}  {finding['check']}: " in printed
    assert (tmp_path / "out" / "classes.jpg").is_file()


def test_training_says_at_its_start_what_is_worth_a_look(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from detector.training.train import train

    with caplog.at_level("WARNING", logger="detector"):
        train(tiny_data, replace(tiny_config, steps=1, class_weight=50.0), tmp_path / "a")
    assert all("stop" not in record.message[:4] for record in caplog.records)
