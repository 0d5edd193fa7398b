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


def test_the_flops_of_convolutions_are_twice_their_multiply_adds() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2))
    # Both give 5 x 4 points from 10 x 8 pixels: 4 channels of 3 x 3 x 3 products, then 6 of 2.
    by_hand = 2 * (5 * 4) * (4 * 27 + 6 * 2)
    assert BENCHMARK["conv_flops"](network, torch.zeros(1, 3, 10, 8)) == by_hand
    assert BENCHMARK["conv_flops"](network, torch.zeros(7, 3, 10, 8)) == 7 * by_hand


def test_the_script_prints_and_writes_the_rows_of_a_part(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--quick", "--only", "nms", "--json", "figures.json"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=one_thread, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| what | median | spread (min–max) | unit |\n| --- | --- | --- | --- |\n| **nms** |")
    for count in ("1,000", "10,000", "30,000"):
        assert f"| {count} candidates" in done.stdout
    rows = json.loads((tmp_path / "figures.json").read_text())["nms"]
    assert len(rows) == done.stdout.count("\n") - 3
    assert all(row["low"] <= row["median"] <= row["high"] for row in rows if row["median"] != "not installed")


def test_the_loader_is_measured_with_and_without_mosaics(tiny_data: Path) -> None:
    rows = BENCHMARK["loader"](Namespace(data=str(tiny_data), repeats=2))
    assert [row.what.rpartition(", ")[2] for row in rows] == ["no mosaic", "half of them mosaics"]
    assert all(row.unit == "img/s" and row.median > 0 for row in rows)


def test_the_overhead_of_the_evaluation_stands_beside_both_times(tiny_data: Path) -> None:
    ours, theirs, overhead, _ = BENCHMARK["evaluation"](Namespace(data=str(tiny_data), repeats=1))
    assert overhead.median == pytest.approx((ours.median / theirs.median - 1) * 100)


def test_two_commands_are_timed_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    words = ["--command", f"echo A >> {log}", "--against", f"echo B >> {log}", "--repeats", "2"]
    assert BENCHMARK["main"](words) == 0
    assert log.read_text().split() == ["A", "B"] * 3
    assert "| ratio of medians, first / second |" in capsys.readouterr().out


def test_a_command_that_fails_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert BENCHMARK["main"](["--command", "exit 3", "--against", "exit 0"]) == 2
    assert "`exit 3` ended with exit status 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "loader,nmss"], "unknown part 'nmss'; did you mean 'nms'?"),
        (["--command", "true"], "--against and --command go together"),
        (["--repeats", "0"], "--repeats must be from 1 to 500"),
        (["--threads", "0"], "must be at least 1"),
        (["--json", "missing/figures.json"], "no such folder"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        BENCHMARK["main"](words)
    assert message in capsys.readouterr().err
