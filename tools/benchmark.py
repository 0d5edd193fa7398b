"""`python tools/benchmark.py` measures the speed of this machine and of the detector on it, and prints a table.

Each part of the benchmark runs in its own process, so that the settings of a part (allocator, threads) do not affect
the other parts. A timing is the median, minimum and maximum of repeated calls after warmup calls. The first part,
`calibration`, measures the machine without the detector, so that the tables of two machines can be compared.
"""

import argparse
import copy
import importlib
import itertools
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor, nn

from detector.boxes import from_cxcywh
from detector.config import Config
from detector.data.formats.coco_scoring import to_coco
from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.detections import Detections, coco_results
from detector.errors import InputError, did_you_mean
from detector.graph.int8_onnx import quantize
from detector.graph.to_onnx import to_onnx
from detector.images import read_image, write_image
from detector.letterbox import letterbox_image
from detector.loader.batch import Batch
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch, training_batches
from detector.metrics.average_precision import average_precision_unchecked
from detector.model.make_network import make_network
from detector.model.network import SIZES
from detector.ops.nms import nms as detector_nms
from detector.options import DetectOptions, RuntimeName
from detector.outputs import claim_file, write_signed_json
from detector.predict.detector import Detector
from detector.predict.postprocess import postprocess
from detector.runtime.hardware import choose_precision, training_process
from detector.runtime.load import load_runtime
from detector.step_plan import StepPlan
from detector.training.trainer import Trainer
from detector.weights_info import WeightsInfo

CPU = torch.device("cpu")
CONVOLUTION = "3x3, 64 to 64 channels, 80x80, batch 8"
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
INPUT_HW, BATCH, IMAGES, STEPS = (256, 320), 8, 64, 1000
"""For the parts `training` and `loader`: input size (height, width), images per step, images in memory, and number of
steps of the simulated training run."""

MEASURED_COMMAND = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call([sys.executable, "-m", "detector", *sys.argv[1:]])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
"""A script that runs `detector ARGUMENTS` and prints its duration in seconds and its peak memory.

On Linux, the peak memory of a process starts at the memory of its parent process. The process of this script is small,
so it does not affect the result.
"""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        what: what was measured.
        median: median of the measurements, or a text.
        low: smallest measurement; None: not shown.
        high: largest measurement; None: not shown.
        unit: unit of the numbers.
    """

    what: str
    median: float | str
    low: float | None = None
    high: float | None = None
    unit: str = ""

    def __str__(self) -> str:
        spread = "" if self.low is None or self.high is None else f"{_short(self.low)}–{_short(self.high)}"
        return f"| {self.what} | {_short(self.median)} | {spread} | {self.unit} |"


def row(what: str, values: Sequence[float], unit: str) -> Row:
    """Return a table row with the median, minimum and maximum of repeated measurements."""
    return Row(what, statistics.median(values), min(values), max(values), unit)


def milliseconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Call a function `repeats` times and return the duration of each call in ms.

    Before these calls, it is called `repeats / 4` times (at least once) as a warmup.
    """
    times = []
    for _ in range(max(1, repeats // 4) + repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times[-repeats:]


def timed(calls: Mapping[str, Callable[[], object]], repeats: int) -> list[Row]:
    """Measure the duration of each call and return one row per call.

    Args:
        calls: what is measured → function to call.
        repeats: number of measurements of each call.
    """
    return [row(what, milliseconds(call, repeats), "ms") for what, call in calls.items()]


@training_process()
def calibration(options: argparse.Namespace) -> list[Row]:
    """Measure the machine without the detector (matrix products, convolutions, memory copies) and return the rows."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "")
    rows = [
        Row("processor", model[1] if model else platform.processor() or platform.machine()),
        Row("cores; threads", f"{os.cpu_count()}; {torch.get_num_threads()}"),
        Row("torch", torch.__version__),
        Row("native bf16", "yes" if choose_precision("auto", CPU) == torch.bfloat16 else "no"),
    ]
    for dtype, name in PRECISIONS.items():
        left, right, product = (torch.rand(2048, 2048).to(dtype) for _ in range(3))
        times = milliseconds(partial(torch.mm, left, right, out=product), options.repeats)
        rows += [
            row(f"matrix product 2048x2048x2048, {name}", [2 * 2048**3 / 1e6 / ms for ms in times], "GFLOP/s"),
            row(f"convolution {CONVOLUTION}, {name}", _convolution_rates(dtype, options.repeats), "GFLOP/s"),
        ]
    source = torch.ones(1 << 26)
    times = milliseconds(partial(torch.empty_like(source).copy_, source), options.repeats)
    rates = [2 * source.nbytes / 1e6 / ms for ms in times]
    return [*rows, row("memory copy, 256 MiB, bytes read plus written", rates, "GB/s")]


def _convolution_rates(dtype: torch.dtype, repeats: int) -> list[float]:
    """Measure the forward pass of a convolution typical of the networks, and return the GFLOP/s of each call."""
    pixels, weight = (
        torch.rand(shape).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((8, 64, 80, 80), (64, 64, 3, 3))
    )
    times = milliseconds(partial(nn.functional.conv2d, pixels, weight, padding=1), repeats)
    return [2 * 8 * 80 * 80 * weight.numel() / 1e6 / ms for ms in times]


def conv_flops(network: nn.Module, images: Tensor) -> int:
    """Return the number of FLOPs of all convolutions in one forward pass; a multiply-add counts as two FLOPs.

    Args:
        network: any module.
        images: input of the network.
    """
    counts: list[int] = []

    def count(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        counts.append(2 * output.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return sum(counts)


@training_process()
def training(options: argparse.Namespace) -> list[Row]:
    """Measure training steps of the network size `nano`, and return the rows.

    The steps are measured in the precision that training chooses for this machine, and in fp32.
    """
    dataset, class_count = _training_images(options.data)
    rows = []
    for dtype in dict.fromkeys((choose_precision("auto", CPU), torch.float32)):
        torch.manual_seed(0)
        colors = dataset.color_statistics()
        network = make_network(Config(), class_count, *colors, input_hw=INPUT_HW)
        # For each convolution, the backward pass has two convolutions of the same size: one for the gradient of the
        # input, and one for the gradient of the weights.
        flops = 3 * BATCH * conv_flops(network.eval(), torch.zeros(1, 3, *INPUT_HW, dtype=torch.uint8))
        convolutions_ms = flops / 1e6 / statistics.median(_convolution_rates(dtype, options.repeats))
        trainer = Trainer(network, dataset.config, CPU, dtype)
        prepared = itertools.cycle([(step, training_batch(dataset, step, BATCH, STEPS)) for step in range(4)])
        alone = milliseconds(partial(_step, trainer, prepared), options.repeats)
        stream = training_batches(dataset, BATCH, StepPlan.fixed(STEPS), 0, STEPS)
        with_loader = milliseconds(partial(_step, trainer, stream), options.repeats)
        what = f"nano, {INPUT_HW[1]}x{INPUT_HW[0]}, batch {BATCH}, {PRECISIONS[dtype]}: step"
        rows += [
            row(what, alone, "ms"),
            row(what, [BATCH * 1e3 / ms for ms in alone], "img/s"),
            row(f"{what}, with the data loader", [BATCH * 1e3 / ms for ms in with_loader], "img/s"),
            Row(f"{what}, its convolutions", flops / 1e9, unit="GFLOP"),
            row(what, [ms / convolutions_ms for ms in alone], "x the time of its convolutions"),
        ]
    return rows


def _step(trainer: Trainer, batches: Iterator[tuple[int, Batch]]) -> None:
    step, batch = next(batches)
    trainer.step(step, STEPS, batch)


def _training_images(data: str) -> tuple[DetectionDataset, int]:
    """Return a dataset with the first `IMAGES` images of the training split, and the number of classes."""
    split = open_data(data).read("train")
    few = replace(split, annotations=split.annotations[:IMAGES])
    config = Config(input_size=INPUT_HW, first_input_size=1.0, batch=BATCH)  # every step has the full input size
    return DetectionDataset(few, INPUT_HW, config), len(split.class_names)


@training_process()
def loader(options: argparse.Namespace) -> list[Row]:
    """Measure the throughput of one thread of the data loader, and return the rows."""
    dataset, _ = _training_images(options.data)
    rows = []
    # With the default settings, epoch 45 has full augmentation but no mosaics, and epoch 100 has the largest fraction
    # of mosaics.
    for epoch, what in ((45, "no mosaic"), (100, "half of them mosaics")):
        first, steps = (epochs * len(dataset) // BATCH for epochs in (epoch, 200))
        batches = map(partial(training_batch, dataset, batch_size=BATCH, steps=steps), itertools.count(first))
        times = milliseconds(partial(next, batches), options.repeats)
        rows.append(row(f"training samples, one thread, {what}", [BATCH * 1e3 / ms for ms in times], "img/s"))
    return rows


def latency(options: argparse.Namespace) -> list[Row]:
    """Measure the steps of the detection in one image, and the complete detection in each runtime; return the rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = _draw_image(Path(folder))
        image = read_image(path)
        runtime, info = load_runtime(options.weights, device="cpu", runtime="torch")
        letterbox, letterboxed = letterbox_image(image, runtime.input_hw)
        predictions = runtime.predict([letterboxed])
        nms_options = DetectOptions(suppression="classic", class_agnostic=False)
        calls: dict[str, Callable[[], object]] = {
            "read and decode a JPEG of 640x480": partial(read_image, path),
            "letterbox": partial(letterbox_image, image, runtime.input_hw),
            "postprocess": partial(postprocess, predictions, [letterbox], info.class_names, nms_options),
        }
        rows = timed(calls, options.repeats)
        for name in typing.get_args(RuntimeName)[1:]:  # the first is "auto"
            what = f"{name}, {letterboxed.shape[1]}x{letterboxed.shape[0]}"
            if name != "torch" and not _installed("onnx", name.removesuffix("-fast")):
                rows.append(Row(f"predict, {what}", "not installed"))
                continue
            detector = Detector.load(options.weights, device="cpu", runtime=name)
            predict, detect = partial(detector.runtime.predict, [letterboxed]), partial(detector.detect, image)
            rows += timed({f"predict, {what}": predict, f"file to detections, {what}": detect}, options.repeats)
    return rows


def sizes(options: argparse.Namespace) -> list[Row]:
    """Measure the prediction of every network size in three precisions of OpenVINO, and return the rows.

    The networks have random weights, 20 classes and the input size 320x320.
    """
    if not _installed("onnx", "onnxruntime", "openvino"):
        return [Row("sizes, openvino", "not installed")]
    rows = []
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 256, (320, 320, 3), dtype=np.uint8) for _ in range(16)]
    with tempfile.TemporaryDirectory() as folder:
        for name in SIZES:
            torch.manual_seed(0)
            config = Config(model=name)  # type: ignore[arg-type]
            network = make_network(config, 20, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600).eval()
            info = WeightsInfo(name, tuple(map(str, range(20))), tuple(range(20)), (320, 320), {}, {})
            graph = to_onnx(network, info, (320, 320))
            float32, int8 = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}-int8.onnx"
            float32.write_bytes(graph)
            int8.write_bytes(quantize(graph, inputs))
            variants: list[tuple[str, Path, RuntimeName]] = [
                ("fp32", float32, "openvino"),
                ("openvino-fast", float32, "openvino-fast"),
                ("int8, openvino-fast", int8, "openvino-fast"),
            ]
            calls: dict[str, Callable[[], object]] = {}
            for variant, path, runtime_name in variants:
                runtime, _ = load_runtime(path, runtime=runtime_name)
                calls[f"predict, {name}, {variant}, 320x320"] = partial(runtime.predict, inputs[:1])
            rows += timed(calls, options.repeats)
    return rows


def _draw_image(folder: Path) -> Path:
    path = folder / "scene.jpg"
    write_image(path, np.asarray(cv2.resize(scenes.render("test", 0).image, (640, 480)), dtype=np.uint8))
    return path


def nms(options: argparse.Namespace) -> list[Row]:
    """Measure NMS at the IoU threshold 0.7, and return the rows.

    The boxes are distributed around 100 objects of 80 classes.
    """
    torchvision_nms = _torchvision_nms()
    rows = [] if torchvision_nms else [Row("torchvision.ops.batched_nms", "not installed")]
    for count in (1_000, 10_000, 30_000):
        rng = np.random.default_rng(count)
        objects = rng.uniform((50, 50, 20, 20), (590, 590, 200, 200), size=(100, 4)).repeat(count // 100, axis=0)
        objects += objects[:, [2, 3, 2, 3]] * rng.normal(0, 0.1, size=objects.shape)
        boxes = from_cxcywh(objects.astype(np.float32))
        scores = rng.random(count, dtype=np.float32)
        class_ids = rng.integers(80, size=100).repeat(count // 100)
        class_ids = np.where(rng.random(count) < 0.2, rng.integers(80, size=count), class_ids)
        own_nms = partial(detector_nms, boxes, scores, class_ids, 0.7)
        calls: dict[str, Callable[[], object]] = {f"{count:,} candidates, {len(own_nms())} kept": own_nms}
        if torchvision_nms:
            tensors = map(torch.from_numpy, (boxes, scores, class_ids))
            calls[f"{count:,} candidates, torchvision"] = partial(torchvision_nms, *tensors, 0.7)
        rows += timed(calls, options.repeats)
    return rows


def _torchvision_nms() -> Callable[..., object] | None:
    """Return torchvision's NMS function, or None if torchvision is not installed or does not fit the torch version."""
    try:
        batched_nms: Callable[..., object] = importlib.import_module("torchvision.ops").batched_nms
        batched_nms(torch.zeros(1, 4), torch.zeros(1), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError):
        return None
    return batched_nms


def evaluation(options: argparse.Namespace) -> list[Row]:
    """Measure the computation of COCO's AP for 100 random detections per image, and return the rows.

    The last but one row is the additional time compared with faster-coco-eval alone.
    """
    split, found = _random_detections(options.data)
    ground_truth = to_coco(split)

    def seconds(call: Callable[[dict[str, typing.Any], list[dict[str, typing.Any]]], object]) -> float:
        # faster-coco-eval changes its arguments, and the next call with the same arguments would have less work.
        fresh, results = copy.deepcopy(ground_truth), coco_results(found, split.category_ids)
        return milliseconds(partial(call, fresh, results), 1)[0] / 1e3

    building = [milliseconds(partial(coco_results, found, split.category_ids), 1)[0] / 1e3 for _ in range(5)]
    # The two functions alternate, so that a change in the speed of the machine affects both in the same way.
    pairs = [
        [seconds(call) for call in (average_precision_unchecked, _faster_coco_eval)] for _ in range(options.repeats)
    ]
    own, alone = zip(*pairs, strict=True)
    what = f"{len(found)} images, {100 * len(found):,} detections"
    return [
        row(f"average_precision_unchecked, {what}", own, "s"),
        row(f"faster-coco-eval alone, {what}", alone, "s"),
        row(
            "overhead of average_precision_unchecked: a copy of the ground truth, AP per class",
            [(own_s / alone_s - 1) * 100 for own_s, alone_s in pairs],
            "%",
        ),
        row(f"COCO dictionaries from arrays, {what}", building, "s"),
    ]


def _random_detections(data: str) -> tuple[Split, dict[int, Detections]]:
    """Return a split of a dataset, and image id → 100 random detections.

    The split is "test", or "val" if there is no test split, or the first split if there is neither.
    """
    data_set = open_data(data)
    names = data_set.split_names
    split = data_set.read(next(name for name in ("test", "val", *names) if name in names))
    rng = np.random.default_rng(0)
    found = {}
    for annotation in split.annotations:
        corners = rng.random((100, 2, 2)) * annotation.image_hw[::-1]
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
        scores = np.sort(rng.random(100, dtype=np.float32))[::-1]
        class_ids = rng.integers(len(split.class_names), size=100)
        found[annotation.image_id] = Detections(boxes, scores, class_ids, split.class_names)
    return split, found


def _faster_coco_eval(ground_truth: dict[str, typing.Any], results: list[dict[str, typing.Any]]) -> None:
    coco = COCO(ground_truth)
    evaluation = COCOeval_faster(coco, coco.loadRes(results), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()


def memory(options: argparse.Namespace) -> list[Row]:
    """Measure commands of the package in new processes, and return the rows.

    The measurements are the peak resident memory and, for `detect` on one image, the wall time.
    """
    if not _installed("resource"):
        return [Row("peak memory", "cannot be measured on this system")]
    steps = 2 if options.quick else 30
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, graph = _draw_image(folder), folder / "weights.onnx"
        settings = ("--set", f"steps={steps}", "--set", "evaluations=1", "--device", "cpu")
        _, peak = _run_command(folder, "train", "--weights", "none", "--data", options.data, *settings)
        rows = [Row(f"`detector train`, {steps} steps: peak memory", peak, unit="MB")]
        if _installed("onnx"):
            _run_command(folder, "export", "--weights", options.weights, "--out", str(graph))
        for runtime in ("torch", "onnxruntime", "openvino"):
            weights, suffix = (options.weights, ".safetensors") if runtime == "torch" else (str(graph), ".onnx")
            what = f"`detector detect`, one image, {suffix}, {runtime}"
            if runtime != "torch" and not _installed("onnx", runtime):
                rows.append(Row(what, "not installed"))
                continue
            arguments = ("detect", str(image), "--weights", weights, "--runtime", runtime, "--device", "cpu")
            runs = [_run_command(folder, *arguments) for _ in range(1 + max(1, options.repeats // 4))][1:]
            seconds, peaks = zip(*runs, strict=True)
            rows += [row(f"{what}: wall time", seconds, "s"), row(f"{what}: peak memory", peaks, "MB")]
    return rows


def _run_command(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run `detector ARGUMENTS` in a folder, and return its duration in seconds and its peak resident memory in MB."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-c", MEASURED_COMMAND, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"`detector {' '.join(arguments)}` failed: {done.stderr.strip()[-1000:]}")
    seconds, peak = map(float, done.stdout.splitlines()[-1].split())
    return seconds, peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def against(first: str, second: str, repeats: int) -> list[Row]:
    """Measure the durations of two shell commands, and return the rows.

    The commands run as complete processes and alternate. Before that, each command runs once as a warmup.
    """
    pairs = [(_shell_seconds(first), _shell_seconds(second)) for _ in range(1 + repeats)][1:]
    first_seconds, second_seconds = zip(*pairs, strict=True)
    ratio = statistics.median(first_seconds) / statistics.median(second_seconds)
    return [
        row(f"`{first}`", first_seconds, "s"),
        row(f"`{second}`", second_seconds, "s"),
        Row("ratio of medians, first / second", ratio),
    ]


def _shell_seconds(command: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise InputError(f"`{command}` failed with exit status {done.returncode}; pass a command that succeeds")
    return time.perf_counter() - start


PARTS = {part.__name__: part for part in (calibration, training, loader, latency, sizes, nms, evaluation, memory)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the requested parts, print the table, and return the exit status."""
    options = _parse_arguments(arguments)
    if options.threads:  # torch's number of threads, and the allowed cores, in all processes that are started below
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    tables: dict[str, list[dict[str, object]]] = {}
    try:
        claim_file(options.json)
        sys.stdout.write("| what | median | spread (min–max) | unit |\n| --- | --- | --- | --- |\n")
        for part, rows in _measure(options):
            sys.stdout.write("\n".join([f"| **{part}** | | | |", *map(str, rows), ""]))
            sys.stdout.flush()
            tables[part] = [asdict(line) for line in rows]
            if options.json:  # written after each part, so that the results before a failure are saved
                write_signed_json(options.json, tables)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the speed of this machine and of the detector on it.")
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART[,PART]", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, help="number of repeated calls for each timing (default: 20)")
    parser.add_argument("--quick", action="store_true", help="only 2 repeats and 2 training steps, to test this script")
    parser.add_argument("--threads", type=int, help="number of CPU cores to use (default: all)")
    parser.add_argument("--data", default="scenes", help="dataset (default: scenes)")
    parser.add_argument("--weights", default="scenes", help="a .safetensors file or shipped name (default: scenes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--against", metavar="COMMAND", help="measure only two shell commands: --command, and this one")
    parser.add_argument("--command", metavar="COMMAND", help="first shell command, for --against")
    options = parser.parse_args(arguments)
    if (options.against is None) != (options.command is None):
        parser.error("--against and --command must be used together")
    if options.repeats is not None and not 1 <= options.repeats <= STEPS // 2:
        parser.error(f"--repeats must be from 1 to {STEPS // 2}")
    if options.threads is not None and options.threads < 1:
        parser.error("--threads must be at least 1")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: no such folder")
    options.repeats = options.repeats or (2 if options.quick else 20)
    for key in ("data", "weights"):  # absolute paths, because commands run in another folder
        if Path(value := getattr(options, key)).exists():
            setattr(options, key, str(Path(value).resolve()))
    return options


def _measure(options: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    if options.against is not None:
        yield "against", against(options.command, options.against, options.repeats)
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for part in options.only:
            yield part, pool.submit(PARTS[part], options).result()


def _parts(text: str) -> list[str]:
    for part in text.split(","):
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"unknown part '{part}'; {did_you_mean(part, PARTS)}")
    return text.split(",")


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _installed(*packages: str) -> bool:
    return all(find_spec(package) for package in packages)


if __name__ == "__main__":
    sys.exit(main())
