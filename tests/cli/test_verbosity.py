"""What each command prints at the end, and with --quiet and --verbose."""

import shlex
from pathlib import Path

import pytest

from detector.cli.commands import main
from detector.cli.parser import make_parser
from detector.cli.settings import TRAINING_FLAGS, given_flags

Capture = pytest.CaptureFixture[str]

OWN_FLAGS = {"command", "out", "quiet", "verbose", "overwrite"}
"""Flags of `check` and `train` that do not change the run."""

TRAIN = ["--model", "pico", "--set", "input_size=[64, 96]", "--set", "steps=2", "--batch", "4"]


def printed(capsys: Capture, *arguments: object, status: int = 0) -> list[str]:
    """Run a command, which must print no error; return the lines of its output."""
    assert main([str(argument) for argument in arguments]) == status
    out, errors = capsys.readouterr()
    assert errors == ""
    return out.splitlines()


def test_quiet_training_prints_only_its_result(capsys: Capture, tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lines = printed(capsys, "train", "--data", tiny_data, *TRAIN, "--device", "cpu", "--out", run, "--quiet")
    assert len(lines) == 1
    assert lines[0].startswith(f"{run / 'weights' / 'best.safetensors'}: val AP ")
    assert lines[0].endswith(" after 2 steps")


def test_quiet_evaluation_prints_only_the_table(capsys: Capture, tiny_data: Path, tiny_weights: Path) -> None:
    evaluate = ("evaluate", "--data", tiny_data, "--weights", tiny_weights, "--device", "cpu")
    usual, quiet = printed(capsys, *evaluate), printed(capsys, *evaluate, "--quiet")
    assert quiet[0].startswith("AP ")
    assert usual[-len(quiet) :] == quiet
    assert len(usual) > len(quiet)
    assert quiet[-1] == f"next: detector detect IMAGES --weights {shlex.quote(str(tiny_weights))}"


def test_verbose_lines_have_a_time_and_a_module(capsys: Capture, tiny_data: Path, tiny_weights: Path) -> None:
    evaluate = ("evaluate", "--data", tiny_data, "--weights", tiny_weights, "--device", "cpu", "--verbose")
    lines = printed(capsys, *evaluate)
    assert any(line.split()[1:3] == ["ms", "detector.evaluating.evaluate:"] for line in lines)
    assert "detector.cli.program: evaluate: " in lines[-1]


def test_quiet_and_verbose_exclude_each_other(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["summary", "--quiet", "--verbose"])
    assert "not allowed with argument --quiet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "--data 'my images'",
        "--data a --split trainval --set lr=0.1 --set 'input_size=[64, 96]' --model pico --imgsz 96 --epochs 0.25",
        "--data a --config c.yaml --minutes 1e-3 --val-fraction 0 --seed 0 --batch 4 --allow-outside --max-pixels 9",
    ],
)
def test_next_command_of_check_has_the_same_settings(arguments: str) -> None:
    check = make_parser().parse_args(["check", *shlex.split(arguments), "--out", "x", "--json", "y"])
    train = make_parser().parse_args(["train", *shlex.split(given_flags(check, TRAINING_FLAGS))])
    assert train == make_parser().parse_args(["train", *shlex.split(arguments)])
    assert set(TRAINING_FLAGS) == (vars(check).keys() & vars(train).keys()) - OWN_FLAGS


def test_detect_without_detections_names_the_threshold(
    capsys: Capture, tiny_data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    image = tiny_data / "images" / "1.png"
    out = ["--out", str(tmp_path / "found"), "--device", "cpu"]
    lines = printed(capsys, "detect", image, "--weights", tiny_weights, "--conf", "0.999", *out)
    assert lines[-1].startswith("no score was above 0.999; to see less certain detections too: --conf 0.05; ")


def test_unexpected_error_is_one_message_without_traceback(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tiny_weights: Path
) -> None:
    def broken(*arguments: object) -> None:
        raise TypeError("a\x1b[2J")

    monkeypatch.setattr("numpy.concatenate", broken)
    monkeypatch.setattr("numpy.stack", broken)
    evaluate = ["evaluate", "--data", str(tiny_data), "--weights", str(tiny_weights), "--device", "cpu"]
    assert main(evaluate) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: unexpected TypeError in cli/program.py:")
    assert "a\\x1b[2J" in errors
    assert "Traceback" not in errors
    assert main([*evaluate, "--verbose"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
