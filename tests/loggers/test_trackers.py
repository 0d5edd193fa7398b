"""The real experiment trackers: TensorBoard's reader, an MLflow server on this machine, Weights & Biases offline.

The packages are not in the extra `dev`: tools/test_extra.sh loggers
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import detector
from detector import Config
from detector.loggers import log_process
from detector.loggers.names import LOGGERS, LoggerName

STEPS = 6
SECONDS = 120.0
"""Longest time that the slow start of a tracker may take on a busy machine."""


def needs(name: str) -> pytest.MarkDecorator:
    reason = f"needs the package {name}: tools/test_extra.sh loggers"
    return pytest.mark.skipif(find_spec(name) is None, reason=reason)


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=STEPS, evaluations=2)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder the current one, without settings of the user, and give the trackers time."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(log_process, "IDLE_SECONDS", SECONDS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def tcp_server() -> Iterator[tuple[int, list[socket.socket]]]:
    """Context manager with a server that accepts connections and never answers: its port, and the connections."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    accepted.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], accepted
        finally:
            stop.set()
            thread.join()
            for connection in accepted:
                connection.close()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real MLflow server on this machine, which takes long, and return its address."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.txt").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + SECONDS
        while subprocess.run([sys.executable, "-c", HEALTH, str(port)], check=False, capture_output=True).returncode:
            assert time.monotonic() < deadline, (folder / "server.txt").read_text()
            assert process.poll() is None, (folder / "server.txt").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


HEALTH = "import sys, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/health', timeout=2)"

READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
experiment = client.get_experiment_by_name("detector")
found = []
for run in client.search_runs([experiment.experiment_id]):
    def files(path=None):
        for entry in client.list_artifacts(run.info.run_id, path):
            yield from files(entry.path) if entry.is_dir else [entry.path]
    history = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
               for name in run.data.metrics}
    found.append({"name": run.info.run_name, "status": run.info.status, "params": run.data.params,
                  "tags": run.data.tags, "history": history, "files": sorted(files())})
print(json.dumps(found))
"""

READ_WANDB = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2
found = {"history": [], "config": {}, "artifacts": []}
def records(data, place=7, block=32768):  # the log format of LevelDB, after a header of 7 bytes
    parts = b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # complete, or the last part
            yield parts
            parts = b""
for data in records(open(sys.argv[1], "rb").read()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    kind = record.WhichOneof("record_type")
    if kind == "history":
        row = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
        found["history"].append(row)
    if kind == "run":
        found["id"], found["project"] = record.run.run_id, record.run.project
        updates = record.run.config.update
    elif kind == "config":
        updates = record.config.update
    else:
        updates = []
    found["config"] |= {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in updates}
    if kind == "artifact":
        found["artifacts"].append(record.artifact.name)
    if kind == "request" and record.request.HasField("log_artifact"):
        found["artifacts"].append(record.request.log_artifact.artifact.name)
print(json.dumps(found))
"""


def read(program: str, argument: str) -> Any:
    """Return what a program prints as JSON. A process of its own: this one has no network."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-W", "ignore", "-c", program, argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def train(data: Path, config: Config, out: Path, *names: LoggerName) -> None:
    detector.train(data, config, weights=None, out=out, loggers=names)


def train_in_parts(data: Path, config: Config, out: Path, *names: LoggerName) -> None:
    """Interrupt a run after step 5, when its last checkpoint is that of step 3, and resume it."""

    def interrupt(event: detector.TrainingStep) -> None:
        if event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.train(data, config, weights=None, out=out, loggers=names, on_step=interrupt)
    detector.resume(out)


def tensorboard_events(out: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    found.Reload()
    return found


def losses_of(out: Path) -> list[float]:
    """Return the mean loss of each half of the run, from results.csv."""
    lines = (out / "results.csv").read_text().splitlines()
    header = lines[0].split(",")
    rows = [dict(zip(header, map(float, line.split(",")), strict=True)) for line in lines[1:]]
    return [sum(value for name, value in row.items() if name.startswith("loss_")) for row in rows]


def check_losses(points: list[tuple[int, float]], out: Path) -> None:
    """Check that a curve has each step once, with the losses of the run."""
    assert [step for step, _ in points] == list(range(1, STEPS + 1))
    values = [value for _, value in points]
    assert [np.mean(values[:3]), np.mean(values[3:])] == pytest.approx(losses_of(out), abs=1e-3)


@needs("tensorboard")
@pytest.mark.parametrize("in_parts", [False, True])
def test_tensorboard_reads_curves_images_and_settings(
    in_parts: bool, tiny_data: Path, short: Config, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = place / "run"
    (train_in_parts if in_parts else train)(tiny_data, short, out, "tensorboard")
    assert "cannot log" not in caplog.text
    assert "not logged" not in caplog.text
    found = tensorboard_events(out)
    check_losses([(event.step, event.value) for event in found.Scalars("train/loss")], out)
    assert [event.step for event in found.Scalars("val/AP50")] == [3, 6]
    assert {"lr/muon", "lr/adamw", "train/loss_iou", "val_per_class/AP_red"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Images("val/image_0")] == [3, 6]
    image = Image.open(io.BytesIO(found.Images("val/image_0")[0].encoded_image_string))
    assert image.size == (96, 64)
    text = found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"model": "pico"' in text
    facts = found.Tensors("facts/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads((out / "run.json").read_text())["facts"]["data"] in facts
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(found.PluginTagToContent("hparams"))


@needs("tensorboard")
def test_overwritten_run_has_only_its_own_curves(tiny_data: Path, short: Config, place: Path) -> None:
    train(tiny_data, short, place / "run", "tensorboard")
    detector.train(
        tiny_data, replace(short, steps=2), weights=None, out=place / "run", loggers=["tensorboard"], overwrite=True
    )
    assert [event.step for event in tensorboard_events(place / "run").Scalars("train/loss")] == [1, 2]


@needs("mlflow")
@pytest.mark.parametrize("in_parts", [False, True])
def test_mlflow_server_gets_the_run(
    in_parts: bool,
    mlflow_server: str,
    tiny_data: Path,
    short: Config,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = place / f"run in parts {in_parts}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    (train_in_parts if in_parts else train)(tiny_data, short, out, "mlflow")
    assert "cannot log" not in caplog.text
    assert "not logged" not in caplog.text
    (found,) = [run for run in read(READ_MLFLOW, mlflow_server) if run["name"] == out.name]
    assert found["status"] == "FINISHED"
    check_losses(sorted(found["history"]["train/loss"]), out)
    assert sorted({step for step, _ in found["history"]["val/AP50"]}) == [3, 6]
    assert found["params"]["model"] == "pico"
    facts = json.loads((out / "run.json").read_text())["facts"]
    assert found["tags"]["detector.data"] == facts["data"]
    assert {"config.json", "weights/best.safetensors"} <= set(found["files"])
    assert sum(file.endswith(".png") for file in found["files"]) >= 8
    assert not (place / "mlruns").exists()
    assert not (place / "mlflow.db").exists()


@needs("wandb")
@pytest.mark.parametrize("in_parts", [False, True])
def test_wandb_offline_has_the_run(
    in_parts: bool,
    tiny_data: Path,
    short: Config,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = place / "run"
    (train_in_parts if in_parts else train)(tiny_data, short, out, "wandb")
    assert "cannot log" not in caplog.text
    assert "not logged" not in caplog.text
    parts = [read(READ_WANDB, str(path)) for path in sorted((place / "wandb").glob("offline-run-*/run-*.wandb"))]
    run_id = json.loads((out / "loggers.json").read_text())["run_id"]
    assert [(part["id"], part["project"]) for part in parts] == [(run_id, "detector")] * (1 + in_parts)
    rows = [row for part in parts for row in part["history"]]
    # Offline, wandb cannot know what an interrupted part has logged, so steps after the checkpoint are there twice.
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    check_losses(sorted(losses.items()), out)
    evaluations = [row for row in rows if "val/AP50" in row]
    assert [row["step"] for row in evaluations] == [3, 6]
    assert evaluations[0]["val/image_0/_type"] == "image-file"
    assert parts[0]["config"]["model"] == "pico"
    facts = json.loads((out / "run.json").read_text())["facts"]
    assert parts[0]["config"]["facts"]["data"] == facts["data"]
    assert any(name.endswith("best") for name in parts[-1]["artifacts"])


@needs("mlflow")
@needs("wandb")
@needs("tensorboard")
def test_loggers_do_not_change_bits_and_contact_nobody(
    tiny_data: Path, short: Config, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_data, short, place / "without")
    with tcp_server() as (port, accepted):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_MODE", "offline")
        train(tiny_data, short, place / "with", *LOGGERS)
    assert not accepted
    assert (place / "mlflow.db").exists()  # the default of MLflow
    assert (place / "with" / "results.csv").read_text() == (place / "without" / "results.csv").read_text()
    for name in ("best", "last"):
        tensors = [load_file(place / run / "weights" / f"{name}.safetensors") for run in ("with", "without")]
        assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


@needs("mlflow")
def test_mlflow_server_that_never_answers_does_not_stop_a_run(
    tiny_data: Path, short: Config, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_process, "IDLE_SECONDS", 20.0)
    with tcp_server() as (port, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        train(tiny_data, short, place / "run", "mlflow")
    assert "mlflow: not logged: 6 of 6 steps, 2 of 2 evaluations, the end of the run and 1 file" in caplog.text
    assert (place / "run" / "weights" / "best.safetensors").is_file()


@needs("wandb")
def test_wandb_without_a_key_is_a_warning(
    tiny_data: Path, short: Config, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(place))  # without ~/.netrc
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(log_process, "IDLE_SECONDS", 20.0)
    train(tiny_data, short, place / "run", "wandb")
    assert "wandb: not logged: 6 of 6 steps, 2 of 2 evaluations" in caplog.text
