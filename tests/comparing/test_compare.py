import csv
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.comparing.compare import compare, describe_base
from detector.comparing.table import Row, Run, add_run
from detector.comparing.variations import BASE_LINE
from detector.config import Config, override
from detector.errors import InputError

DIVERGES = "optimizer=sgd lr=1e30 clip_norm=1e30"
WORDS = ["flip=0", DIVERGES]

BASE = Config(model="pico", input_size=(64, 96), steps=3, batch=4, precision="fp32", device="cpu")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "compare.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def earlier(data: Path, settings: str, ap: float) -> Run:
    """A run of BASE done before, with an AP that no real run has."""
    return Run(str(data), describe_base(replace(BASE, evaluations=1)), 1, settings, 0, 3, ap, ap, 1.0, 1.0, 300.0, "")


@pytest.fixture(scope="module")
def comparison(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A comparison of three settings, the base line of which was done before: its folder and rows."""
    out = tmp_path_factory.mktemp("compare")
    add_run(out / "compare.csv", earlier(tiny_data, BASE_LINE, 0.875))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return out, compare(tiny_data, WORDS, BASE, out, seeds=1, jobs=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_comparison_that_is_stopped_leaves_no_run_behind(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen.__init__

    def remember(process: subprocess.Popen[bytes], *words: Any, **more: Any) -> None:
        start(process, *words, **more)
        started.append(process)

    monkeypatch.setattr(subprocess.Popen, "__init__", remember)
    monkeypatch.setattr("time.sleep", lambda seconds: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        compare(tiny_data, WORDS, BASE, tmp_path, seeds=1)
    assert [process.poll() is None for process in started] == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_what_is_not_in_the_file_yet_is_run(comparison: tuple[Path, list[Row]]) -> None:
    out, rows = comparison
    assert {line["settings"]: line["AP"] for line in lines(out)}[BASE_LINE] == "0.875"
    assert sorted(line["settings"] for line in lines(out)) == sorted([BASE_LINE, *WORDS])
    assert len(list((out / "runs").iterdir())) == 2
    assert [row.variation.name for row in rows] == [BASE_LINE, *WORDS]
    assert rows[0].AP == 0.875


def test_a_run_that_ends_well_leaves_its_last_ap_its_costs_and_no_weights(comparison: tuple[Path, list[Row]]) -> None:
    out, rows = comparison
    (line,) = [line for line in lines(out) if line["settings"] == "flip=0"]
    (folder,) = (out / "runs").glob("flip=0-*-seed0")
    with (folder / "results.csv").open(newline="") as file:
        (result,) = csv.DictReader(file)
    assert (float(line["AP"]), float(line["AP50"])) == (float(result["AP"]), float(result["AP50"]))
    assert (line["steps"], line["threads"], line["seed"], line["error"]) == ("3", "1", "0", "")
    assert 0 < float(line["cpu_seconds"]) < 60
    assert 0 < float(line["wall_seconds"]) < 60
    assert 100 < float(line["peak_mb"]) < 3000
    assert rows[1].difference == pytest.approx(float(result["AP"]) - 0.875)
    left = ["config.json", "ledger.json", "log.txt", "results.csv", "run.json", "timing.csv"]
    assert sorted(path.name for path in folder.iterdir()) == left


def test_a_run_that_fails_is_recorded_with_its_reason_and_stops_no_other(comparison: tuple[Path, list[Row]]) -> None:
    out, rows = comparison
    (line,) = [line for line in lines(out) if line["settings"] == DIVERGES]
    assert (line["AP"], line["steps"]) == ("nan", "0")
    assert line["error"].startswith("the loss is not finite at step")
    assert rows[2].verdict.startswith("1 of 1 failed: the loss is not finite at step")
    assert rows[2].verdict in (out / "compare.md").read_text()


def test_a_finished_comparison_is_not_run_again(comparison: tuple[Path, list[Row]], tiny_data: Path) -> None:
    out, rows = comparison
    before = (out / "compare.csv").read_bytes()
    again = compare(tiny_data, WORDS, BASE, out, seeds=1)
    assert (out / "compare.csv").read_bytes() == before
    assert [row.verdict for row in again] == [row.verdict for row in rows]


@pytest.mark.parametrize("change", ["steps=4", "first_input_size=1"])
def test_other_base_settings_are_refused_and_nothing_is_run(
    comparison: tuple[Path, list[Row]], tiny_data: Path, change: str
) -> None:
    out, _ = comparison
    before = (out / "compare.csv").read_bytes()
    key = change.split("=")[0]
    with pytest.raises(InputError, match=rf"compare\.csv:2: base was .*is now '.* {key}=.*another --out"):
        compare(tiny_data, [*WORDS, "ema=0"], override(BASE, [change]), out, seeds=1)
    assert (out / "compare.csv").read_bytes() == before


def test_another_number_of_threads_is_refused(
    comparison: tuple[Path, list[Row]], tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.raises(InputError, match="threads was '1' and is now '7'"):
        compare(tiny_data, WORDS, BASE, comparison[0], seeds=1)


def test_data_without_a_val_split_cannot_be_compared_on(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a split named val"):
        compare(tiny_data / "train.json", WORDS, BASE, tmp_path)


def test_runs_use_the_pixel_limit_of_the_settings(tiny_data: Path, tmp_path: Path) -> None:
    compare(tiny_data, ["flip=0"], replace(BASE, max_pixels=10), tmp_path, seeds=1, jobs=2)
    assert all("more than 10" in line["error"] for line in lines(tmp_path))


@pytest.mark.parametrize("count", ["seeds", "trials", "jobs"])
def test_counts_below_one_are_refused(tiny_data: Path, tmp_path: Path, count: str) -> None:
    with pytest.raises(InputError, match=f"{count}: must be at least 1, got 0"):
        compare(tiny_data, WORDS, BASE, tmp_path, **{count: 0})  # type: ignore[arg-type]


def test_a_place_that_cannot_be_written_to_is_named(tiny_data: Path) -> None:
    with pytest.raises(InputError, match=r"train\.json: cannot be made"):
        compare(tiny_data, WORDS, BASE, tiny_data / "train.json")


def test_the_base_is_told_apart_by_every_setting_but_the_seed() -> None:
    assert describe_base(replace(BASE, seed=5)) == describe_base(BASE)
    others = (BASE, replace(BASE, input_size=(64, 64)), replace(BASE, save_float16=True))
    assert len({describe_base(config) for config in others}) == 3
    assert describe_base(BASE).endswith("model=pico input_size=[64, 96] steps=3 batch=4 precision=fp32 device=cpu")
