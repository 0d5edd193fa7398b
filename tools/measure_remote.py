"""Measure how fast training and detection read from an S3 server that waits before each answer, against local files.

The server runs in a process of its own on the same machine, so it takes a part of the CPU time. The cache is empty
before each measurement from the server.

    python tools/measure_remote.py --data datasets/carla --delay 0.05 --images 300 --steps 20
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from s3_server import S3Server


def serve(folder: str, delay: float, connection: Connection) -> None:
    """Run the server until the connection ends."""
    with S3Server(delay) as server:
        server.put_folder(Path(folder), "bucket/data")
        connection.send(server.environment)
        connection.recv()


def seconds(work: Callable[[Path], None]) -> float:
    """Return how long a function takes with an empty cache and a new folder for its results."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        start = time.perf_counter()
        work(Path(folder) / "out")
        return time.perf_counter() - start


def main() -> None:
    """Measure each kind of work locally and from the server, in turns, and print the best times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="datasets/carla", help="dataset with a folder `images`")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before each answer of the server")
    parser.add_argument("--images", type=int, default=300, help="number of images for detection")
    parser.add_argument("--steps", type=int, default=20, help="number of training steps")
    parser.add_argument("--batch", type=int, default=8, help="batch size")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(options.data, options.delay, there))
    process.start()
    os.environ |= here.recv()

    from detector.config import Config
    from detector.detecting.detect_files import detect_images
    from detector.loader import dataset
    from detector.media.sources import find_sources
    from detector.options import DetectOptions
    from detector.predict.detector import Detector
    from detector.training.train import train

    detector = Detector.load("everyday")
    config = Config(steps=options.steps, batch=options.batch, evaluations=1)

    def detect(place: str, out: Path) -> None:
        sources = find_sources([f"{place}/images"])[: options.images]
        detect_images(detector, sources, out, DetectOptions(), weights="everyday", formats=frozenset())

    def train_in_memory(place: str, out: Path) -> None:
        train(place, config, out=out, weights="none")

    def train_from_files(place: str, out: Path) -> None:
        before, dataset._MEMORY_FRACTION = dataset._MEMORY_FRACTION, 0.0
        try:
            train(place, config, out=out, weights="none")
        finally:
            dataset._MEMORY_FRACTION = before

    for name, work in (("detect", detect), ("train", train_in_memory), ("train, not in memory", train_from_files)):
        times: dict[str, list[float]] = {"local": [], "s3": []}
        for _ in range(options.repeats):
            for kind, place in (("local", options.data), ("s3", "s3://bucket/data")):
                times[kind].append(seconds(partial(work, place)))
        local, remote = min(times["local"]), min(times["s3"])
        print(f"{name}: {local:.1f} s local, {remote:.1f} s from S3, {local / remote:.0%} of local speed", flush=True)
    here.send(None)
    process.join()


if __name__ == "__main__":
    main()
