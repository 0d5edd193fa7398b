"""Compare training in several processes with training in one process: results, bytes sent, and speed.

    python tools/distributed.py equality
    python tools/distributed.py speed --model nano --input 256 320 --batch 16
    python tools/distributed.py kills --data datasets/bccd.yaml --out kills

`equality` trains on random images in 1, 2 and 4 processes, with batches that cannot be divided evenly, and prints the
largest difference to one process, relative to the largest entry of each tensor, and whether the processes have
bit-equal states. `speed` measures one process on one core and two processes on one core each, at the same batch size,
and prints the scaling efficiency and the bytes that a process sends per step. It needs an idle machine. `kills` trains
with the command in 2 and 3 processes, kills one of them at moments spread over the run, and prints how long the others
take to end, whether one of them names it, and whether the resumed run gives the weights of an uninterrupted one.

All processes run on this machine and communicate by gloo.
"""

import argparse
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from detector.config import Config
from detector.loader.batch import Batch
from detector.model.make_network import make_network
from detector.training.distributed import Processes, joined_processes
from detector.training.sync_batch_norm import synchronize
from detector.training.trainer import Trainer

_CLASSES = 3
_WARMED_UP = 3
"""Number of steps that are not timed."""

State = dict[str, "np.typing.NDArray[np.floating[Any]]"]


def main() -> int:
    """Print the tables of one comparison, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["equality", "speed", "kills"])
    parser.add_argument("--model", help="size of the network (default: pico for equality, nano for speed)")
    parser.add_argument("--input", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input size")
    parser.add_argument("--batch", type=int, help="images per step, in all processes together")
    parser.add_argument("--steps", type=int, help="number of steps (default: 50; 12 for speed)")
    parser.add_argument("--data", default="datasets/bccd.yaml", help="dataset for kills")
    parser.add_argument("--out", type=Path, default=Path("kills"), help="new folder for the runs of kills")
    parser.add_argument("--moments", type=int, default=10, help="number of kills per number of processes")
    options = parser.parse_args()
    if options.what == "kills":
        return _kills(options.data, options.out, options.model or "pico", options.steps or 50, options.moments)
    if options.what == "equality":
        height, width = options.input or (96, 96)
        return _equality(options.model or "pico", (height, width), options.batch or 6, options.steps or 50)
    height, width = options.input or (256, 320)
    return _speed(options.model or "nano", (height, width), options.batch or 16, options.steps or 12)


def _equality(model: str, input_hw: tuple[int, int], batch_size: int, steps: int) -> int:
    config, is_equal = Config(model=model), True  # type: ignore[arg-type]
    momentum = replace(config, optimizer="momentum")
    print(f"{model}, {input_hw[1]}x{input_hw[0]}, batch size {batch_size}, torch {torch.__version__}")
    print("| run | processes | images of each | largest difference | in | bit-equal processes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, own, dtype, count, limit in (
        ("1 step, float32, momentum", momentum, torch.float32, 1, 1e-4),
        ("1 step, float64, Muon", config, torch.float64, 1, 1e-6),
        (f"{steps} steps, float64, Muon", config, torch.float64, steps, 1e-6),
    ):
        (expected,) = _run(1, _state, own, input_hw, batch_size, dtype, count)
        for size, images in ((2, batch_size), (4, batch_size), (4, 3)):
            if images != batch_size:
                (expected,) = _run(1, _state, own, input_hw, images, dtype, count)
            first, *others = _run(size, _state, own, input_hw, images, dtype, count)
            error, tensor = max((_error(first[name], values), name) for name, values in expected.items())
            same = all(np.array_equal(other[name], values) for other in others for name, values in first.items())
            parts = [len(range(images)[images * rank // size : images * (rank + 1) // size]) for rank in range(size)]
            is_equal &= error < limit and same
            values = f"{', '.join(map(str, parts))} | {error:.1e} | {tensor} | {'yes' if same else 'NO'}"
            print(f"| {name} | {size} | {values} |", flush=True)
    return int(not is_equal)


def _speed(model: str, input_hw: tuple[int, int], batch_size: int, steps: int) -> int:
    config = Config(model=model)  # type: ignore[arg-type]
    load = os.getloadavg()[0]
    rows = {}
    for size in (1, 2):
        times = _run(size, _step_times, config, input_hw, batch_size, steps)
        rows[size] = max(median(own[0]) for own in times), times[0][1], times[0][2]
    print(f"{model}, {input_hw[1]}x{input_hw[0]}, batch size {batch_size}, torch {torch.__version__}, load {load:.1f}")
    print("| processes, one core each | ms per step | images/s | efficiency | all-reduces per step | bytes per step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size, (seconds, calls, count) in rows.items():
        efficiency = rows[1][0] / (size * seconds)
        values = f"{seconds * 1e3:.0f} | {batch_size / seconds:.1f} | {efficiency:.0%} | {calls} | {count:,}"
        print(f"| {size} | {values} |")
    print("A ring all-reduce of N bytes sends 2 (n - 1) / n N bytes per process, with n processes.")
    return 0


def _kills(data: str, out: Path, model: str, steps: int, moments: int) -> int:
    train = ["train", "--data", data, "--weights", "none", "--device", "cpu", "--no-report", "--model", model]
    train += [f"--set={name}" for name in (f"steps={steps}", "batch=6", "input_size=96", "evaluations=4", "workers=0")]
    train += ["--set=save_every=0.001"]  # minutes: a state after nearly every step
    print(f"{model}, {steps} steps of 6 images, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print("| processes | killed | after | others ended within | named | state | resumed exactly |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    is_right = True
    for size in (2, 3):
        complete = out / f"{size}-complete"
        processes = _commands(size, [*train, "--out", str(complete)])
        started = _wait_for(complete / "config.json")
        for process in processes:
            error = process.communicate()[1]
            if process.returncode:
                sys.exit(error)
        length = time.monotonic() - started
        expected = load_file(complete / "weights" / "last.safetensors")
        for number in range(moments):
            rank, moment, run = number % size, length * number / moments, out / f"{size}-{number}"
            processes = _commands(size, [*train, "--out", str(run)])
            _wait_for(run / "config.json")
            time.sleep(moment)
            processes[rank].send_signal(signal.SIGKILL)
            killed = time.monotonic()
            texts = [process.communicate()[1] for process in processes]
            seconds = time.monotonic() - killed
            (out / f"{size}-{number}.log").write_text("\n--\n".join(texts))
            others = [text for other, text in enumerate(texts) if other != rank]
            named = sum(f"error: process {rank} (pid {processes[rank].pid} on " in text for text in others)
            had_state = (run / "state").exists()
            again = (
                ["train", "--resume", str(run)] if had_state else [*train, "--out", str(out / f"{size}-{number}-again")]
            )
            for process in _commands(size, again):
                process.communicate()
            path = (run if had_state else Path(again[-1])) / "weights" / "last.safetensors"
            found = load_file(path) if path.exists() else {}
            same = all(torch.equal(found.get(name, torch.empty(0)), values) for name, values in expected.items())
            was_done = not any(process.returncode for other, process in enumerate(processes) if other != rank)
            is_right &= same and (was_done or named == 1) and seconds < 10  # one line, not one of each process
            name = "the run was complete" if was_done else "yes" if named == 1 else f"NO: {named} lines"
            values = f"{moment:.1f} s of {length:.1f} | {seconds:.1f} s | {name}"
            print(f"| {size} | {rank} | {values} | {had_state} | {'yes' if same else 'NO'} |", flush=True)
    return int(not is_right)


def _wait_for(path: Path) -> float:
    """Wait until a file exists, which the first process writes when all have joined; return the time."""
    while not path.exists():
        time.sleep(0.02)
    return time.monotonic()


def _commands(size: int, arguments: list[str]) -> "list[subprocess.Popen[str]]":
    """Start the command in several processes, as a scheduler such as Slurm does, without torchrun."""
    port = _free_port()
    command = [sys.executable, "-m", "detector", *arguments]
    environments = [_place(rank, size, port) | {"OMP_NUM_THREADS": "1"} for rank in range(size)]
    return [
        subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for own in environments
    ]


def _free_port() -> int:
    """Return the number of a port of this machine that is free."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


def _place(rank: int, size: int, port: int) -> dict[str, str]:
    """Return the environment variables of one of the processes."""
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in place.items()}


def _state(
    processes: Processes, config: Config, input_hw: tuple[int, int], images: int, dtype: torch.dtype, steps: int
) -> State:
    """Return the state of a trainer after some steps, and the gradients of the last step."""
    trainer = _trainer(processes, config, input_hw, images, dtype)
    for step in range(steps):
        trainer.step(step, steps, _batch(step, images, input_hw, processes.part(images)))
    gradients = {f"gradient.{k}": p.grad for k, p in trainer.network.named_parameters() if p.grad is not None}
    return {name: tensor.numpy() for name, tensor in (trainer.state() | gradients).items()}


def _step_times(
    processes: Processes, config: Config, input_hw: tuple[int, int], images: int, steps: int
) -> tuple[list[float], int, int]:
    """Return the seconds of each step on one core, and the number and bytes of all-reduces in the last step."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[processes.rank % len(cores)]})
    trainer = _trainer(processes, config, input_hw, images, torch.float32)
    times, sizes, all_reduce = [], list[int](), dist.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        sizes.append(tensor.numel() * tensor.element_size())
        all_reduce(tensor)

    dist.all_reduce = counted  # type: ignore[assignment]
    for step in range(steps + _WARMED_UP):
        batch = _batch(step % 4, images, input_hw, processes.part(images))
        sizes.clear()
        start = time.perf_counter()
        trainer.step(step, 1000, batch)
        times.append(time.perf_counter() - start)
    dist.all_reduce = all_reduce
    return times[_WARMED_UP:], len(sizes), sum(sizes)


def _trainer(
    processes: Processes, config: Config, input_hw: tuple[int, int], images: int, dtype: torch.dtype
) -> Trainer:
    torch.manual_seed(0)
    mean, covariance = np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600
    network = make_network(config, _CLASSES, mean, covariance, input_hw=input_hw).to(dtype)
    trainer = Trainer(network, config, torch.device("cpu"), torch.float32, processes=processes)
    synchronize(trainer.network, processes, images)
    return trainer


def _batch(step: int, images: int, input_hw: tuple[int, int], part: slice) -> Batch:
    """Return a part of a batch of random images, each with two objects."""
    rng, (height, width) = np.random.default_rng(step), input_hw
    pixels = rng.integers(0, 256, (images, height, width, 3), dtype=np.uint8)
    corners = rng.random((images, 2, 2)) * np.array([width, height]) / 2
    sides = (0.1 + 0.4 * rng.random((images, 2, 2))) * np.array([width, height])
    boxes = torch.from_numpy(np.concatenate([corners, corners + sides], axis=2)).float()
    is_object = torch.ones(images, 2, dtype=torch.bool)
    return Batch(
        torch.from_numpy(pixels).permute(0, 3, 1, 2)[part],
        boxes[part],
        torch.from_numpy(rng.integers(0, _CLASSES, (images, 2)))[part],
        is_object[part],
        ~is_object[part],
        tuple(range(images))[part],
    )


def _error(found: "np.typing.NDArray[Any]", expected: "np.typing.NDArray[Any]") -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))


def _run(size: int, function: Callable[..., Any], *arguments: object) -> list[Any]:
    """Return the results of a function in several processes, which are joined."""
    port = _free_port()
    context, started = multiprocessing.get_context("spawn"), []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_process, args=(rank, size, port, sender, function, arguments))
        process.start()
        sender.close()
        started.append((process, receiver))
    results = [receiver.recv() for _, receiver in started]
    for process, _ in started:
        process.join()
    return results


def _process(
    rank: int, size: int, port: int, sender: Connection, function: Callable[..., Any], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= _place(rank, size, port)
    with joined_processes() as processes:
        sender.send(function(processes, *arguments))


if __name__ == "__main__":
    sys.exit(main())
