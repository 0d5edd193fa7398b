"""Loggers that fail, hang or are missing: the run ends as without them, and says what was not logged.

The trackers here are stand-ins for packages that are not installed; test_trackers.py has the real ones.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import detector
from detector import Config
from detector.cli.commands import main
from detector.errors import ConfigError, FileError, MissingPackageError
from detector.loggers import log_process
from detector.loggers.names import check_loggers
from detector.training import observers

Package = Callable[[str, str], None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Return a function that makes a package with this name and code importable, also in child processes."""

    def make(name: str, code: str) -> None:
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(folder.parent)

    return make


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=6, evaluations=2)


def test_missing_package_is_an_error_before_training(
    tiny_data: Path, short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr("sys.path_importer_cache", {})
    (tmp_path / "wandb").mkdir()  # the data of wandb in the current folder are not the package
    message = r"needs the package wandb, .*: pip install 'grid-detector\[wandb\]'"
    with pytest.raises(MissingPackageError, match=message):
        detector.train(tiny_data, short, weights=None, out=tmp_path / "run", loggers=["wandb"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tensorbord"], "there is no logger 'tensorbord'; did you mean 'tensorboard'?"),
        (["comet"], "there is no logger 'comet'; known: tensorboard, mlflow, wandb"),
        ("wandb", "expected a list of names"),
    ],
)
def test_unknown_loggers_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_loggers(names)
    assert message in str(caught.value)


def test_command_line_checks_loggers_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "scenes", "--out", str(tmp_path / "run"), "--log", "tensorboard", "comet"]) == 2
    assert "loggers: there is no logger 'comet'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_loggers_are_used_once_each(package: Package) -> None:
    package("mlflow", "")
    package("wandb", "")
    assert check_loggers(["wandb", "mlflow", "wandb"]) == ("mlflow", "wandb")
    assert check_loggers([]) == ()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise OSError('the server\\nrefuses')", "OSError: the server refuses"),
        ("import os, sys; print('it crashed', file=sys.stderr); sys.stderr.flush(); os._exit(3)", "it crashed"),
        ("print('noise', flush=True); input()", "EOFError"),  # no question waits for an answer
    ],
    ids=["error", "crash", "question"],
)
def test_failing_logger_does_not_change_the_run(
    code: str,
    reason: str,
    package: Package,
    tiny_data: Path,
    short: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    package("mlflow", code)
    detector.train(tiny_data, short, weights=None, out=tmp_path / "without")
    with caplog.at_level(logging.INFO):
        result = detector.train(tiny_data, short, weights=None, out=tmp_path / "with", loggers=["mlflow"])
    warnings = [r.getMessage() for r in caplog.records if r.name == log_process.__name__ and r.levelno > logging.INFO]
    assert reason in warnings[-1]
    lost = "6 of 6 steps, 2 of 2 evaluations, the end of the run and 1 file"
    assert warnings[-1].startswith(f"mlflow: not logged: {lost} (")
    assert warnings[-1].endswith(f"the files in {result.folder.resolve()} are complete")
    assert (tmp_path / "with" / "results.csv").read_text() == (tmp_path / "without" / "results.csv").read_text()
    tensors = [load_file(tmp_path / name / "weights" / "last.safetensors") for name in ("with", "without")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def test_hanging_logger_does_not_hold_up_the_end(
    package: Package,
    tiny_data: Path,
    short: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mark = tmp_path / "alive"
    package(
        "wandb",
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n",
    )
    monkeypatch.setattr(log_process, "IDLE_SECONDS", 3.0)
    start = time.monotonic()
    result = detector.train(tiny_data, short, weights=None, out=tmp_path / "run", loggers=["wandb"])
    assert time.monotonic() - start < 120
    assert result.steps == 6
    assert "wandb: not logged: 6 of 6 steps, 2 of 2 evaluations, the end of the run and 1 file" in caplog.text
    assert "no answer for 3 s" in caplog.text
    if Path("/proc").is_dir():  # the children of the logger have ended too
        status = Path(f"/proc/{mark.read_text()}/stat")
        deadline = time.monotonic() + 10
        while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not status.exists() or status.read_text().split()[2] == "Z"


def test_full_queue_drops_messages_and_says_so(
    package: Package,
    tiny_data: Path,
    short: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    package("mlflow", "import time; time.sleep(600)")
    monkeypatch.setattr(log_process, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(log_process, "_MOST_WAITING", 2)
    detector.train(tiny_data, short, weights=None, out=tmp_path / "run", loggers=["mlflow"])
    assert "mlflow: not logged: 6 of 6 steps, 2 of 2 evaluations" in caplog.text


def test_resumed_run_has_the_loggers_of_before(
    package: Package, tiny_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package("mlflow", "raise OSError('no server')")

    def stop(event: detector.TrainingStep) -> None:
        if event.step == 4:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        detector.train(tiny_data, short, weights=None, out=out, loggers=["mlflow"], on_step=stop)
    before = json.loads((out / "loggers.json").read_text())
    assert before["loggers"] == ["mlflow"]
    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        detector.resume(out, on_step=stop)
    assert "mlflow: cannot log (OSError: no server); the training continues" in caplog.text
    assert json.loads((out / "loggers.json").read_text()) == before
    caplog.clear()
    detector.resume(out, loggers=[])
    assert "mlflow" not in caplog.text
    assert json.loads((out / "loggers.json").read_text()) == {**before, "loggers": []}


def test_damaged_file_with_loggers_is_an_error(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    def stop(event: detector.TrainingStep) -> None:
        if event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.train(tiny_data, short, weights=None, out=tmp_path / "run", on_step=stop)
    (tmp_path / "run" / "loggers.json").write_text('{"run_id": "../x", "loggers": ["mlflow"]}')
    with pytest.raises(FileError, match=r"loggers\.json"):
        detector.resume(tmp_path / "run")


def test_names_of_class_metrics_are_valid_and_different() -> None:
    names = ["a/b", "a:b", "", "..", "細胞", "x" * 300, "x" * 301]
    found = observers.metric_names(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    assert found["細胞"] == "細胞"
    assert not any(set(name) & set("/:\\#") for name in found.values())
    assert max(map(len, found.values())) < 110
