"""Measure training, detection and time to a given AP on a GPU, and write the tables as Markdown.

    python tools/gpu_report.py --data datasets/bccd.yaml --target 0.6 --out gpu.md
    python tools/gpu_report.py --only machine training --out gpu.md         some parts only
    python tools/gpu_report.py --device cpu --quick --out quick.md          test this script on a machine without a GPU

Parts: `machine` (what the device reaches in matrix products and copies), `training` (images/s of each network size, and
the fraction of the measured matrix product rate that its convolutions reach), `detection` (images/s at batch sizes 1, 8
and 64, also with ONNX Runtime's CUDA and TensorRT providers if they are installed), `target` (the shortest run that
reaches an AP on the test split). The file is written again after each table, so that a run that is stopped keeps its
tables. No other program should use the GPU.
"""

import argparse
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from detector.config import Config, override
from detector.data.open_data import open_data
from detector.errors import InputError
from detector.evaluating.evaluate import evaluate
from detector.graph.to_onnx import to_onnx
from detector.loader.batch import Batch
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch, training_batches
from detector.model.fuse import fuse
from detector.model.make_network import make_network
from detector.model.network import SIZES, GridNetwork
from detector.outputs import UNSIGNED, claim_file, sign, write_file
from detector.runtime.hardware import choose_device, choose_precision, training_process
from detector.step_plan import StepPlan
from detector.training.train import train
from detector.training.trainer import Trainer
from detector.weights_info import WeightsInfo
from tools.benchmark import conv_flops

_CLASSES = 20
_STEPS = 1000
"""Number of steps of the run that the measured training steps belong to."""

_PROVIDERS = {"CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider"}


class Timer:
    """Measures functions that compute on a device.

    Args:
        device: the device.
        repeats: number of measured calls.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self._device, self._repeats = device, repeats

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median duration of a call, after some calls that prepare kernels and memory."""
        for _ in range(max(2, self._repeats // 4)):
            call()
        durations = []
        for _ in range(self._repeats):
            self._wait()
            start = time.perf_counter()
            call()
            self._wait()
            durations.append(time.perf_counter() - start)
        return median(durations)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a section with a Markdown table; floats get three significant digits."""
    lines = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join([f"## {title}", "", *("| " + " | ".join(line) + " |" for line in lines), ""])


def _text(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) and cell < 1000 else f"{cell:,.0f}" if _number(cell) else str(cell)


def _number(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def product_rate(device: torch.device, dtype: torch.dtype, timer: Timer, size: int) -> float:
    """Return the rate of a product of two matrices [size, size], in TFLOP/s."""
    left, right = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / timer.seconds(lambda: left @ right) / 1e12


def machine(options: argparse.Namespace, device: torch.device, timer: Timer) -> str:
    """Return the table of the device: names, versions, and what it reaches."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    size = 256 if options.quick else 8192
    values = torch.ones((1 << 20) if options.quick else (1 << 28), device=device)
    target = torch.empty_like(values)
    rows: list[tuple[str, object]] = [
        ("device", name),
        ("CPU cores", os.cpu_count()),
        ("Python, torch, CUDA", f"{platform.python_version()}, {torch.__version__}, {torch.version.cuda}"),
        *(
            (f"matrix product, {_short(dtype)}, TFLOP/s", product_rate(device, dtype, timer, size))
            for dtype in _dtypes()
        ),
        ("memory copy, GB/s, read plus written", 2 * values.nbytes / timer.seconds(lambda: target.copy_(values)) / 1e9),
    ]
    return table("Machine", ("what", "value"), rows)


def _dtypes() -> tuple[torch.dtype, ...]:
    return torch.float32, torch.bfloat16


def _short(dtype: torch.dtype) -> str:
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def make(size: str, input_hw: tuple[int, int]) -> GridNetwork:
    """Return a network with random weights."""
    torch.manual_seed(0)
    config = override(Config(), [f"model={size}"])
    colors = np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600
    return make_network(config, _CLASSES, *colors, input_hw=input_hw)


def training(options: argparse.Namespace, device: torch.device, timer: Timer) -> str:
    """Return the table of training steps: each size and batch size, as it is, compiled, and with the data loader."""
    input_hw = (options.input_size, options.input_size)
    dtype = choose_precision("auto", device)
    peak = product_rate(device, dtype, timer, 256 if options.quick else 8192)
    split = open_data(options.data[0]).read("train")
    few = replace(split, annotations=split.annotations[: 8 if options.quick else 256])
    one = torch.zeros(1, 3, *input_hw, dtype=torch.uint8)
    rows: list[tuple[object, ...]] = []
    for size in options.sizes:
        flops = 3 * conv_flops(make(size, input_hw).eval(), one)  # for each convolution, the backward pass has two
        for batch_size in options.batches:
            config = override(
                Config(), [f"input_size={options.input_size}", "first_input_size=1", f"batch={batch_size}"]
            )
            dataset = DetectionDataset(few, input_hw, config)
            for variant in ("as it is", "compiled", "with the data loader"):
                if variant == "compiled" and not options.compile:
                    continue
                trainer = Trainer(make(size, input_hw), config, device, dtype)
                if variant == "compiled":
                    trainer.network.forward = torch.compile(trainer.network.forward)  # type: ignore[method-assign]
                if variant == "with the data loader":
                    batches = training_batches(dataset, batch_size, StepPlan.fixed(_STEPS), 0, _STEPS)
                else:
                    batches = _on_device(dataset, batch_size, device)
                seconds = timer.seconds(partial(_step, trainer, batches))
                rate = batch_size / seconds
                rows.append((size, batch_size, variant, rate, rate * flops / 1e12, 100 * rate * flops / 1e12 / peak))
    title = f"Training, {options.input_size} px, {_short(dtype)}"
    return table(
        title, ("size", "batch", "variant", "images/s", "TFLOP/s of convolutions", "% of matrix product"), rows
    )


def _on_device(dataset: DetectionDataset, batch_size: int, device: torch.device) -> Iterator[tuple[int, Batch]]:
    """Yield batches that are on the device already, again and again."""
    prepared = [(step, training_batch(dataset, step, batch_size, _STEPS).to(device)) for step in range(2)]
    return itertools.cycle(prepared)


def _step(trainer: Trainer, batches: Iterator[tuple[int, Batch]]) -> None:
    step, batch = next(batches)
    trainer.step(step, _STEPS, batch)


@torch.inference_mode()
def detection(options: argparse.Namespace, device: torch.device, timer: Timer) -> str:
    """Return the table of the throughput of the networks, from input tensors to predicted boxes and scores."""
    input_hw = (options.input_size, options.input_size)
    rows: list[tuple[object, ...]] = []
    for size in options.sizes:
        network = make(size, input_hw).eval()
        fused = fuse(network).to(device)
        sessions = _sessions(network, size, input_hw)
        for batch_size in options.detection_batches:
            images = torch.randint(0, 256, (batch_size, 3, *input_hw), dtype=torch.uint8)
            on_device = images.to(device)
            for dtype in _dtypes():
                call = partial(_predict, fused, on_device, dtype)
                rows.append((size, batch_size, f"torch, {_short(dtype)}", batch_size / timer.seconds(call)))
            for name, session in sessions.items():
                feed = {session.get_inputs()[0].name: _graph_input(session, images)}
                seconds = timer.seconds(partial(session.run, None, feed))
                rows.append((size, batch_size, f"ONNX Runtime, {name}", batch_size / seconds))
    return table(f"Detection, {options.input_size} px", ("size", "batch", "runtime", "images/s"), rows)


def _predict(network: GridNetwork, images: torch.Tensor, dtype: torch.dtype) -> None:
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        predictions = network(images)
    predictions.boxes().cpu()
    predictions.scores().cpu()


def _graph_input(session: Any, images: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return images in the layout of the graph's input: channels last if its last dimension is 3."""
    is_last = session.get_inputs()[0].shape[-1] == 3
    return (images.permute(0, 2, 3, 1) if is_last else images).contiguous().numpy()


def _sessions(network: GridNetwork, size: str, input_hw: tuple[int, int]) -> dict[str, Any]:
    """Return name → session of ONNX Runtime, for each GPU provider that is installed here."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    available = {name: own for name, own in _PROVIDERS.items() if own in onnxruntime.get_available_providers()}
    if not available:
        return {}
    classes = tuple(map(str, range(_CLASSES)))
    info = WeightsInfo(size, classes, tuple(range(_CLASSES)), input_hw, {}, {})
    graph = to_onnx(network, info, input_hw)
    return {name: onnxruntime.InferenceSession(graph, providers=[provider]) for name, provider in available.items()}


def target(options: argparse.Namespace, device: torch.device, timer: Timer) -> str:
    """Return the table of runs of growing length, until one reaches the AP on test that was asked for."""
    rows: list[tuple[object, ...]] = []
    for data, goal in zip(options.data, options.target, strict=True):
        for minutes in options.minutes:
            with tempfile.TemporaryDirectory() as folder:
                config = override(Config(), [f"minutes={minutes:g}", f"device={options.device}", *options.set])
                start = time.perf_counter()
                trained = train(data, config, out=Path(folder) / "run", weights=options.weights)
                seconds = time.perf_counter() - start
                ap = evaluate(data, trained.weights, split="test", intervals=False, device=options.device).AP
            reached = ap >= goal
            rows.append((Path(data).stem, goal, minutes, seconds, ap, "yes" if reached else "no"))
            if reached:
                break
    columns = ("data", "AP to reach", "length, min", "with reading and evaluation, s", "AP on test", "reached")
    return table(f"Time to an AP, initial weights {options.weights}", columns, rows)


PARTS: dict[str, Callable[[argparse.Namespace, torch.device, Timer], str]] = {
    part.__name__: part for part in (machine, training, detection, target)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts, write the tables and return the exit status."""
    options = _parse(arguments)
    sections = [
        f"<!-- {UNSIGNED} -->\n# GPU report\n\n`python tools/gpu_report.py {' '.join(arguments or sys.argv[1:])}`\n"
    ]
    try:
        device = choose_device(options.device)
        claim_file(options.out)
        with training_process():
            timer = Timer(device, 2 if options.quick else 20)
            for name in options.only:
                sections.append(PARTS[name](options, device, timer))
                print(sections[-1], flush=True)
                write_file(options.out, sign("\n".join(sections).encode()))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device (default: cuda)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (default: all)")
    parser.add_argument("--data", nargs="+", default=["scenes"], help="datasets; the first is used for training speed")
    parser.add_argument("--target", nargs="+", type=float, default=[], help="AP to reach on each dataset")
    parser.add_argument("--minutes", nargs="+", type=float, default=[0.25, 0.5, 1, 2, 4, 8], help="lengths to try")
    parser.add_argument("--weights", default="none", help="initial weights of these runs (default: none)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of these runs")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="network sizes (default: all)")
    parser.add_argument("--input-size", type=int, default=320, help="input size in pixels (default: 320)")
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64, 256], help="batch sizes of training")
    parser.add_argument("--detection-batches", nargs="+", type=int, default=[1, 8, 64], help="batch sizes of detection")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out torch.compile")
    parser.add_argument("--quick", action="store_true", help="2 repeats and small matrices, to test this script")
    parser.add_argument("--out", type=Path, required=True, help="file for the tables")
    options = parser.parse_args(arguments)
    if "target" in options.only and len(options.data) != len(options.target):
        if options.target or options.only != list(PARTS):
            parser.error("--target: expected one AP for each --data")
        options.only = [name for name in options.only if name != "target"]
    return options


if __name__ == "__main__":
    sys.exit(main())
