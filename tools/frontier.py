"""Measure AP against latency of every network size, precision and input size, and plot it.

    python tools/frontier.py train --data datasets/bccd.yaml --out frontier
    python tools/frontier.py ap --data datasets/bccd.yaml --out frontier
    python tools/frontier.py time --out frontier --peer YOLOv8n=yolov8n-320.onnx
    python tools/frontier.py plot --out frontier --peer-ap YOLOv8n=0.549

`train` trains each size once, from random weights, with the same number of steps. `ap` evaluates its last weights on
test in OpenVINO at every input size. `time` needs a quiet machine: it measures the network in one image, in turn for
all variants, and ONNX files of other detectors beside them. The results are in `frontier.json` in the folder.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector.config import Config, override
from detector.evaluating.evaluate import evaluate
from detector.exporting.export import export, training_images
from detector.model.network import SIZES
from detector.options import RuntimeName
from detector.runtime.load import load_runtime
from detector.training.train import train

PRECISIONS: dict[str, tuple[str, RuntimeName]] = {
    "float32": ("float32.onnx", "openvino"),
    "fast": ("float32.onnx", "openvino-fast"),
    "int8": ("int8.onnx", "openvino"),
}
"""Name → file of the export, runtime. `openvino-fast` is bfloat16 on CPUs that have it, else float32."""

Results = dict[str, dict[str, Any]]
"""Name of a variant → "AP" and "ms"."""


def variants(options: argparse.Namespace) -> dict[str, tuple[Path, RuntimeName]]:
    """Return name → file, runtime."""
    found = {}
    for size, pixels, precision in product(options.sizes, options.inputs, PRECISIONS):
        file, runtime = PRECISIONS[precision]
        found[f"{size} {pixels} {precision}"] = (options.out / size / str(pixels) / file, runtime)
    return found


def train_sizes(options: argparse.Namespace) -> None:
    """Train each size that has no weights yet."""
    for size in options.sizes:
        folder = options.out / size / "run"
        if not (folder / "weights" / "last.safetensors").exists():
            settings = [f"model={size}", f"steps={options.steps}", "evaluations=1", *options.set]
            config = override(Config(), settings)
            train(options.data, config, split=options.split, weights=options.weights, out=folder, overwrite=True)
            print(f"{size}: trained", flush=True)


def measure_ap(options: argparse.Namespace, results: Results) -> None:
    """Export each size for each input size, and evaluate the exports that have no AP yet."""
    images = training_images(options.data)
    for size, pixels in product(options.sizes, options.inputs):
        weights = options.out / size / "run" / "weights" / "last.safetensors"
        folder = options.out / size / str(pixels)
        folder.mkdir(exist_ok=True)
        for file in ("float32.onnx", "int8.onnx"):
            if not (folder / file).exists():
                int8 = images if file == "int8.onnx" else None
                export(weights, folder / file, input_size=pixels, int8_images=int8, certify=False)
    for name, (path, runtime) in variants(options).items():
        if "AP" not in results.setdefault(name, {}):
            ap = evaluate(options.data, path, split="test", runtime=runtime, threads=1, intervals=False)
            results[name]["AP"] = ap.AP
            print(f"{name}: AP {ap.AP:.4f}", flush=True)
            write(options, results)


def measure_times(options: argparse.Namespace, results: Results) -> None:
    """Measure the median time of the network in one image, with one thread, in turn for all variants and peers."""
    calls: dict[str, Callable[[], object]] = {}
    rng = np.random.default_rng(0)
    for name, (path, runtime_name) in variants(options).items():
        runtime, _ = load_runtime(path, runtime=runtime_name, threads=1)
        image = rng.integers(0, 256, (*runtime.input_hw, 3), dtype=np.uint8)
        calls[name] = partial(runtime.predict, [image])
    for peer in options.peer:
        name, _, file = peer.partition("=")
        for precision in ("float32", "fast"):
            calls[f"{name} {precision}"] = peer_call(Path(file), precision)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            call()  # brings the weights back into the caches of the CPU after the other networks
            for _ in range(3):
                start = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - start) * 1000)
    for name, values in times.items():
        results.setdefault(name, {})["ms"] = round(statistics.median(values), 3)
        print(f"{name}: {results[name]['ms']} ms", flush=True)
    write(options, results)


def peer_call(path: Path, precision: str) -> Callable[[], object]:
    """Return a function that runs an ONNX file of another detector in OpenVINO on a random image."""
    import openvino

    hint = {} if precision == "fast" else {"INFERENCE_PRECISION_HINT": "f32"}
    limits = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(path, "CPU", hint | limits)
    shape = tuple(compiled.input(0).shape)
    return partial(compiled.create_infer_request().infer, {0: np.random.default_rng(0).random(shape, np.float32)})


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (ms, AP) of which no other is both faster and better, by time."""
    best: list[tuple[float, float]] = []
    for ms, ap in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or ap > best[-1][1]:
            best.append((ms, ap))
    return best


def plot(options: argparse.Namespace, results: Results) -> None:
    """Draw AP against time to frontier.svg, and print the frontier and the sizes that are not on it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120)
    own = {name: row for name in variants(options) if {"AP", "ms"} <= (row := results.get(name, {})).keys()}
    for (size, color), (precision, marker) in product(
        zip(options.sizes, ("C0", "C1", "C2", "C3"), strict=False), zip(PRECISIONS, "o^s", strict=True)
    ):
        rows = [row for name, row in own.items() if name.startswith(f"{size} ") and name.endswith(precision)]
        axes.plot(
            [row["ms"] for row in rows], [row["AP"] for row in rows], color + marker + ":", label=f"{size} {precision}"
        )
    line = frontier([(row["ms"], row["AP"]) for row in own.values()])
    axes.step(*zip(*line, strict=True), where="post", color="0.6", zorder=0)
    for number, peer in enumerate(options.peer_ap):
        name, _, ap = peer.partition("=")
        times = [row["ms"] for key, row in results.items() if key.startswith(f"{name} ")]
        axes.plot(times, [float(ap)] * len(times), "k*", markersize=10)
        axes.annotate(name, (min(times), float(ap)), textcoords="offset points", xytext=(6, -12 if number % 2 else 6))
    axes.set(xscale="log", xlabel="ms per image: the network, one thread", ylabel="AP on test")
    ticks = (1, 2, 3, 5, 10, 20, 30, 50)
    axes.set_xticks(ticks, labels=map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(options.out / "frontier.svg")
    for ms, ap in line:
        name = next(name for name, row in own.items() if (row["ms"], row["AP"]) == (ms, ap))
        print(f"{name}: {ms:.2f} ms, AP {ap:.3f}")


def write(options: argparse.Namespace, results: Results) -> None:
    """Write the results."""
    (options.out / "frontier.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run one step of the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "ap", "time", "plot"))
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, exports and results")
    parser.add_argument("--data", default="datasets/bccd.yaml", help="dataset (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="network sizes (default: all)")
    parser.add_argument("--inputs", nargs="+", type=int, default=[224, 320, 416, 512, 640], help="input sizes")
    parser.add_argument("--steps", type=int, default=1200, help="training steps (default: %(default)s)")
    parser.add_argument("--split", default="trainval", help="training split (default: %(default)s)")
    parser.add_argument("--weights", help="initial weights (default: random)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the runs")
    parser.add_argument("--repeats", type=int, default=20, help="turns with three timed calls (default: %(default)s)")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FILE", help="an ONNX file to time")
    parser.add_argument("--peer-ap", action="append", default=[], metavar="NAME=AP", help="its AP, for the plot")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "frontier.json"
    results: Results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if options.step == "train":
        train_sizes(options)
    elif options.step == "ap":
        measure_ap(options, results)
    elif options.step == "time":
        measure_times(options, results)
    else:
        plot(options, results)


if __name__ == "__main__":
    main()
