import gc
import itertools
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detector.arrays import ImageArray
from detector.detections import Detections
from detector.errors import ConfigError, InputError
from detector.images import find_images, read_image
from detector.predict.detector import Detector
from detector.runtime.base import PointPredictions

LIMIT = 30
"""Seconds after which a test counts as hanging."""


@pytest.fixture(scope="module")
def detector(tiny_weights: Path) -> Detector:
    return Detector.load(tiny_weights, device="cpu")


@pytest.fixture(scope="module")
def images(tiny_data: Path) -> list[Path]:
    return find_images(tiny_data / "images")


def live(images: list[Path]) -> "tuple[queue.Queue[Path | None], Iterator[Path | None]]":
    """Return a queue with images, and an iterator over it that blocks when the queue is empty and ends at None."""
    feed: queue.Queue[Path | None] = queue.Queue()
    for image in images:
        feed.put(image)
    return feed, iter(feed.get, None)


def wait_for_threads(before: set[threading.Thread]) -> None:
    end = time.monotonic() + LIMIT
    while set(threading.enumerate()) - before:
        assert time.monotonic() < end, "a thread still runs"
        time.sleep(0.01)


def test_a_result_does_not_wait_for_the_next_image(detector: Detector, images: list[Path]) -> None:
    before = set(threading.enumerate())
    feed, source = live(images[:1])
    results = detector.detect_each(source)  # type: ignore[arg-type]
    for image in images[1:6]:
        found = next(results)
        assert isinstance(found, Detections)
        feed.put(image)
    feed.put(None)
    assert len(list(results)) == 1
    wait_for_threads(before)


def test_break_ends_a_loop_over_a_blocking_source(detector: Detector, images: list[Path]) -> None:
    before = set(threading.enumerate())
    feed, source = live(images[:3])
    for count, _ in enumerate(detector.detect_each(source), 1):  # type: ignore[arg-type]
        if count == 3:
            break
    feed.put(images[0])  # the source goes on, and so the thread ends
    wait_for_threads(before)


def test_an_exception_ends_a_loop_over_a_blocking_source(detector: Detector, images: list[Path]) -> None:
    feed, source = live(images[:1])

    def fail() -> None:
        for _ in detector.detect_each(source):  # type: ignore[arg-type]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    feed.put(None)


def test_an_abandoned_loop_is_ended_by_the_garbage_collector(detector: Detector, images: list[Path]) -> None:
    before = set(threading.enumerate())
    feed, source = live(images[:1])
    results = detector.detect_each(source)  # type: ignore[arg-type]
    next(results)
    cycle: list[object] = [results]
    cycle.append(cycle)
    del results, cycle
    gc.collect()
    feed.put(images[0])
    wait_for_threads(before)


def test_one_stream_may_be_the_source_of_another(detector: Detector, images: list[Path]) -> None:
    feed, source = live(images[:2])

    def crops() -> Iterator[ImageArray]:
        for result in detector.detect_with_images(source, full_batches=False):  # type: ignore[arg-type]
            assert not isinstance(result, InputError)
            yield result[0]

    results = detector.detect_each(crops())
    for path in images[:2]:
        found, expected = next(results), detector.detect(path)
        assert isinstance(found, Detections)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    results.close()
    feed.put(None)


PROGRAM = """
import os, queue, signal, sys, threading
from detector import Detector
model, feed = Detector.load(sys.argv[1], device="cpu"), queue.Queue()
feed.put(sys.argv[2])
feed.put(sys.argv[2])
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    for found in model.detect_each(iter(feed.get, None)):
        pass
except KeyboardInterrupt:
    print("interrupted")
feed = queue.Queue()
feed.put(sys.argv[2])
results = model.detect_each(iter(feed.get, None))
next(results)
print("went on")
"""


@pytest.mark.posix
def test_ctrl_c_and_exit_do_not_wait_for_the_source(tiny_weights: Path, images: list[Path]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tiny_weights), str(images[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LIMIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nwent on\n", "")


class BatchSizes:
    """A runtime that notes the size of each batch, and passes it on."""

    def __init__(self, detector: Detector) -> None:
        self._runtime = detector.runtime
        self.name, self.input_hw = detector.runtime.name, detector.runtime.input_hw
        self.sizes: list[int] = []

    def predict(self, images: list[ImageArray]) -> PointPredictions:
        self.sizes.append(len(images))
        return self._runtime.predict(images)


def test_lists_have_fixed_batches_and_iterators_do_not_wait(detector: Detector, images: list[Path]) -> None:
    noted = BatchSizes(detector)
    noting = Detector(noted, detector.info)  # type: ignore[arg-type]

    def slow(count: int) -> Iterator[Path]:
        for image in itertools.islice(itertools.cycle(images), count):
            time.sleep(0.02)
            yield image

    assert len(list(noting.detect_each(images[:11], batch_size=4))) == 11
    assert noted.sizes == [4, 4, 3]
    noted.sizes.clear()
    assert len(noting.detect(slow(6), batch_size=4)) == 6
    assert noted.sizes == [4, 2]
    noted.sizes.clear()
    assert len(list(noting.detect_each(slow(6), batch_size=4))) == 6
    assert sum(noted.sizes) == 6
    assert noted.sizes[0] == 1


def test_detect_accepts_iterators_and_returns_a_list(detector: Detector, images: list[Path]) -> None:
    expected = [found.scores.tolist() for found in detector.detect(images[:3])]
    for source in (iter(images[:3]), (path for path in images[:3]), dict.fromkeys(images[:3]).keys()):
        assert [found.scores.tolist() for found in detector.detect(source)] == expected
    with pytest.raises(InputError, match="a set has no order"):
        detector.detect(set(images))
    stack = np.stack([read_image(path) for path in images[:2]])
    assert len(detector.detect(stack)) == 2


def test_a_single_image_given_to_detect_each_is_one_image(detector: Detector, images: list[Path]) -> None:
    path = images[0]
    expected = detector.detect(path).scores.tolist()
    for source in (path, str(path), path.read_bytes(), read_image(path)):
        [found] = detector.detect_each(source)
        assert isinstance(found, Detections)
        assert found.scores.tolist() == expected
    [error] = detector.detect_each("missing.png")
    assert "missing.png: no such image" in str(error)


def test_detect_each_refuses_wrong_arguments_before_the_loop(detector: Detector) -> None:
    with pytest.raises(ConfigError, match="score_threshold"):
        detector.detect_each([], score_threshold=40)
    with pytest.raises(ConfigError, match="classes: no class 'car'"):
        detector.detect_each([], classes=["car"])
    with pytest.raises(InputError, match="a set has no order"):
        detector.detect_each({"a.jpg"})
    with pytest.raises(InputError, match="got int"):
        detector.detect_each(5)  # type: ignore[arg-type]


def test_frames_written_to_one_array_get_their_own_results(detector: Detector, images: list[Path]) -> None:
    buffer = np.zeros((64, 96, 3), np.uint8)  # of the input size, so that nothing else copies it

    def frames() -> Iterator[ImageArray]:
        for path in images[:8]:
            buffer[:] = read_image(path)
            yield buffer

    for path, found in zip(images, detector.detect(frames()), strict=False):
        expected = detector.detect(path)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
