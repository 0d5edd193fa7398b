"""`python tools/benchmark.py` measures this machine's processor and the detector on it, and prints a table.

Every part runs in a process of its own, so that what one sets up (allocator, threads) does not reach the next.
A timing is the median of repeats after a warm-up, beside the least and the greatest. The first part tells what the
machine can do whatever the detector, so that tables of two machines can be compared.
"""

import argparse
import copy
import importlib
import itertools
import json
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
from detector.data.formats.coco import to_coco
from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.detections import Detections, coco_results
from detector.errors import InputError, did_you_mean
from detector.graph.int8_onnx import quantize
from detector.graph.to_onnx import to_onnx
from detector.images import read_image, write_image
from detector.letterbox import letterbox_image
from detector.loader.batch import Batch
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch, training_batches
from detector.metrics.average_precision import score
from detector.model.network import SIZES, GridNetwork, uses_spp
from detector.ops.nms import nms as suppress
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, RuntimeName
from detector.predict.detector import Detector
from detector.predict.postprocess import postprocess
from detector.runtime.hardware import choose_precision, prepare_for_training
from detector.runtime.load import load_runtime
from detector.training.trainer import Trainer
from detector.weights_info import WeightsInfo

CPU = torch.device("cpu")
CONVOLUTION = "3x3, 64 to 64 channels, 80x80, batch 8"
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
INPUT_HW, BATCH, IMAGES, STEPS = (256, 320), 8, 64, 1000
"""Of the parts training and loader: canvas, images per step, images in memory, length of the imagined run."""

MEASURED_COMMAND = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call([sys.executable, "-m", "detector", *sys.argv[1:]])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
"""Small, since Linux begins a process's peak of memory at the size of the process that started it."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure's median, least and greatest; or a word in place of the median."""

    what: str
    median: float | str
    low: float | None = None
    high: float | None = None
    unit: str = ""

    def __str__(self) -> str:
        spread = "" if self.low is None or self.high is None else f"{_short(self.low)}–{_short(self.high)}"
        return f"| {self.what} | {_short(self.median)} | {spread} | {self.unit} |"


def row(what: str, values: Sequence[float], unit: str) -> Row:
    """Return the line for repeated measurements."""
    return Row(what, statistics.median(values), min(values), max(values), unit)


def milliseconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Return what each of `repeats` calls takes, after a quarter as many to warm up."""
    times = []
    for _ in range(max(1, repeats // 4) + repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times[-repeats:]


def timed(calls: Mapping[str, Callable[[], object]], repeats: int) -> list[Row]:
    """Return a line for each call."""
    return [row(what, milliseconds(call, repeats), "ms") for what, call in calls.items()]


def calibration(options: argparse.Namespace) -> list[Row]:
    """Measure what the machine itself can do."""
    prepare_for_training()
    processors = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", processors.read_text() if processors.exists() else "")
    rows = [
        Row("processor", model[1] if model else platform.processor() or platform.machine()),
        Row("cores; threads", f"{os.cpu_count()}; {torch.get_num_threads()}"),
        Row("torch", torch.__version__),
        Row("bf16 is native", "yes" if choose_precision("auto", CPU) == torch.bfloat16 else "no"),
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
    return [*rows, row("memory copy, 256 MiB, read and written", rates, "GB/s")]


def _convolution_rates(dtype: torch.dtype, repeats: int) -> list[float]:
    """Return the GFLOP/s, forward, of a convolution as the networks have them."""
    pixels, weight = (
        torch.rand(shape).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((8, 64, 80, 80), (64, 64, 3, 3))
    )
    times = milliseconds(partial(nn.functional.conv2d, pixels, weight, padding=1), repeats)
    return [2 * 8 * 80 * 80 * weight.numel() / 1e6 / ms for ms in times]


def conv_flops(network: nn.Module, images: Tensor) -> int:
    """Return the floating-point operations, two per multiply-add, of a network's convolutions in one forward pass."""
    counts: list[int] = []

    def count(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        counts.append(2 * output.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def training(options: argparse.Namespace) -> list[Row]:
    """Measure steps of `nano`, in the precision chosen for this machine and in fp32."""
    prepare_for_training()
    dataset, class_count = _training_images(options.data)
    rows = []
    for dtype in dict.fromkeys((choose_precision("auto", CPU), torch.float32)):
        torch.manual_seed(0)
        colors = dataset.color_statistics()
        network = GridNetwork(Config(), class_count, *colors, spp=uses_spp(INPUT_HW))
        # Backward a convolution is two more of its size: for its input and for its weights.
        flops = 3 * BATCH * conv_flops(network.eval(), torch.zeros(1, 3, *INPUT_HW, dtype=torch.uint8))
        needed = flops / 1e6 / statistics.median(_convolution_rates(dtype, options.repeats))
        trainer = Trainer(network, dataset.config, CPU, dtype)
        prepared = itertools.cycle([(step, training_batch(dataset, step, BATCH, STEPS)) for step in range(4)])
        alone = milliseconds(partial(_step, trainer, prepared), options.repeats)
        stream = training_batches(dataset, BATCH, STEPS, 0, STEPS)
        beside_loader = milliseconds(partial(_step, trainer, stream), options.repeats)
        what = f"nano, {INPUT_HW[1]}x{INPUT_HW[0]}, batch {BATCH}, {PRECISIONS[dtype]}: step"
        rows += [
            row(what, alone, "ms"),
            row(what, [BATCH * 1e3 / ms for ms in alone], "img/s"),
            row(f"{what} with the loader beside it", [BATCH * 1e3 / ms for ms in beside_loader], "img/s"),
            Row(f"{what}'s convolutions", flops / 1e9, unit="GFLOP"),
            row(what, [ms / needed for ms in alone], "times what its convolutions take"),
        ]
    return rows


def _step(trainer: Trainer, batches: Iterator[tuple[int, Batch]]) -> None:
    step, batch = next(batches)
    trainer.step(step, STEPS, batch)


def _training_images(data: str) -> tuple[DetectionDataset, int]:
    """Return a few images to train on, and the number of classes."""
    split = open_data(data).read("train")
    few = replace(split, annotations=split.annotations[:IMAGES])
    config = Config(input_size=INPUT_HW, first_input_size=1.0, batch=BATCH)  # every step at full size
    return DetectionDataset(few, INPUT_HW, config), len(split.class_names)


def loader(options: argparse.Namespace) -> list[Row]:
    """Measure how fast one thread makes training samples."""
    prepare_for_training()
    dataset, _ = _training_images(options.data)
    rows = []
    # By the default settings epoch 45 has the full augmentation and no mosaic yet, epoch 100 as much as there will be.
    for epoch, what in ((45, "no mosaic"), (100, "half of them mosaics")):
        first, steps = (epochs * len(dataset) // BATCH for epochs in (epoch, 200))
        batches = map(partial(training_batch, dataset, batch_size=BATCH, steps=steps), itertools.count(first))
        times = milliseconds(partial(next, batches), options.repeats)
        rows.append(row(f"training samples, one thread, {what}", [BATCH * 1e3 / ms for ms in times], "img/s"))
    return rows


def latency(options: argparse.Namespace) -> list[Row]:
    """Measure one image's way from file to detections: its steps, and the whole in every runtime."""
    with tempfile.TemporaryDirectory() as folder:
        path = _draw_image(Path(folder))
        image = read_image(path)
        runtime, info = load_runtime(options.weights, "torch", "cpu")
        letterbox, letterboxed = letterbox_image(image, runtime.input_hw)
        predictions, thresholds = runtime.predict([letterboxed]), (SCORE_THRESHOLD, IOU_THRESHOLD, MAX_DETECTIONS)
        calls: dict[str, Callable[[], object]] = {
            "read and decode a JPEG of 640x480": partial(read_image, path),
            "letterbox": partial(letterbox_image, image, runtime.input_hw),
            "postprocess": partial(postprocess, predictions, [letterbox], info.class_names, *thresholds),
        }
        rows = timed(calls, options.repeats)
        for name in typing.get_args(RuntimeName)[1:]:  # the first is "auto"
            what = f"{name}, {letterboxed.shape[1]}x{letterboxed.shape[0]}"
            if name != "torch" and not _installed("onnx", name.removesuffix("-fast")):
                rows.append(Row(f"predict, {what}", "not installed"))
                continue
            detector = Detector(*load_runtime(options.weights, name, "cpu"))
            predict, detect = partial(detector.runtime.predict, [letterboxed]), partial(detector.detect, image)
            rows += timed({f"predict, {what}": predict, f"file to detections, {what}": detect}, options.repeats)
    return rows


def sizes(options: argparse.Namespace) -> list[Row]:
    """Measure every size of network at 320x320 with random weights and 20 classes, in OpenVINO's three precisions."""
    if not _installed("onnx", "onnxruntime", "openvino"):
        return [Row("sizes, openvino", "not installed")]
    rows = []
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 256, (320, 320, 3), dtype=np.uint8) for _ in range(16)]
    with tempfile.TemporaryDirectory() as folder:
        for name in SIZES:
            torch.manual_seed(0)
            config = Config(model=name)  # type: ignore[arg-type]
            network = GridNetwork(config, 20, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600).eval()
            info = WeightsInfo(name, tuple(map(str, range(20))), tuple(range(20)), (320, 320), {}, {})
            graph = to_onnx(network, info, (320, 320))
            plain, eight = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}-int8.onnx"
            plain.write_bytes(graph)
            eight.write_bytes(quantize(graph, inputs))
            calls: dict[str, Callable[[], object]] = {}
            for what, path, runtime in (
                ("fp32", plain, "openvino"),
                ("openvino-fast", plain, "openvino-fast"),
                ("int8, openvino-fast", eight, "openvino-fast"),
            ):
                started, _ = load_runtime(path, typing.cast(RuntimeName, runtime))
                calls[f"predict, {name}, {what}, 320x320"] = partial(started.predict, inputs[:1])
            rows += timed(calls, options.repeats)
    return rows


def _draw_image(folder: Path) -> Path:
    path = folder / "scene.jpg"
    write_image(path, np.asarray(cv2.resize(scenes.render("test", 0).image, (640, 480)), dtype=np.uint8))
    return path


def nms(options: argparse.Namespace) -> list[Row]:
    """Measure suppression among candidates that crowd round 100 objects, of 80 classes, at IoU 0.7."""
    theirs = _torchvision_nms()
    rows = [] if theirs else [Row("torchvision.ops.batched_nms", "not installed")]
    for count in (1_000, 10_000, 30_000):
        rng = np.random.default_rng(count)
        objects = rng.uniform((50, 50, 20, 20), (590, 590, 200, 200), size=(100, 4)).repeat(count // 100, axis=0)
        objects += objects[:, [2, 3, 2, 3]] * rng.normal(0, 0.1, size=objects.shape)
        boxes = from_cxcywh(objects.astype(np.float32))
        scores = rng.random(count, dtype=np.float32)
        class_ids = rng.integers(80, size=100).repeat(count // 100)
        class_ids = np.where(rng.random(count) < 0.2, rng.integers(80, size=count), class_ids)
        ours = partial(suppress, boxes, scores, class_ids, 0.7)
        calls: dict[str, Callable[[], object]] = {f"{count:,} candidates, {len(ours())} stay": ours}
        if theirs:
            tensors = map(torch.from_numpy, (boxes, scores, class_ids))
            calls[f"{count:,} candidates, torchvision"] = partial(theirs, *tensors, 0.7)
        rows += timed(calls, options.repeats)
    return rows


def _torchvision_nms() -> Callable[..., object] | None:
    """Return torchvision's suppression, or None where it is missing or was built for another torch."""
    try:
        batched_nms: Callable[..., object] = importlib.import_module("torchvision.ops").batched_nms
        batched_nms(torch.zeros(1, 4), torch.zeros(1), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError):
        return None
    return batched_nms


def evaluation(options: argparse.Namespace) -> list[Row]:
    """Measure scoring 100 random detections per image, and how much of it is not faster-coco-eval."""
    source = open_data(options.data)
    split = source.read(next(name for name in ("test", "val", *source.split_names) if name in source.split_names))
    rng = np.random.default_rng(0)
    found = {}
    for annotation in split.annotations:
        corners = rng.random((100, 2, 2)) * annotation.image_hw[::-1]
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
        scores = np.sort(rng.random(100, dtype=np.float32))[::-1]
        class_ids = rng.integers(len(split.class_names), size=100)
        found[annotation.image_id] = Detections(boxes, scores, class_ids, split.class_names)
    truth = to_coco(split)

    def seconds(call: Callable[[dict[str, typing.Any], list[dict[str, typing.Any]]], object]) -> float:
        # Bare scoring writes into what it is given: the next one would find half of its work done.
        fresh, results = copy.deepcopy(truth), coco_results(found, split.category_ids)
        return milliseconds(partial(call, fresh, results), 1)[0] / 1e3

    building = [milliseconds(partial(coco_results, found, split.category_ids), 1)[0] / 1e3 for _ in range(5)]
    # In turns, so that a machine that slows down slows both.
    pairs = [[seconds(call) for call in (score, _score_bare)] for _ in range(options.repeats)]
    first, second = zip(*pairs, strict=True)
    what = f"{len(found)} images, {100 * len(found):,} detections"
    return [
        row(f"score, {what}", first, "s"),
        row(f"faster-coco-eval alone, {what}", second, "s"),
        row(
            "overhead of score: a copy of the ground truth, AP per class",
            [(ours / theirs - 1) * 100 for ours, theirs in pairs],
            "%",
        ),
        row(f"COCO dictionaries from arrays, {what}", building, "s"),
    ]


def _score_bare(truth: dict[str, typing.Any], results: list[dict[str, typing.Any]]) -> None:
    ground_truth = COCO(truth)
    scoring = COCOeval_faster(ground_truth, ground_truth.loadRes(results), iouType="bbox")
    scoring.evaluate()
    scoring.accumulate()
    scoring.summarize()


def memory(options: argparse.Namespace) -> list[Row]:
    """Measure whole commands in fresh processes: peak resident memory, and the wall time to the first image."""
    if not _installed("resource"):
        return [Row("peak memory", "not known on this system")]
    steps = 2 if options.quick else 30
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, graph = _draw_image(folder), folder / "weights.onnx"
        settings = ("--set", f"steps={steps}", "--set", "evaluations=1", "--device", "cpu")
        _, peak = _run_command(folder, "train", "--data", options.data, *settings)
        rows = [Row(f"`detector train`, {steps} steps: peak memory", peak, unit="MB")]
        if _installed("onnx"):
            _run_command(folder, "export", "--weights", options.weights, "--out", str(graph))
        for runtime in ("torch", "onnxruntime", "openvino"):
            weights, suffix = (options.weights, ".safetensors") if runtime == "torch" else (str(graph), ".onnx")
            what = f"`detector detect`, one image, {suffix}, {runtime}"
            if runtime != "torch" and not _installed("onnx", runtime):
                rows.append(Row(what, "not installed"))
                continue
            words = ("detect", str(image), "--weights", weights, "--runtime", runtime, "--device", "cpu")
            runs = [_run_command(folder, *words) for _ in range(1 + max(1, options.repeats // 4))][1:]
            seconds, peaks = zip(*runs, strict=True)
            rows += [row(f"{what}: wall time", seconds, "s"), row(f"{what}: peak memory", peaks, "MB")]
    return rows


def _run_command(folder: Path, *words: str) -> tuple[float, float]:
    """Run `detector WORDS` in a folder; return its seconds and its peak resident memory in MB."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-c", MEASURED_COMMAND, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"`detector {' '.join(words)}` failed: {done.stderr.strip()[-1000:]}")
    seconds, peak = map(float, done.stdout.splitlines()[-1].split())
    return seconds, peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def against(ours: str, theirs: str, repeats: int) -> list[Row]:
    """Time two shell commands as whole processes, in turns, after a first run of each."""
    pairs = [(_shell_seconds(ours), _shell_seconds(theirs)) for _ in range(1 + repeats)][1:]
    first, second = zip(*pairs, strict=True)
    ratio = Row("ratio of medians, first / second", statistics.median(first) / statistics.median(second))
    return [row(f"`{ours}`", first, "s"), row(f"`{theirs}`", second, "s"), ratio]


def _shell_seconds(command: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise InputError(f"`{command}` ended with exit status {done.returncode}: give a command that succeeds")
    return time.perf_counter() - start


PARTS = {part.__name__: part for part in (calibration, training, loader, latency, sizes, nms, evaluation, memory)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print it; return the exit status."""
    parser = argparse.ArgumentParser(description="The detector benchmark: how fast this machine and the detector are.")
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART[,PART]", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, help="of every timing (default: 20)")
    parser.add_argument("--quick", action="store_true", help="2 repeats and 2 training steps: a trial, not figures")
    parser.add_argument("--threads", type=int, help="cores that may be used (default: all)")
    parser.add_argument("--data", default="scenes", help="data set (default: scenes)")
    parser.add_argument("--weights", default="scenes", help="a .safetensors file or shipped name (default: scenes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--against", metavar="COMMAND", help="only time this shell command beside that of --command")
    parser.add_argument("--command", metavar="OURS", help="the first of the two")
    options = parser.parse_args(arguments)
    if (options.against is None) != (options.command is None):
        parser.error("--against and --command go together")
    if options.repeats is not None and not 1 <= options.repeats <= STEPS // 2:
        parser.error(f"--repeats must be from 1 to {STEPS // 2}")
    if options.threads is not None and options.threads < 1:
        parser.error("--threads must be at least 1")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: no such folder")
    options.repeats = options.repeats or (2 if options.quick else 20)
    for key in ("data", "weights"):  # commands run in another folder
        if Path(given := getattr(options, key)).exists():
            setattr(options, key, str(Path(given).resolve()))
    if options.threads:  # of the processes started from here on: what torch goes by, and the cores they get
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    tables: dict[str, list[dict[str, object]]] = {}
    sys.stdout.write("| what | median | spread (min–max) | unit |\n| --- | --- | --- | --- |\n")
    try:
        for part, rows in _measure(options):
            sys.stdout.write("\n".join([f"| **{part}** | | | |", *map(str, rows), ""]))
            sys.stdout.flush()
            tables[part] = [asdict(line) for line in rows]
            if options.json:  # after every part, so that one that fails does not take the others with it
                options.json.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


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
