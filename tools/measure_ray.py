"""Compare the throughput of `detect --engine ray` with that of plain `detect`, in images/s per core.

    python tools/measure_ray.py --images 100000 --cores 2 --pairs 3 --folder /tmp/ray-measurement

Both run on the same number of cores, alternately. Plain `detect` runs as one process per core, each with one shard. The
start of the processes is not part of the time: it is measured from the 1st to the last image, by the journals. The
images are JPEG files of 256 x 192 pixels: 100 different ones, and hard links to them.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from detector.data.scenes import scenes
from detector.images import write_image

DIFFERENT = 100
WARMUP = 0.1
"""Fraction of the images at the start that is not timed, while not all processes are at work."""


def make_images(folder: Path, count: int) -> None:
    """Write `count` JPEG files, unless they exist."""
    if folder.is_dir() and sum(1 for _ in folder.iterdir()) == count:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index in range(count):
        path = folder / f"{index:07}.jpg"
        if index < DIFFERENT:
            image = cv2.resize(scenes.render("test", index).image, (256, 192), interpolation=cv2.INTER_AREA)
            write_image(path, image.astype(np.uint8))
        else:
            path.hardlink_to(folder / f"{index % DIFFERENT:07}.jpg")


class Progress(threading.Thread):
    """Counts the lines of all journals in a folder while other processes write them.

    Attributes:
        times: pairs of a time in seconds and the number of images that were done then.
        peak_kib: largest resident memory of the process, in KiB.
    """

    def __init__(self, out: Path, pid: int) -> None:
        super().__init__(daemon=True)
        self.times: list[tuple[float, int]] = []
        self.peak_kib = 0
        self._out, self._pid, self._finished = out, pid, threading.Event()
        self._sizes: dict[Path, tuple[int, int]] = {}

    def run(self) -> None:
        """Count until `finish` is called."""
        while not self._finished.wait(0.2):
            self.times.append((time.monotonic(), sum(map(self._lines, self._out.glob("shard-*/detections.jsonl")))))
            status = Path(f"/proc/{self._pid}/status")
            if status.exists() and "VmHWM" in (text := status.read_text()):
                self.peak_kib = int(text.split("VmHWM:")[1].split()[0])

    def finish(self, count: int) -> float:
        """Return images/s between the end of the warmup and the last image."""
        self._finished.set()
        self.join()
        start = next(pair for pair in self.times if pair[1] >= WARMUP * count)
        end = next(pair for pair in self.times if pair[1] == self.times[-1][1])
        return (end[1] - start[1]) / (end[0] - start[0])

    def _lines(self, path: Path) -> int:
        offset, lines = self._sizes.get(path, (0, -1))  # the first line has the settings
        with path.open("rb") as file:
            file.seek(offset)
            new = file.read()
        self._sizes[path] = offset + len(new), lines + new.count(b"\n")
        return self._sizes[path][1]


def measure(engine: str, cores: int, count: int, weights: str, folder: Path) -> tuple[float, float]:
    """Return images/s of one run, and the peak memory in MiB of the process that writes the results (plain: of one)."""
    out = folder / engine
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "detector", "detect", str(folder / "images"), "--weights", weights, "--quiet"]
    command += ["--no-images", "--threads", "1", "--out", str(out)]
    if engine == "ray":
        processes = [subprocess.Popen([*command, "--engine", "ray"], stdout=subprocess.DEVNULL)]
    else:
        shards = [f"{index}/{cores}" for index in range(cores)]
        processes = [subprocess.Popen([*command, "--shard", shard], stdout=subprocess.DEVNULL) for shard in shards]
    progress = Progress(out, processes[0].pid)
    progress.start()
    failed = [process.returncode for process in processes if process.wait()]
    assert not failed, f"{engine}: exit status {failed}"
    return progress.finish(count), progress.peak_kib / 1024


def main() -> None:
    """Measure both engines alternately, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="number of images (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="number of cores of this machine (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="number of runs of each engine (default: %(default)s)")
    parser.add_argument("--weights", default="everyday", help="weights (default: %(default)s)")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the images and results")
    options = parser.parse_args()
    make_images(options.folder / "images", options.images)
    speeds: dict[str, list[float]] = {"plain": [], "ray": []}
    for pair in range(options.pairs):
        for engine in sorted(speeds, reverse=pair % 2 == 1):
            speed, memory = measure(engine, options.cores, options.images, options.weights, options.folder)
            speeds[engine].append(speed)
            per_core = speed / options.cores
            print(f"{engine}: {speed:.1f} images/s, {per_core:.1f} per core, peak {memory:.0f} MiB", flush=True)
    ratios = [ray / plain for ray, plain in zip(speeds["ray"], speeds["plain"], strict=True)]
    print(f"ray / plain: median {statistics.median(ratios):.3f} of {[round(ratio, 3) for ratio in ratios]}")


if __name__ == "__main__":
    main()
