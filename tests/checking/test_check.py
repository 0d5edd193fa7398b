"""The complete check: correct data gives no "stop", a fault gives "stop", and images for inspection are written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detector.checking.check import CheckReport, check
from detector.cli.commands import main
from detector.config import Config
from detector.errors import InputError
from detector.images import check_array

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Return the lines that `check` reports in the fixture `report`."""
    return []


@pytest.fixture(scope="module")
def report(
    tiny_data: Path, tiny_config: Config, lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> CheckReport:
    return check(tiny_data, tiny_config, out=tmp_path_factory.mktemp("check"), report=lines.append)


def test_sound_data_and_network_have_no_stop(report: CheckReport) -> None:
    assert [str(finding) for finding in report.findings if finding.verdict == "stop"] == []


def test_every_part_of_the_pipeline_is_checked(report: CheckReport) -> None:
    parts = {finding.check.split(":")[0] for finding in report.findings}
    assert parts == {"data", "augmentation", "preprocessing", "network", "signal", "learning", "cost"}
    assert len({finding.check for finding in report.findings}) == len(report.findings)


def test_every_finding_that_is_not_ok_has_advice(report: CheckReport) -> None:
    for finding in report.findings:
        assert finding.measured
        assert finding.expected
        assert bool(finding.advice) == (finding.verdict != "ok"), finding


def test_every_finding_is_reported_in_order(report: CheckReport, lines: list[str]) -> None:
    texts = [str(finding) for finding in report.findings]
    assert [line for line in lines if line in texts] == texts


def test_documentation_explains_every_line_in_order(report: CheckReport) -> None:
    rows = (ROOT / "docs/check.md").read_text(encoding="utf-8").splitlines()
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows if row.startswith("| ") and ": " in row]
    found = [finding.check for finding in report.findings]
    assert [name for name in names if name in found] == found


def test_interrupted_check_says_that_it_is_not_complete(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("detector.checking.check.diagnose_augmentation", interrupt)
    assert main(["check", "--data", str(tiny_data), "--out", str(tmp_path / "out")]) == 130
    out, errors = capsys.readouterr()
    assert "data: leakage" in out
    assert out.splitlines()[-1].startswith("the check is not complete")
    assert errors == "interrupted\n"


def test_images_for_inspection_are_not_blank(report: CheckReport) -> None:
    assert set(report.images) >= {
        "classes.jpg",
        "augmentation.jpg",
        "signal.png",
        "learning-rate.png",
        "largest-boxes.jpg",
    }
    for image in report.images.values():
        assert check_array(image).std() > 10


def test_far_too_high_learning_rate_stops(tiny_data: Path, tiny_config: Config) -> None:
    found = check(tiny_data, replace(tiny_config, optimizer="sgd", lr=1e5, clip_norm=1e9))
    stopped = {finding.check for finding in found.findings if finding.verdict == "stop"}
    assert {"learning: learning rate", "signal: weight updates"} <= stopped
    assert found.verdict == "stop"


def test_command_prints_every_finding_and_exits_with_the_verdict(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--set", "input_size=[64, 96]", "--set", "precision=fp32", "--model", "pico", "--epochs", "5"]
    status = main(
        ["check", "--data", str(tiny_data), *settings, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "j")]
    )
    values = json.loads((tmp_path / "j").read_text())
    assert status == {"ok": 0, "look": 4, "stop": 5}[values["verdict"]]
    printed = capsys.readouterr().out
    for finding in values["findings"]:
        assert f"{finding['verdict']:<4}  {finding['check']}: " in printed
    assert (tmp_path / "out" / "classes.jpg").is_file()


def test_training_logs_findings_of_the_short_check(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from detector.training.train import train

    config = replace(tiny_config, steps=1, augment_ramp=0, input_size=(160, 224))
    with caplog.at_level("WARNING", logger="detector"):
        train(tiny_data, config, out=tmp_path / "a")
    messages = [record.message for record in caplog.records]
    # The images have 64 x 96 pixels: the input is needlessly large.
    assert [message for message in messages if message.startswith("look  data: input size: ")]
    assert not [message for message in messages if message.startswith("stop")]


def test_training_stops_if_the_data_says_stop(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    from detector.training.train import train

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    labels = json.loads((data / "train.json").read_text())
    first = labels["images"].pop(0)["id"]
    labels["annotations"] = [row for row in labels["annotations"] if row["image_id"] != first]
    (data / "val.json").write_text(json.dumps(labels))
    config, out = replace(tiny_config, steps=1), tmp_path / "run"
    with pytest.raises(InputError, match=r"stop  data: shared files: (.|\n)*--ignore-check"):
        train(data, config, out=out)
    assert train(data, replace(config, ignore_check=True), out=out).steps == 1
