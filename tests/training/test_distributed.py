"""Several processes: the same result as one process, bit-equal in all of them; their end; different inputs."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from detector.config import Config
from detector.loader.batch import Batch
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.training.distributed import ALONE, Processes, joined_processes
from detector.training.sync_batch_norm import synchronize
from detector.training.trainer import Trainer

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
    trainer = Trainer(build(config).to(dtype), config, CPU, torch.float32, processes=processes)
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
        replace(CONFIG, dropout=0.5, dropout_after=0, optimizer="adamw", norm="group"),
        replace(CONFIG, class_loss="softmax", optimizer="momentum", l2=1e-4, l2_after=0),
    ],
    ids=["yolo_v1 with dropout", "yolo_v1 dense", "group norm with dropout", "softmax"],
)
def test_variants_equal_one_process(config: Config) -> None:
    check(2, config, 3, torch.float64, 2, 1e-7)


def test_quantization_aware_training_equals_one_process() -> None:
    # Where rounding to int8 is a tie, the last bits decide.
    check(2, replace(CONFIG, qat_start=0.0, optimizer="momentum"), 3, torch.float32, 1, 1e-2)


def test_fifty_steps_equal_those_of_one_process() -> None:
    check(2, CONFIG, 5, torch.float64, 50, 1e-6)
