"""Detect many times and load many times, and print how memory, threads and open files change: they must stay the same.

    python tools/soak.py --weights scenes                    # 10,000 detections and 50 loads with every runtime
    python tools/soak.py --weights scenes --speed            # images/s with 1 and 2 threads, and CPU seconds per second

Every runtime runs in a process of its own. The images have different sizes, between 32 and 160 pixels; every tenth is
tiled and every tenth is detected with flip test-time augmentation.
"""

import argparse
import gc
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import run_command  # noqa: F401 (the path of the package)

from detector.arrays import ImageArray
from detector.options import RuntimeName

RUNTIMES = [name for name in get_args(RuntimeName) if name != "auto"]
REPORTS = 5
"""Number of lines per test."""


def main() -> None:
    """Run the tests of one runtime, or start a process for each runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="scenes")
    parser.add_argument("--runtime", choices=RUNTIMES, help="only this runtime, in this process")
    parser.add_argument("--imgsz", type=int, default=64, help="input size (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=10_000, help="number of detections (default: %(default)s)")
    parser.add_argument("--loads", type=int, default=50, help="number of loads (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime (default: %(default)s)")
    parser.add_argument("--speed", action="store_true", help="measure the speed with several threads instead")
    options = parser.parse_args()
    if options.runtime is None:
        for name in RUNTIMES:
            subprocess.run([sys.executable, *sys.argv, "--runtime", name], check=True)
    elif options.speed:
        measure_speed(options)
    else:
        detect_often(options)
        load_often(options)


def load(options: argparse.Namespace, threads: int) -> Any:
    """Load the detector with the runtime and the input size of the options."""
    from detector import Detector

    return Detector.load(
        options.weights, device="cpu", runtime=options.runtime, input_size=options.imgsz, threads=threads
    )


def detect_often(options: argparse.Namespace) -> None:
    """Detect in images of many sizes, and print the state of the process."""
    detector = load(options, options.threads)
    images = random_images(997, 32, 160)
    warmup = min(1000, options.calls // 10)
    for call in range(options.calls + 1):
        if call == warmup or (call and call % (options.calls // REPORTS) == 0):
            print(f"{options.runtime}: {call} detections: {state()}", flush=True)
        detector.detect(images[call % len(images)], tta=call % 10 == 0, tile=64 if call % 10 == 5 else None)


def load_often(options: argparse.Namespace) -> None:
    """Load the detector, detect once, and delete it; print the state of the process."""
    image = random_images(1, 100, 101)[0]
    for count in range(options.loads + 1):
        if count and count % max(1, options.loads // REPORTS) == 0:
            gc.collect()
            print(f"{options.runtime}: {count} loads: {state()}", flush=True)
        detector = load(options, options.threads)
        detector.detect(image)
        del detector


def measure_speed(options: argparse.Namespace) -> None:
    """Print images/s and CPU seconds per second, for 1 and 2 threads of the runtime and 1 and 2 calling threads."""
    images = random_images(20, 300, 600)
    for threads in (1, 2):
        detector = load(options, threads)
        rows: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for _ in range(9):  # alternating, because other programs change the speed
            for callers, row in rows.items():
                row.append(one_speed(detector, images, callers))
        for callers, row in rows.items():
            speed, cpu = (sorted(column)[len(row) // 2] for column in zip(*row, strict=True))
            print(
                f"{options.runtime}, threads={threads}, {callers} calling: {speed:.1f} images/s, {cpu:.2f} CPU s per s",
                flush=True,
            )


def one_speed(detector: Any, images: list[ImageArray], callers: int) -> tuple[float, float]:
    """Detect once in each image with some calling threads; return (images/s, CPU seconds per second)."""
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(detector.detect, images[: 2 * callers]))  # so that all threads exist
        start, cpu = time.perf_counter(), time.process_time()
        list(pool.map(detector.detect, images))
        seconds = time.perf_counter() - start
        return len(images) / seconds, (time.process_time() - cpu) / seconds


def random_images(count: int, smallest: int, largest: int) -> list[ImageArray]:
    """Return images of noise, each with another size; sides from `smallest` to below `largest`."""
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = rng.integers(smallest, largest, (count, 2))
    return [rng.integers(0, 256, (height, width, 3)).astype(np.uint8) for height, width in sizes]


def state() -> str:
    """Return the resident memory, the number of threads and the number of open files of this process (Linux)."""
    [resident] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    threads, files = (len(list(Path("/proc/self", name).iterdir())) for name in ("task", "fd"))
    return f"{int(resident.split()[1]) / 1000:.1f} MB, {threads} threads, {files} open files"


if __name__ == "__main__":
    main()
