"""Several processes: the same result as one process, bit-equal in all of them; their end; different inputs."""

import csv
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from detector.config import Config
from detector.errors import ConfigError, PeerError, ProcessError
from detector.loader.batch import Batch
from detector.loader.class_balance import class_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.training.distributed import ALONE, Place, Processes, joined_processes, place_of_process
from detector.training.events import TrainingEvaluation, TrainingStep
from detector.training.run_state import read_state
from detector.training.sync_batch_norm import synchronize
from detector.training.train import resume, train
from detector.training.trainer import Trainer

pytestmark = pytest.mark.posix  # the processes are forked

CPU = torch.device("cpu")

SIDE = 64

CONFIG = Config(model="pico")

Array = npt.NDArray[np.floating[Any]]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    values = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in values.items()}


def start(size: int, function: Callable[..., object], *arguments: object) -> list[tuple[BaseProcess, Connection]]:
    """Start processes that call a function and send its result, or its exception, through the connection."""
    port, context = free_port(), multiprocessing.get_context("fork")
    started: list[tuple[BaseProcess, Connection]] = []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(environment(rank, size, port), sender, function, arguments))
        process.start()
        sender.close()
        started.append((process, receiver))
    return started


def run(size: int, function: Callable[..., object], *arguments: object) -> list[Any]:
    """Return the results of a function in several processes."""
    results = []
    for process, receiver in start(size, function, *arguments):
        results.append(result_of(receiver))
        process.join(60)
        assert process.exitcode == 0
    return results


def result_of(receiver: Connection) -> Any:
    """Return the result of a process, or the exception that it raised."""
    assert receiver.poll(60), "no result after 60 s"
    return receiver.recv()


def _run(
    environment: dict[str, str], sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= environment
    try:
        sender.send(function(*arguments))
    except (Exception, KeyboardInterrupt) as error:
        sender.send(error)


def build(config: Config) -> GridNetwork:
    torch.manual_seed(0)
    covariance = np.eye(3, dtype=np.float32) * 3600
    return make_network(config, 3, np.full(3, 110, np.float32), covariance, input_hw=(SIDE, SIDE))


def batch(step: int, size: int, part: slice) -> Batch:
    """Return a part of a random batch: two objects per image, in the last image a crowd region instead."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (size, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    corners = torch.rand((size, 2, 2), generator=generator) * 30
    boxes = torch.cat([corners, corners + 10 + torch.rand((size, 2, 2), generator=generator) * 24], dim=2)
    class_ids = torch.randint(0, 3, (size, 2), generator=generator)
    is_crowd = (torch.arange(size) == size - 1)[:, None].expand(size, 2)
    ids = tuple(range(size))[part]
    return Batch(images[part], boxes[part], class_ids[part], ~is_crowd[part], is_crowd[part], ids)


def states(processes: Processes, config: Config, batch_size: int, dtype: torch.dtype, steps: int) -> dict[str, Array]:
    """Return the state of a trainer after some steps, and the gradients and loss terms of the last step."""
    weights = class_weights(np.array([40, 3, 9]), config.class_balance)
    network = build(config).to(dtype)
    trainer = Trainer(network, config, CPU, torch.float32, processes=processes, class_weights=weights)
    synchronize(trainer.network, processes, batch_size)
    part = processes.part(batch_size)
    for step in range(steps):
        terms = trainer.step(step, steps, batch(step, batch_size, part))
    tensors = {f"gradient.{k}": p.grad for k, p in trainer.network.named_parameters() if p.grad is not None}
    tensors |= trainer.state() | {f"loss.{name}": part for name, part in terms.parts.items()}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def states_of_processes(config: Config, batch_size: int, dtype: torch.dtype, steps: int) -> dict[str, Array]:
    with joined_processes() as processes:
        return states(processes, config, batch_size, dtype, steps)


def largest_difference(found: dict[str, Array], expected: dict[str, Array]) -> float:
    """Return the largest difference, relative to the largest entry of each tensor."""
    assert found.keys() == expected.keys()
    scales = {name: max(float(np.abs(values).max()), 1e-6) for name, values in expected.items()}
    return max(float(np.abs(found[name] - values).max()) / scales[name] for name, values in expected.items())


def check(size: int, config: Config, batch_size: int, dtype: torch.dtype, steps: int, tolerance: float) -> None:
    first, *others = run(size, states_of_processes, config, batch_size, dtype, steps)
    assert largest_difference(first, states(ALONE, config, batch_size, dtype, steps)) < tolerance
    for state in others:
        for name, values in state.items():
            assert np.array_equal(values, first[name]), name


@pytest.mark.parametrize(("size", "batch_size"), [(2, 4), (2, 5), (4, 6), (4, 3)])
def test_one_step_equals_that_of_one_process(size: int, batch_size: int) -> None:
    # Not AdamW: its first step is the sign of the gradient, even where the gradient is nothing but rounding errors.
    check(size, replace(CONFIG, optimizer="momentum"), batch_size, torch.float32, 1, 1e-4)


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, head="yolo_v1", dropout=0.5, dropout_after=0),
        replace(CONFIG, head="yolo_v1", cell_output="dense"),
        replace(CONFIG, head="yolo_v1", class_balance="inverse"),
        replace(CONFIG, class_balance="inverse"),
        replace(CONFIG, dropout=0.5, dropout_after=0, optimizer="adamw", norm="group"),
        replace(CONFIG, class_loss="softmax", optimizer="momentum", l2=1e-4, l2_after=0),
    ],
    ids=["yolo_v1 with dropout", "yolo_v1 dense", "yolo_v1 balanced", "balanced", "group norm with dropout", "softmax"],
)
def test_variants_equal_one_process(config: Config) -> None:
    check(2, config, 3, torch.float64, 2, 1e-7)


def test_loss_of_quantization_aware_training_equals_one_process() -> None:
    # Not the gradients: the last bits decide to which level of int8 a value is rounded.
    arguments = replace(CONFIG, qat_start=0.0), 3, torch.float32, 1
    first, _ = run(2, states_of_processes, *arguments)
    expected = {name: values for name, values in states(ALONE, *arguments).items() if name.startswith("loss")}
    assert largest_difference({name: first[name] for name in expected}, expected) < 1e-5


def test_fifty_steps_equal_those_of_one_process() -> None:
    check(2, CONFIG, 5, torch.float64, 50, 1e-6)


def train_together(data: Path, config: Config, out: Path, unlabeled: Path | None = None) -> int:
    return train(data, config, out=out, weights="none", unlabeled=unlabeled).steps


def resume_together(out: Path) -> int:
    return resume(out).steps


@pytest.fixture
def short(tiny_config: Config) -> Config:
    return replace(tiny_config, steps=30, evaluations=5)


def state_bytes(folder: Path) -> dict[str, bytes]:
    """Return the content of the latest checkpoint: the bytes of each tensor, and the results."""
    state = read_state(folder / "state")
    assert state is not None
    tensors = {name: tensor.numpy().tobytes() for name, tensor in state[1].items()}
    return tensors | {"results": json.dumps(state[0].results).encode()}


@pytest.fixture(scope="module")
def complete(tiny_data: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes without an interruption."""
    out = tmp_path_factory.mktemp("together") / "run"
    assert run(2, train_together, tiny_data, replace(tiny_config, steps=30, evaluations=5), out) == [30, 30]
    return out


def test_two_processes_give_the_results_of_one(complete: Path, tiny_data: Path, short: Config, tmp_path: Path) -> None:
    train(tiny_data, short, out=tmp_path, weights="none")
    texts = [(path / "results.csv").read_text() for path in (complete, tmp_path)]
    rows = [list(csv.DictReader(text.splitlines())) for text in texts]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for name, value in rows[1][0].items():  # later, rounding errors have grown
        assert float(rows[0][0][name]) == pytest.approx(float(value), abs=0.01), name
    assert json.loads((complete / "config.json").read_text())["processes"] == 2
    names = [{path.name for path in folder.iterdir()} for folder in (complete, tmp_path)]
    assert names[0] == names[1]


def train_watched(data: Path, config: Config, out: Path, stop_at: int) -> list[int]:
    """Return the steps and evaluations that a callback of this process was told; it raises an error at a step."""
    told: list[int] = []

    def watch(event: TrainingStep | TrainingEvaluation) -> None:
        told.append(event.step)
        if event.step == stop_at:
            raise ArithmeticError("enough")

    train(data, config, out=out, weights="none", on_step=watch, on_evaluation=watch)
    return told


def test_only_the_first_process_calls_callbacks(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    config = replace(short, steps=4, evaluations=2)
    assert run(2, train_watched, tiny_data, config, tmp_path / "run", 0) == [[1, 2, 2, 3, 4, 4], []]


def test_failing_callback_stops_all_processes_resumably(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    config = replace(short, steps=4, evaluations=2)
    first, second = run(2, train_watched, tiny_data, config, tmp_path / "run", 3)
    assert isinstance(first, ArithmeticError)
    assert isinstance(second, KeyboardInterrupt)
    assert run(2, resume_together, tmp_path / "run") == [4, 4]


def interrupt(rank: int, number: signal.Signals, data: Path, config: Config, out: Path) -> list[Any]:
    """Send a signal to one of two processes after their first evaluation; return what each raised, None if killed."""
    started = start(2, train_together, data, config, out)
    for _ in range(3000):
        if (out / "results.csv").exists():
            break
        time.sleep(0.01)
    process = started[rank][0]
    assert process.pid is not None
    os.kill(process.pid, number)
    moment = time.monotonic()
    process.join(60)  # otherwise the process would still exist
    results = [None if other.exitcode == -signal.SIGKILL else result_of(receiver) for other, receiver in started]
    assert time.monotonic() - moment < 30  # ten seconds on a machine that is not busy
    for other, _ in started:
        other.join(60)
    return results


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_process_is_named_and_the_run_resumes_exactly(
    rank: int, complete: Path, tiny_data: Path, short: Config, tmp_path: Path
) -> None:
    error = interrupt(rank, signal.SIGKILL, tiny_data, short, tmp_path)[1 - rank]
    assert isinstance(error, ProcessError)
    assert str(error).startswith(f"process {rank} (pid ")
    assert "the run stops" in str(error)
    assert run(2, resume_together, tmp_path) == [30, 30]
    assert state_bytes(tmp_path) == state_bytes(complete)


def test_signal_to_one_process_stops_all_after_the_same_step(
    complete: Path, tiny_data: Path, short: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for error in interrupt(1, signal.SIGTERM, tiny_data, short, tmp_path):
        assert isinstance(error, KeyboardInterrupt)
    shutil.copytree(tmp_path, tmp_path / "copy")
    caplog.set_level(logging.INFO)
    assert resume(tmp_path / "copy").steps == 30
    assert "the run continues with 1 process instead of 2: with the same plan and batches" in caplog.text
    assert run(2, resume_together, tmp_path) == [30, 30]
    assert state_bytes(tmp_path) == state_bytes(complete)


def train_with_other_data(folders: list[Path], config: Config, out: Path) -> object:
    return train_together(folders[int(os.environ["RANK"])], config, out)


def test_other_data_on_a_machine_is_refused(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    labels = json.loads((other / "train.json").read_text())
    labels["annotations"][0]["bbox"][2] += 1
    (other / "train.json").write_text(json.dumps(labels))
    first, second = run(2, train_with_other_data, [tiny_data, other], short, tmp_path / "run")
    assert isinstance(first, ConfigError)
    assert re.match("data: .* in process 0 on .*, but .* in process 1 on ", str(first))
    assert isinstance(second, PeerError)
    first, second = run(2, train_with_other_data, [tiny_data, tmp_path / "missing"], short, tmp_path / "run")
    assert isinstance(first, PeerError)
    assert "missing" in str(second)
    assert not isinstance(second, PeerError)


def test_length_in_minutes_and_unlabeled_images(tiny_data: Path, short: Config, tmp_path: Path) -> None:
    config = replace(short, steps=None, minutes=0.1, evaluations=2)
    first, second = run(2, train_together, tiny_data, config, tmp_path / "run", tiny_data / "images")
    assert first == second == json.loads((tmp_path / "run/config.json").read_text())["steps"]
    assert (tmp_path / "run/unlabeled.json").exists()


def test_incomplete_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="but RANK is missing; start the processes with torchrun"):
        place_of_process()
    for name, value in environment(2, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="but RANK is '2'"):
        place_of_process()


def test_parts_of_a_batch_are_complete() -> None:
    for size in range(1, 5):
        places = [Processes(Place(rank, size)) for rank in range(size)]
        for count in range(9):
            parts = [range(count)[own.part(count)] for own in places]
            assert [index for part in parts for index in part] == list(range(count))
            shares = [own.share(count, 3) for own in places]
            assert sorted(index for share in shares for index in share) == list(range(count))


@pytest.mark.linux
def test_torchrun_trains_and_names_a_killed_process(tiny_data: Path, tmp_path: Path) -> None:
    flags = ["--model", "pico", "--batch", "3", "--device", "cpu", "--weights", "none", "--set", "input_size=[64, 96]"]
    flags += ["--set", "steps=2000", "--set", "evaluations=1", "--set", "save_every=0.001", "--no-report"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    train = ["-m", "detector", "train", "--data", str(tiny_data), "--out", str(tmp_path / "run"), *flags]
    process = subprocess.Popen(
        [*torchrun, str(free_port()), *train],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(6000):
        if list((tmp_path / "run").glob("state/*")):
            break
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: process 1 (pid {children[1]} on ")
    assert output.count("2 processes, 2 of them on") == 1
