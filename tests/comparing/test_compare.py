import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.comparing.compare import compare, describe_base
from detector.comparing.processes import choose_start, failure_reason, read_result
from detector.comparing.table import ComparisonRow, RunRecord, to_csv
from detector.comparing.variations import BASELINE
from detector.config import Config, override
from detector.errors import FileError, InputError
from detector.files import LOCK_NAME, locked
from detector.manifest import MANIFEST_NAME

DIVERGES = "optimizer=sgd lr=1e30 clip_norm=1e30"
VARIATIONS = ["flip=0", DIVERGES]

BASE = Config(model="pico", input_size=(64, 96), steps=3, batch=4, precision="fp32", device="cpu")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def read_lines(out: Path) -> list[dict[str, str]]:
    with (out / "compare.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def earlier_run(data: Path, settings: str, ap: float) -> RunRecord:
    """Return the record of a run with the base settings BASE, with an AP that no real run has."""
    return RunRecord(
        data=str(data),
        base=describe_base(replace(BASE, evaluations=1)),
        threads=1,
        settings=settings,
        seed=0,
        steps=3,
        AP=ap,
        AP50=ap,
        cpu_seconds=1.0,
        wall_seconds=1.0,
        peak_mb=300.0,
        error="",
    )


@pytest.fixture(scope="module")
def comparison(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ComparisonRow]]:
    """Compare the baseline, which has a line in compare.csv already, and two variations; return the folder and rows."""
    out = tmp_path_factory.mktemp("compare")
    (out / "compare.csv").write_bytes(to_csv([earlier_run(tiny_data, BASELINE, 0.875)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return out, compare(tiny_data, VARIATIONS, BASE, out=out, seeds=1, jobs=2)


@pytest.mark.posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_comparison_leaves_no_process_running(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen.__init__

    def start_and_record(process: subprocess.Popen[bytes], *arguments: Any, **options: Any) -> None:
        start(process, *arguments, **options)
        started.append(process)

    monkeypatch.setattr(subprocess.Popen, "__init__", start_and_record)
    monkeypatch.setattr("time.sleep", lambda seconds: os.kill(os.getpid(), number))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        compare(tiny_data, VARIATIONS, BASE, out=tmp_path, seeds=1)
    assert [process.poll() is None for process in started] == [False]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_only_runs_missing_in_the_file_are_done(comparison: tuple[Path, list[ComparisonRow]]) -> None:
    out, rows = comparison
    assert {line["settings"]: line["AP"] for line in read_lines(out)}[BASELINE] == "0.875"
    assert sorted(line["settings"] for line in read_lines(out)) == sorted([BASELINE, *VARIATIONS])
    assert len(list((out / "runs").iterdir())) == 2
    assert [row.variation.name for row in rows] == [BASELINE, *VARIATIONS]
    assert rows[0].AP == 0.875


def test_finished_run_leaves_last_ap_and_costs_but_no_weights(comparison: tuple[Path, list[ComparisonRow]]) -> None:
    out, rows = comparison
    (line,) = [line for line in read_lines(out) if line["settings"] == "flip=0"]
    (folder,) = (out / "runs").glob("flip=0-*-seed0")
    with (folder / "results.csv").open(newline="") as file:
        (result,) = csv.DictReader(file)
    assert (float(line["AP"]), float(line["AP50"])) == (float(result["AP"]), float(result["AP50"]))
    assert (line["steps"], line["threads"], line["seed"], line["error"]) == ("3", "1", "0", "")
    assert 0 < float(line["cpu_seconds"]) < 600
    assert 0 < float(line["wall_seconds"]) < 600
    assert 100 < float(line["peak_mb"]) < 3000
    assert rows[1].difference.value == pytest.approx(float(result["AP"]) - 0.875)
    expected = {"config.json", "errors.txt", "ledger.json", "log.txt", "results.csv", "run.json", "split.json"}
    expected |= {"timing.csv", "val_halves.json"}
    assert {path.name for path in folder.iterdir()} - {LOCK_NAME, MANIFEST_NAME} == expected


def test_failed_run_is_recorded_and_stops_no_other(comparison: tuple[Path, list[ComparisonRow]]) -> None:
    out, rows = comparison
    (line,) = [line for line in read_lines(out) if line["settings"] == DIVERGES]
    assert (line["AP"], line["steps"]) == ("nan", "0")
    assert line["error"].startswith("the loss is not finite at step")
    assert rows[2].verdict.startswith("1 of 1 failed: the loss is not finite at step")
    assert rows[2].verdict in (out / "compare.md").read_text()


def test_intervals_cover_the_val_images_of_the_runs(tiny_data: Path, tmp_path: Path) -> None:
    # Long enough to find objects, so that AP differs between the images.
    rows = compare(tiny_data, ["lr=0.02"], replace(BASE, steps=60), out=tmp_path, seeds=2)
    lines = {(line["settings"], int(line["seed"])): float(line["AP"]) for line in read_lines(tmp_path)}
    halves = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/val_halves.json")}
    assert len(halves) == len(lines) == 4
    assert len({own["val"] for own in halves.values()}) == 1
    assert sorted(own["AP"] for own in halves.values()) == pytest.approx(sorted(lines.values()), abs=6e-5)
    assert all((own["images"], len(own["halves"])) == (4, 1000) for own in halves.values())
    assert (rows[1].difference.covers, rows[1].difference.images) == ("seeds and images", 4)
    (broken,) = tmp_path.glob("runs/lr=0.02-*-seed1/val_halves.json")
    of_another_run = halves[broken.parent.name] | {"AP": 0.9 - halves[broken.parent.name]["AP"] / 2}
    for content in ("{}", json.dumps(of_another_run)):
        broken.write_text(content)
        rows = compare(tiny_data, ["lr=0.02"], replace(BASE, steps=60), out=tmp_path, seeds=2)
        assert rows[1].difference.covers == "seeds"


def started(out: Path) -> dict[str, int]:
    """Return the name of the folder of each run → the time at which the run was started."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "runs").glob("*/run.json")}


def test_only_failed_runs_are_repeated(comparison: tuple[Path, list[ComparisonRow]], tiny_data: Path) -> None:
    out, rows = comparison
    before, lines = started(out), read_lines(out)
    again = compare(tiny_data, VARIATIONS, BASE, out=out, seeds=1)
    after = started(out)
    assert [row.failed for row in again] == [row.failed for row in rows] == [0, 0, 1]
    assert [name.split("-")[0] for name in after if after[name] != before[name]] == [
        "optimizer=sgd_lr=1e30_clip_norm=1e30"
    ]
    assert [line for line in read_lines(out) if not line["error"]] == [line for line in lines if not line["error"]]
    assert len(read_lines(out)) == len(lines)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_killed_comparison_ends_its_runs_and_can_start_again(tiny_data: Path, tmp_path: Path) -> None:
    flags = ["--set", "model=pico", "--set", "batch=4", "--set", "input_size=[64, 96]", "--seeds", "1"]
    command = [sys.executable, "-m", "detector", "compare", "--data", str(tiny_data), "--out", str(tmp_path), *flags]
    first = subprocess.Popen([*command, "--settings", "flip=0", "--set", "steps=100000"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 500
    while not list(tmp_path.glob("runs/*/run.json")):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == first.pid]
    assert len(children) == 1
    first.kill()
    first.wait()
    # The folder of the run is the same, because its name contains only the variation and the seed.
    second = subprocess.run(
        [*command, "--settings", "flip=0", "--set", "steps=3"], capture_output=True, text=True, timeout=600
    )
    assert (second.returncode, [line["error"] for line in read_lines(tmp_path)]) == (0, ["", ""]), second.stderr
    assert not is_running(children[0])


def parent_of(path: Path) -> int:
    """Return the id of the parent of the process with a folder in /proc; 0 if it has ended."""
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_second_comparison_in_the_same_folder_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with locked(tmp_path, "comparing"), pytest.raises(InputError, match="another process is comparing in this folder"):
        compare(tiny_data, VARIATIONS, BASE, out=tmp_path, seeds=1)


def test_runs_with_changed_data_are_not_mixed(tiny_data: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_data, data)
    compare(data, [], BASE, out=out, seeds=1)
    before = read_lines(out)
    labels = json.loads((data / "val.json").read_text())
    labels["annotations"].pop()
    (data / "val.json").write_text(json.dumps(labels))
    with pytest.raises(FileError, match="seed1: this run used other images, labels or classes than the earlier runs"):
        compare(data, [], BASE, out=out, seeds=2)
    assert read_lines(out) == before
    shutil.copy(tiny_data / "val.json", data)
    compare(data, [], BASE, out=out, seeds=2)
    assert [line["seed"] for line in read_lines(out)] == ["0", "1"]


def test_run_without_a_readable_result_counts_as_failed(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for text in ("", "step,AP\n", "step,AP,AP50\n3,0.5\n", "step,AP,AP50\n3,x,0.5\n", "\0"):
        path.write_text(text)
        with pytest.raises((ValueError, KeyError, IndexError, TypeError, csv.Error)):
            read_result(path)
    path.write_text("step,AP,AP50\n3,0.5,0.75\n")
    assert read_result(path) == (3, 0.5, 0.75)


@pytest.mark.parametrize("change", ["steps=4", "first_input_size=1"])
def test_other_base_settings_are_refused_before_any_run(
    comparison: tuple[Path, list[ComparisonRow]], tiny_data: Path, change: str
) -> None:
    out, _ = comparison
    before = (out / "compare.csv").read_bytes()
    key = change.split("=")[0]
    with pytest.raises(InputError, match=rf"compare\.csv:2: base was .*is now '.* {key}=.*another --out"):
        compare(tiny_data, [*VARIATIONS, "ema=0"], override(BASE, [change]), out=out, seeds=1)
    assert (out / "compare.csv").read_bytes() == before


def test_another_number_of_threads_is_refused(
    comparison: tuple[Path, list[ComparisonRow]], tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.raises(InputError, match="threads was '1' and is now '7'"):
        compare(tiny_data, VARIATIONS, BASE, out=comparison[0], seeds=1)


@pytest.mark.parametrize(
    ("weights", "variations", "expected", "message"),
    [
        ("auto", ["flip=0"], ["--weights", "everyday", "--reuse-backbone"], "initial weights of all runs: everyday"),
        ("auto", ["model=pico"], ["--weights", "none"], "random; not all settings fit the shipped weights"),
        ("auto", ["activation=swish", "flip=0"], ["--weights", "none"], "random; not all settings fit"),
        ("none", ["flip=0"], ["--weights", "none"], "initial weights of all runs: random"),
        ("cells", ["flip=0"], ["--weights", "cells"], "initial weights of all runs: cells"),
    ],
)
def test_all_runs_have_the_same_initial_weights(
    weights: str, variations: list[str], expected: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    configs = [Config(), *(override(Config(), [variation]) for variation in variations)]
    start = choose_start(weights, False, configs)
    assert start.arguments == expected
    assert message in caplog.messages[0]
    assert bool(start.description) == (expected[1] != "none")


def test_runs_from_other_initial_weights_are_not_mixed(tiny_data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "compare.csv").write_bytes(to_csv([earlier_run(tiny_data, BASELINE, 0.5)]))
    with pytest.raises(FileError, match="weights="):
        compare(tiny_data, ["flip=0"], BASE, out=tmp_path, seeds=1, weights=tiny_weights)


def test_missing_initial_weights_are_refused_before_any_run(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"missing\.safetensors: there is no such weights file"):
        compare(tiny_data, ["flip=0"], BASE, out=tmp_path, weights="missing.safetensors")


def test_data_without_a_val_split_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this dataset has no val split, only train; add a val split"):
        compare(tiny_data / "train.json", VARIATIONS, replace(BASE, val_fraction=0), out=tmp_path)


def test_runs_are_evaluated_on_the_same_held_back_images(tiny_data: Path, tmp_path: Path) -> None:
    rows = compare(tiny_data / "train.json", ["flip=0"], BASE, out=tmp_path, seeds=1, jobs=2)
    assert all(row.AP >= 0 for row in rows)
    held_back = [json.loads(path.read_text())["val"] for path in tmp_path.rglob("split.json")]
    assert len(held_back) == 2
    assert held_back[0] == held_back[1] != []
    with pytest.raises(InputError, match="with another val_fraction, AP is measured on other images"):
        compare(tiny_data / "train.json", ["val_fraction=0.3"], BASE, out=tmp_path / "other")


def test_runs_use_the_pixel_limit_of_the_settings(tiny_data: Path, tmp_path: Path) -> None:
    compare(tiny_data, ["flip=0"], replace(BASE, max_pixels=10), out=tmp_path, seeds=1, jobs=2)
    errors = [line["error"] for line in read_lines(tmp_path)]
    assert len(errors) == 2
    assert all("more than 10" in error for error in errors)


@pytest.mark.parametrize("count", ["seeds", "trials", "jobs"])
def test_counts_below_one_are_refused(tiny_data: Path, tmp_path: Path, count: str) -> None:
    with pytest.raises(InputError, match=f"{count}: must be at least 1, got 0"):
        compare(tiny_data, VARIATIONS, BASE, out=tmp_path, **{count: 0})  # type: ignore[arg-type]


def test_output_folder_that_cannot_be_created_is_named(tiny_data: Path) -> None:
    with pytest.raises(InputError, match=r"train\.json: the folder cannot be created"):
        compare(tiny_data, VARIATIONS, BASE, out=tiny_data / "train.json")


def test_base_description_depends_on_all_settings_except_the_seed() -> None:
    assert describe_base(replace(BASE, seed=5)) == describe_base(BASE)
    others = (BASE, replace(BASE, input_size=(64, 64)), replace(BASE, save_float16=True))
    assert len({describe_base(config) for config in others}) == 3
    assert describe_base(BASE).endswith(" steps=3 batch=4 precision=fp32 device=cpu input_size=[64, 96] model=pico")


@pytest.mark.parametrize(
    ("status", "errors", "reason"),
    [
        (2, "a warning\nerror: what is wrong: a\nhow to fix it\n", "what is wrong: a"),
        (2, "", "exit status 2"),
        (1, "Traceback ...\n  File x\nKeyError: 'a'\n", "KeyError: 'a'"),
        (
            1,
            "error: unexpected KeyError in a.py:3: 'a'\nThis is a bug. Please report it\n",
            "unexpected KeyError in a.py:3: 'a'",
        ),
        (1, "", "exit status 1"),
        (-9, "some warning\n", "killed by signal 9 (out of memory?)"),
        (-11, "", "killed by signal 11"),
    ],
)
def test_reason_of_a_failure_fits_on_one_line(status: int, errors: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "errors.txt").write_text(errors)
    assert failure_reason(status, tmp_path) == reason
