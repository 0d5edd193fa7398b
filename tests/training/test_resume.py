"""Resuming: an interrupted run continues bit-exactly, changes are reported, damaged checkpoints are not used."""

import hashlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector.config import Config
from detector.errors import ConfigError, FileError
from detector.graceful_shutdown import GracefulShutdown
from detector.loader.batch import Batch
from detector.loss.terms import LossTerms
from detector.model.checkpoint import load_weights
from detector.training.run_folder import RunFolder
from detector.training.run_state import read_state
from detector.training.train import make_request, resume, resume_run, start_run, train
from detector.training.trainer import Trainer

STEPS, EVALUATIONS = 30, 5

OPTIMIZERS = ["muon", "adamw", "rmsprop", "momentum", "sgd"]


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=STEPS, evaluations=EVALUATIONS)


def fingerprint(folder: Path) -> dict[str, str]:
    """Return hashes of all results of a run: weights, EMA, state of the optimizer, evaluations."""
    state = read_state(folder / "state")
    assert state is not None
    progress, tensors = state
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    for name in ("best", "last"):
        network, _ = load_weights(folder / "weights" / f"{name}.safetensors")
        for key, tensor in network.state_dict().items():
            hashes[f"{name}.{key}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    return hashes | {"results": (folder / "results.csv").read_text(), "step": str(progress.step)}


def remove_checkpoints(folder: Path, after: int) -> None:
    """Turn a finished run into one that was killed after its evaluation at step `after`."""
    for path in (folder / "state").iterdir():
        if int(path.name.split("-")[0]) > after:
            path.unlink()


def keep_all_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.training.run_state._KEPT", 99)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_from_any_checkpoint_is_bit_exact(
    optimizer: str, tiny_data: Path, short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_all_states(monkeypatch)
    config = replace(short, optimizer=optimizer, dropout=0.2, patience=4)  # type: ignore[arg-type]
    train(tiny_data, config, out=tmp_path / "complete")
    expected = fingerprint(tmp_path / "complete")
    for after in (6, 18, 24):
        shutil.copytree(tmp_path / "complete", tmp_path / str(after))
        remove_checkpoints(tmp_path / str(after), after)
        torch.manual_seed(after)  # must have no effect
        result = resume(tmp_path / str(after))
        assert result.steps == STEPS
        assert fingerprint(tmp_path / str(after)) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_number_of_loader_threads_has_no_effect(workers: int, tiny_data: Path, short: Config, tmp_path: Path) -> None:
    train(tiny_data, short, out=tmp_path / "one")
    train(tiny_data, replace(short, workers=workers), out=tmp_path / "other")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "other")


class FakeClock:
    """A clock that stands still, except that each training step takes a number of seconds.

    Args:
        seconds: duration of a step.
        slow_from: index of the step from which steps take twice as long.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, slow_from: float) -> None:
        self._now = 0.0
        step = getattr(Trainer.step, "without_clock", Trainer.step)

        def timed_step(trainer: Trainer, index: int, steps: float, batch: Batch) -> LossTerms:
            self._now += seconds * (2 if index >= slow_from else 1)
            return step(trainer, index, steps, batch)

        timed_step.without_clock = step  # type: ignore[attr-defined]
        monkeypatch.setattr(Trainer, "step", timed_step)
        monkeypatch.setattr("detector.training.run.time", self)

    def monotonic(self) -> float:
        return self._now


def planned(folder: Path) -> list[tuple[int, int]]:
    """Return the changes of the plan in the latest checkpoint, which must be those in config.json."""
    state = read_state(folder / "state")
    assert state is not None
    changes = list(state[0].plan.changes)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["plan_changes"] == [list(change) for change in changes]
    assert settings["steps"] == state[0].steps
    return changes


def test_changed_plan_is_kept_when_the_run_is_resumed(
    tiny_data: Path, short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep_all_states(monkeypatch)
    caplog.set_level(logging.INFO)
    config = replace(short, steps=None, minutes=0.1, evaluations=3, dropout=0.2, qat_start=0.7, mosaic_from=0.0)
    request = make_request(tiny_data, config, split=None, weights=None, reuse_backbone=False)
    FakeClock(monkeypatch, 0.05, slow_from=30)
    result = start_run(request, tmp_path / "complete", 0.0)
    changes = planned(tmp_path / "complete")
    assert len(changes) > 1
    assert result.steps == changes[-1][1] < changes[0][1]
    assert f"the run now has {changes[1][1]} steps instead of {changes[0][1]}, because it would take" in caplog.text
    assert "to repeat this run: --set" not in caplog.text
    assert f"during the run; a run as long: --set steps={changes[-1][1]} instead of --minutes" in caplog.text
    evaluated = [int(line.split(",")[0]) for line in (tmp_path / "complete/results.csv").read_text().splitlines()[1:]]
    assert len(set(evaluated)) == len(evaluated) == 3
    assert evaluated[-1] == result.steps
    expected = fingerprint(tmp_path / "complete")
    shutil.copytree(tmp_path / "complete", tmp_path / "resumed")
    remove_checkpoints(tmp_path / "resumed", changes[-1][0])
    FakeClock(monkeypatch, 0.05, slow_from=30)
    resume_run(tmp_path / "resumed", False, 0.0)
    assert fingerprint(tmp_path / "resumed") == expected
    assert planned(tmp_path / "resumed") == changes


def test_resumed_run_plans_again_only_after_its_checkpoint(
    tiny_data: Path, short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_all_states(monkeypatch)
    config = replace(short, steps=None, minutes=0.1, evaluations=3)
    request = make_request(tiny_data, config, split=None, weights=None, reuse_backbone=False)
    FakeClock(monkeypatch, 0.05, slow_from=30)
    start_run(request, tmp_path, 0.0)
    changes = planned(tmp_path)
    remove_checkpoints(tmp_path, changes[1][0])  # at the first change
    FakeClock(monkeypatch, 0.05, slow_from=math.inf)
    result = resume_run(tmp_path, False, 0.0)
    resumed = planned(tmp_path)
    assert resumed[:2] == changes[:2]
    assert result.steps == resumed[-1][1] > changes[-1][1]  # the machine is faster now


def test_run_without_checkpoint_starts_from_the_beginning(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    train(tiny_data, short, out=tmp_path / "complete")
    shutil.copytree(tmp_path / "complete", tmp_path / "interrupted")
    for name in ("state", "weights"):
        shutil.rmtree(tmp_path / "interrupted" / name)
    resume(tmp_path / "interrupted")
    assert fingerprint(tmp_path / "interrupted") == fingerprint(tmp_path / "complete")


@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "empty"])
def test_damaged_checkpoint_is_detected_and_the_previous_used(
    damage: str, tiny_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_data, short, out=tmp_path / "complete")
    shutil.copytree(tmp_path / "complete", tmp_path / "damaged")
    last = sorted((tmp_path / "damaged" / "state").iterdir())[-1]
    data = bytearray(last.read_bytes())
    half = len(data) // 2
    data[half] ^= 1
    last.write_bytes({"truncated": bytes(data[:half]), "one bit flipped": bytes(data), "empty": b""}[damage])
    resume(tmp_path / "damaged")
    assert f"{last}: the checkpoint is damaged" in caplog.text
    assert "using the checkpoint before it" in caplog.text
    assert fingerprint(tmp_path / "damaged") == fingerprint(tmp_path / "complete")


def test_finished_run_cannot_be_resumed(tiny_run: Path) -> None:
    message = r"this run is finished after 80 steps; .* to train longer(.|\n)* --weights \S*/weights/last\.safetensors"
    with pytest.raises(FileError, match=message + " --set steps=80"):
        resume(tiny_run)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(FileError, match="no such folder; give the output folder of a run"):
            resume(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"no run to resume, because run\.json is missing"):
        resume(tmp_path / "empty")


def test_changed_environment_is_reported_with_its_effect(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    train(tiny_data, short, out=tmp_path)
    remove_checkpoints(tmp_path, 24)
    torch.set_num_threads(2)
    try:
        message = r"(?s)because:\n  threads: 1 before, 2 now: sums are added.*--resume-anyway"
        with pytest.raises(ConfigError, match=message):
            resume(tmp_path)
        assert resume(tmp_path, anyway=True).steps == STEPS
    finally:
        torch.set_num_threads(1)


def test_folder_in_use_is_refused(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    from detector.training.run_folder import RunFolder

    folder = RunFolder(tmp_path)
    with pytest.raises(FileError, match="another process is training in this folder"):
        train(tiny_data, short, out=tmp_path)
    folder.close()
    train(tiny_data, replace(short, steps=2), out=tmp_path)


def test_failed_resume_releases_the_lock(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    train(tiny_data, short, out=tmp_path)
    for _ in range(2):
        with pytest.raises(FileError, match="this run is finished"):
            resume(tmp_path)


def start(tiny_data: Path, folder: Path) -> "subprocess.Popen[bytes]":
    flags = ["--model", "pico", "--batch", "4", "--device", "cpu"]
    settings = (f"steps={STEPS}", f"evaluations={EVALUATIONS}", "input_size=[64, 96]", "precision=fp32", "copy_paste=0")
    command = [sys.executable, "-m", "detector", "train", "--data", str(tiny_data), "--out", str(folder), *flags]
    command += [argument for setting in settings for argument in ("--set", setting)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} was not written in 30 s")


@pytest.mark.posix
@pytest.mark.parametrize(("number", "status"), [("SIGKILL", -9), ("SIGTERM", 130), ("SIGINT", 130)])
def test_killed_or_stopped_run_resumes_bit_exactly(
    number: str, status: int, tiny_data: Path, short: Config, tmp_path: Path
) -> None:
    train(tiny_data, short, out=tmp_path / "complete")
    for attempt in range(5):
        run = tmp_path / str(attempt)
        process = start(tiny_data, run)
        wait_for(run / "results.csv")
        process.send_signal(signal.Signals[number])
        process.communicate(timeout=60)
        if process.returncode != 0:  # otherwise the run was finished before the signal: try again
            break
    assert process.returncode == status
    resume(run)
    assert fingerprint(run) == fingerprint(tmp_path / "complete")


def test_second_signal_raises_keyboard_interrupt() -> None:
    with GracefulShutdown() as shutdown:
        assert not shutdown.requested
        signal.raise_signal(signal.SIGTERM)
        assert shutdown.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_are_unchanged_in_other_threads() -> None:
    handlers: list[object] = []

    def enter() -> None:
        with GracefulShutdown():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write to any folder")
def test_folder_without_write_permission_is_refused(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="cannot be created"):
        train(tiny_data, short, out=tmp_path / "run")


def test_full_disk_is_reported_and_the_last_checkpoint_kept(
    tiny_data: Path, short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_data, short, out=tmp_path / "complete")
    calls = 0
    fsync = os.fsync

    def fail_after_40_calls(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail_after_40_calls)
    with pytest.raises(FileError, match=r"cannot be written \(No space left on device\)"):
        train(tiny_data, short, out=tmp_path / "run")
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part*"))
    resume(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "complete")


def test_weights_cut_off_by_a_kill_are_removed(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, info = load_weights(tiny_weights)
    run, killed, flush = tmp_path / "run", tmp_path / "killed", os.fsync

    def flush_and_copy(handle: int) -> None:
        flush(handle)
        if not killed.exists():
            shutil.copytree(run, killed)  # what a kill would leave

    folder = RunFolder(run)
    folder.write_json("run.json", {})
    monkeypatch.setattr(os, "fsync", flush_and_copy)
    folder.save(network, info, float16=False)
    monkeypatch.undo()
    folder.close()
    assert list((killed / "weights").glob("*.part*"))
    resumed = RunFolder(killed, resume=True)
    resumed.write_json("ledger.json", {})
    resumed.close()
    assert not list(killed.rglob("*.part*"))
