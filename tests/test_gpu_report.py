"""`tools/gpu_report.py` measures each part, also on a CPU, and refuses a device that is not there."""

import runpy
from pathlib import Path

import pytest
import torch

REPORT = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "gpu_report.py"))
QUICK = ["--quick", "--sizes", "pico", "--input-size", "64", "--no-compile"]


def test_report_has_a_row_for_each_measurement(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    sizes = ["--batches", "1", "2", "--detection-batches", "1"]
    arguments = ["--device", "cpu", "--data", str(tiny_data), "--out", str(out), *QUICK, *sizes]
    assert REPORT["main"](arguments) == 0
    text = out.read_text()
    assert text.count("\n## ") == 3  # machine, training and detection; no AP to reach was given
    for row in ("| pico | 1 | as it is |", "| pico | 2 | with the data loader |", "| pico | 1 | torch, bf16 |"):
        assert row in text


def test_time_to_an_ap_stops_at_the_first_run_that_reaches_it(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    runs = ["--only", "target", "--target", "0", "--minutes", "0.05", "1"]
    settings = ["--quick", "--set", "model=pico", "--set", "input_size=64"]
    assert REPORT["main"](["--device", "cpu", "--data", str(tiny_data), "--out", str(out), *runs, *settings]) == 0
    assert out.read_text().count("| yes |") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert REPORT["main"](["--out", str(tmp_path / "report.md"), *QUICK]) == 2
    assert "'cuda' is not available here" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()
