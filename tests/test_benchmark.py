"""`tools/benchmark.py` measures each part, compares two commands, and checks its arguments."""

import json
import os
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

TOOL = Path(__file__).parents[1] / "tools" / "benchmark.py"
BENCHMARK = runpy.run_path(str(TOOL))


def test_flops_are_twice_the_multiply_adds_of_convolutions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2))
    # Both convolutions have an output of 5 x 4 positions. The first has 4 channels of 3 x 3 x 3 products, the second
    # has 6 channels of 2 products.
    expected = 2 * (5 * 4) * (4 * 27 + 6 * 2)
    assert BENCHMARK["conv_flops"](network, torch.zeros(1, 3, 10, 8)) == expected
    assert BENCHMARK["conv_flops"](network, torch.zeros(7, 3, 10, 8)) == 7 * expected


def test_script_prints_and_writes_the_rows_of_a_part(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--quick", "--only", "nms", "--json", "results.json"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=one_thread, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| what | median | spread (min–max) | unit |\n| --- | --- | --- | --- |\n| **nms** |")
    for count in ("1,000", "10,000", "30,000"):
        assert f"| {count} candidates" in done.stdout
    rows = json.loads((tmp_path / "results.json").read_text())["nms"]
    assert len(rows) == done.stdout.count("\n") - 3
    assert all(row["low"] <= row["median"] <= row["high"] for row in rows if row["median"] != "not installed")


def test_loader_is_measured_with_and_without_mosaics(tiny_data: Path) -> None:
    rows = BENCHMARK["loader"](Namespace(data=str(tiny_data), repeats=2))
    assert [row.what.rpartition(", ")[2] for row in rows] == ["no mosaic", "half of them mosaics"]
    assert all(row.unit == "img/s" and row.median > 0 for row in rows)


def test_overhead_of_the_evaluation_fits_both_times(tiny_data: Path) -> None:
    own, alone, overhead, _ = BENCHMARK["evaluation"](Namespace(data=str(tiny_data), repeats=1))
    assert overhead.median == pytest.approx((own.median / alone.median - 1) * 100)


def test_two_commands_are_timed_alternately(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    arguments = ["--command", f"echo A >> {log}", "--against", f"echo B >> {log}", "--repeats", "2"]
    assert BENCHMARK["main"](arguments) == 0
    assert log.read_text().split() == ["A", "B"] * 3
    assert "| ratio of medians, first / second |" in capsys.readouterr().out


def test_command_that_fails_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert BENCHMARK["main"](["--command", "exit 3", "--against", "exit 0"]) == 2
    assert "`exit 3` failed with exit status 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "loader,nmss"], "unknown part 'nmss'; did you mean 'nms'?"),
        (["--command", "true"], "--against and --command must be used together"),
        (["--repeats", "0"], "--repeats must be from 1 to 500"),
        (["--threads", "0"], "must be at least 1"),
        (["--json", "missing/results.json"], "no such folder"),
    ],
)
def test_invalid_arguments_are_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        BENCHMARK["main"](arguments)
    assert message in capsys.readouterr().err
