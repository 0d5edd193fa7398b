"""Searches by one and by several processes. They need the extra tune: `tools/test_extra.sh tune`."""

import csv
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import detector
from detector.config import Config, read_config
from detector.errors import ConfigError, FileError, InputError, MissingPackageError
from detector.tuning.report import TuneResult
from detector.tuning.storage import Storage, quiet_optuna
from detector.tuning.study import Study
from detector.tuning.tune import _check, tune

REASON = "needs the extra tune: tools/test_extra.sh tune"
HAS_OPTUNA = find_spec("optuna") is not None
needs_optuna = pytest.mark.skipif(not HAS_OPTUNA, reason=REASON)

BASE = Config(
    model="pico", input_size=(64, 96), steps=40, batch=4, lr=1e-6, lr_adamw=1e-6, precision="fp32", device="cpu"
)
"""Settings that learn nothing, so that every trial with a learning rate of VARY is better."""

VARY = ["lr=log:0.03..0.1", "lr_adamw=log:0.002..0.006"]

SHORT = ["--set", "model=pico", "--set", "input_size=[64, 96]", "--set", "batch=4", "--set", "precision=fp32"]
SHORT += ["--vary", "flip=0..1", "--minutes-total", "1000", "--seeds", "2", "--weights", "none"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def read_table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- without optuna


def test_missing_optuna_is_an_error_with_the_command(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackageError, match=r"needs the package optuna.*pip install 'grid-detector\[tune\]'"):
        detector.tune(tiny_data, minutes_total=10, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("base", "minutes", "seeds", "trials", "message"),
    [
        (Config(minutes=1), 10, 5, None, "minutes: leave it out"),
        (Config(patience=2), 10, 5, None, "patience: leave it out"),
        (Config(), 0, 5, None, "minutes_total: must be above 0"),
        (Config(), float("inf"), 5, None, "minutes_total: must be above 0"),
        (Config(), 10, 1, None, "seeds: must be at least 2"),
        (Config(), 10, 5, 0, "trials: must be at least 1"),
    ],
)
def test_invalid_arguments_are_refused(
    base: Config, minutes: float, seeds: int, trials: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _check(base, minutes, seeds, trials)


# --- storages


def text_file(path: Path) -> None:
    path.write_text("mine")


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


@needs_optuna
@pytest.mark.parametrize(
    ("place", "make", "message"),
    [
        ("{}/x.db", text_file, "is not a journal of a study"),
        ("sqlite:///{}/x.db", text_file, "cannot be read as a SQLite file"),
        ("sqlite:///{}/x.db", other_database, "is a database of another program"),
    ],
)
def test_files_of_other_programs_are_refused_and_unchanged(
    tmp_path: Path, place: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "x.db")
    before = (tmp_path / "x.db").read_bytes()
    with pytest.raises(FileError, match=message):
        Storage(place.format(tmp_path))
    assert (tmp_path / "x.db").read_bytes() == before


@needs_optuna
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sqlite://", "expected the path of a file"),
        ("nonsense://x", "cannot be used"),
        ("s3:/bucket/x", "this is a URL"),
        ("postgresql+nonsense://user:secret@host/x", "cannot be used"),
    ],
)
def test_unusable_storages_are_refused(place: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Storage(place)
    assert "secret" not in str(caught.value)


@needs_optuna
def test_study_of_another_program_is_refused(tmp_path: Path) -> None:
    import optuna

    storage = Storage(f"sqlite:///{tmp_path}/x.db")
    study = optuna.create_study(storage=storage.backend, study_name="mine")
    study.ask()
    with pytest.raises(FileError, match="the study mine was made by another program"):
        Study(storage, "mine", "worker", 0).load()


@needs_optuna
@pytest.mark.parametrize("place", ["sqlite:///{}/x.db", "{}/x.journal"])
def test_a_killed_worker_gives_back_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr("detector.tuning.study.DEAD_SECONDS", 0.2)
    workers = [Study(Storage(place.format(tmp_path)), "s", name, 0) for name in ("one", "two")]
    one, two = workers
    one.create({"a": 1}, {"defaults": {}}, {})
    assert two.load() == {"a": 1}
    taken = one.take((), search=True)
    assert taken is not None
    assert taken.kind == "defaults"
    for _ in range(4):  # the worker lives
        one.beat(1.0)
        assert two.give_back_dead() == []
        time.sleep(0.1)
    time.sleep(0.3)
    assert two.give_back_dead() == [0]
    assert two.give_back_dead() == []
    assert [(own.state, own.kind) for own in two.trials()] == [("failed", "defaults"), ("waiting", "defaults")]
    again = two.take((), search=False)
    assert again is not None
    assert (again.number, again.attributes["attempt"], again.attributes["repeats"]) == (1, 2, 0)
    two.end("complete", 0.5)
    assert two.take((), search=False) is None


@needs_optuna
def test_final_comparison_is_planned_once(tmp_path: Path) -> None:
    workers = [Study(Storage(f"sqlite:///{tmp_path}/x.db"), "s", name, 0) for name in ("one", "two")]
    workers[0].create({"a": 1}, {"defaults": {}}, {})
    workers[1].load()
    for worker in workers:
        worker.plan_final(7, ["lr=0.1"], [1, 2])
    runs = [(own.attributes["side"], own.attributes["seed"]) for own in workers[1].trials() if own.kind == "final"]
    assert runs == [("defaults", 1), ("best", 1), ("defaults", 2), ("best", 2)]


# --- complete searches


@pytest.fixture(scope="module")
def search(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """A search with two trials, whose best settings are better than the defaults."""
    if not HAS_OPTUNA:
        pytest.skip(REASON)
    out = tmp_path_factory.mktemp("tune") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return tune(tiny_data, BASE, minutes_total=1000, vary=VARY, out=out, seeds=3, trials=2, weights=None)


def test_better_settings_are_written_and_can_be_used(search: TuneResult) -> None:
    assert search.is_better
    assert search.verdict.startswith("better by ")
    config = read_config(search.folder / "best.yaml")
    assert config == search.best
    assert (config.steps, config.evaluations, config.model) == (None, "auto", "pico")
    assert 0.03 <= float(config.lr) <= 0.1
    assert search.verdict in (search.folder / "tune.md").read_text()


def test_final_comparison_uses_new_and_paired_seeds(search: TuneResult) -> None:
    table = read_table(search.folder)
    seeds = {kind: [row["seed"] for row in table if row["kind"] == kind] for kind in {row["kind"] for row in table}}
    assert seeds.pop("final, best") == seeds.pop("final, defaults") == ["1", "2", "3"]
    assert seeds == {"defaults": ["0"], "search": ["0", "0"]}
    assert (search.rows[1].difference.seeds, search.rows[1].difference.covers) == (3, "seeds and images")


def test_runs_leave_no_weights(search: TuneResult) -> None:
    assert not list(search.folder.rglob("*.safetensors"))
    assert len(list(search.folder.glob("runs/*/run.json"))) >= 8


def test_finished_search_does_nothing_again(search: TuneResult, tiny_data: Path) -> None:
    before = (search.folder / "trials.csv").read_bytes()
    again = tune(tiny_data, BASE, minutes_total=1000, vary=VARY, out=search.folder, seeds=3, trials=2, weights=None)
    assert again.verdict == search.verdict
    assert (search.folder / "trials.csv").read_bytes() == before


@pytest.mark.parametrize("change", ["base", "vary", "minutes", "seeds", "weights"])
def test_other_conditions_are_refused(search: TuneResult, tiny_data: Path, tiny_weights: Path, change: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "base": {"base": replace(BASE, flip=0.0)},
        "vary": {"vary": VARY[:1]},
        "minutes": {"minutes_total": 999.0},
        "seeds": {"seeds": 2},
        "weights": {"weights": tiny_weights},
    }
    arguments: dict[str, Any] = {
        "base": BASE, "minutes_total": 1000.0, "vary": VARY, "seeds": 3, "trials": 2, "weights": None
    }  # fmt: skip
    before = (search.folder / "trials.csv").read_bytes()
    with pytest.raises(FileError, match="this study was made with other conditions"):
        tune(tiny_data, out=search.folder, **(arguments | changes[change]))
    assert (search.folder / "trials.csv").read_bytes() == before


def command(data: Path, out: Path, *more: str) -> list[str]:
    """Return the command of a worker that takes others for dead after three seconds."""
    code = (
        "import sys\nfrom detector.tuning import study, tune\n"
        "study.DEAD_SECONDS, tune.BEAT_SECONDS = 3.0, 0.5\n"
        "from detector.__main__ import main\nsys.argv[0] = 'detector'\nsys.exit(main())"
    )
    return [sys.executable, "-P", "-c", code, "tune", "--data", str(data), "--out", str(out), *SHORT, *more]


def start_first_trial(folder: Path, arguments: list[str]) -> "subprocess.Popen[str]":
    """Start a worker, and return when its first trial has been evaluated for the first time."""
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while "steps per trial" not in output.read_text() or not list(folder.glob("*/runs/*/results.csv")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@needs_optuna
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("place", ["sqlite:///{}/x.db", "{}/x.journal"])
def test_trial_of_a_killed_worker_is_repeated(tiny_data: Path, tmp_path: Path, place: str) -> None:
    shared = ["--storage", place.format(tmp_path), "--trials", "1", "--steps", "30"]
    first = start_first_trial(tmp_path, command(tiny_data, tmp_path / "one", *shared))
    own = children(first.pid)
    first.kill()
    first.communicate()
    second = subprocess.run(command(tiny_data, tmp_path / "two", *shared), capture_output=True, text=True, timeout=500)
    assert second.returncode == 0, second.stderr
    assert "its worker was killed; the trial is repeated" in second.stdout
    table = read_table(tmp_path / "two")
    assert table[0]["state"] == "failed"
    assert [row["state"] for row in table if row["kind"] == "defaults"] == ["failed", "complete"]
    assert sum(row["kind"] == "search" and row["state"] == "complete" for row in table) == 1
    assert len(own) == 1
    assert not is_running(own[0])


@pytest.mark.posix
@needs_optuna
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_worker_gives_back_its_trial_and_continues(tiny_data: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    more = ["--trials", "1", "--steps", "30"]
    first = start_first_trial(tmp_path, command(tiny_data, out, *more))
    first.send_signal(number)
    _, errors = first.communicate(timeout=60)
    assert (first.returncode, errors) == (130, "interrupted\n")
    second = subprocess.run(command(tiny_data, out, *more), capture_output=True, text=True, timeout=500)
    assert second.returncode == 0, second.stderr
    assert [row["state"] for row in read_table(out) if row["kind"] == "defaults"] == ["failed", "complete"]


@needs_optuna
@pytest.mark.parametrize("place", ["sqlite:///{}/x.db", "{}/x.journal"])
def test_two_workers_share_one_search(tiny_data: Path, tmp_path: Path, place: str) -> None:
    shared = ["--storage", place.format(tmp_path), "--trials", "4", "--steps", "30"]
    workers = [
        subprocess.Popen(
            command(tiny_data, tmp_path / name, *shared), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    printed = [worker.communicate(timeout=550) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    tables = [read_table(tmp_path / name) for name in ("one", "two")]
    assert tables[0] == tables[1]
    ended = [row for row in tables[0] if row["state"] != "failed"]
    assert len({row["worker"] for row in ended}) == 2
    searched = [row["settings"] for row in ended if row["kind"] == "search"]
    assert len(set(searched)) == len(searched) in (4, 5)  # a worker may begin while the other takes the last one
    finals = [(row["kind"], row["seed"]) for row in ended if row["kind"].startswith("final")]
    assert len(finals) == len(set(finals)) in (0, 4)
    assert printed[0][0].splitlines()[-1] == printed[1][0].splitlines()[-1]


@pytest.mark.posix
@needs_optuna
def test_worker_with_other_data_stops_and_gives_back_the_trial(tiny_data: Path, tmp_path: Path) -> None:
    data, place = tmp_path / "data", f"sqlite:///{tmp_path}/x.db"
    shutil.copytree(tiny_data, data)
    shared = ["--storage", place, "--trials", "1", "--steps", "30"]
    first = start_first_trial(tmp_path, command(tiny_data, tmp_path / "one", *shared))
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    (data / "train.json").write_text((data / "val.json").read_text())
    second = subprocess.run(command(data, tmp_path / "two", *shared), capture_output=True, text=True, timeout=300)
    assert second.returncode == 2
    assert "this run has other images, labels or classes than the trials of the study before" in second.stderr
    storage = Storage(place)
    study = Study(storage, "detector", "test", 0)
    study.load()
    assert [own.state for own in study.trials()][-1] == "waiting"


@needs_optuna
def test_settings_that_cannot_train_stop_the_worker(tiny_data: Path, tmp_path: Path) -> None:
    base = replace(BASE, steps=3, optimizer="sgd", lr=1e30, clip_norm=1e30)
    with pytest.raises(ConfigError, match="the defaults cannot be trained: the loss is not finite"):
        tune(tiny_data, base, minutes_total=1000, vary=["flip=0..1"], out=tmp_path, seeds=2, trials=1, weights=None)


@needs_optuna
def test_runs_too_short_to_learn_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    base = replace(BASE, steps=None)
    with pytest.raises(ConfigError, match="a run would do only 21 steps on this machine"):
        tune(tiny_data, base, minutes_total=0.1, vary=["flip=0..1"], out=tmp_path, seeds=2, weights=None)


@needs_optuna
def test_verbosity_of_optuna_is_restored() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
