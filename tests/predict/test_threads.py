"""Tests of a detector in several threads: the same bits as in one thread, loading at once, limits of threads."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.arrays import ImageArray
from detector.cache import SWITCH
from detector.detections import Detections
from detector.errors import ConfigError
from detector.images import find_images, read_image, write_image
from detector.options import RuntimeName
from detector.predict.detector import Detector

RUNTIMES: list[RuntimeName] = ["torch", "onnxruntime", "openvino", "openvino-fast"]
THREADS, IMAGES = 8, 200

OPTIONS: list[dict[str, Any]] = [
    {},
    {"score_threshold": 0.02, "max_detections": 20},
    {"classes": ["blue"], "iou_threshold": 0.3},
    {"tta": True},
    {"suppression": "soft", "class_agnostic": True},
    {"tile": 80, "batch_size": 2},
    {"multi_label": True, "score_threshold": 0.1},
]


def bits(found: Detections) -> tuple[bytes, bytes, bytes]:
    return found.boxes.tobytes(), found.scores.tobytes(), found.class_ids.tobytes()


def in_threads(work: Callable[[int], list[Any]], count: int = THREADS) -> list[list[Any]]:
    """Run `work(0)`, `work(1)`, ... in threads that start together, and return their results."""
    barrier = threading.Barrier(count)

    def run(number: int) -> list[Any]:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.fixture(scope="module")
def images(tiny_data: Path) -> list[ImageArray]:
    """Crops of the tiny images, all different, in many sizes."""
    pixels = [read_image(path) for path in find_images(tiny_data / "images")]
    rng = np.random.default_rng(0)
    crops = []
    for index in range(IMAGES):
        image = pixels[index % len(pixels)]
        top, left = rng.integers(0, 24, 2)
        crops.append(np.ascontiguousarray(image[top:, left:]))
    return crops


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_that_share_a_detector_get_the_same_bits(
    runtime: RuntimeName, tiny_weights: Path, images: list[ImageArray]
) -> None:
    detector = Detector.load(tiny_weights, device="cpu", runtime=runtime)

    def detect(index: int) -> tuple[bytes, bytes, bytes]:
        return bits(detector.detect(images[index], **OPTIONS[index % len(OPTIONS)]))

    alone = [detect(index) for index in range(IMAGES)]
    assert len(set(alone)) > IMAGES // 2  # an answer to another image would be noticed
    for start, found in enumerate(
        in_threads(lambda number: [detect((i + 25 * number) % IMAGES) for i in range(IMAGES)])
    ):
        rotated = [alone[(i + 25 * start) % IMAGES] for i in range(IMAGES)]
        wrong = sum(one != other for one, other in zip(found, rotated, strict=True))
        assert not wrong, f"{wrong} of {IMAGES} answers are not those of one thread"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_threads_can_stream_from_one_detector(
    runtime: RuntimeName, tiny_weights: Path, images: list[ImageArray]
) -> None:
    detector = Detector.load(tiny_weights, runtime=runtime)
    expected = [bits(found) for found in detector.detect(images[:40])]

    def stream(number: int) -> list[Any]:
        return [bits(found) for found in detector.detect_each(images[:40]) if isinstance(found, Detections)]

    assert in_threads(stream, 4) == [expected] * 4


def test_threads_can_use_one_lazily_opened_image(tiny_weights: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3)).astype(np.uint8)
    write_image(tmp_path / "noise.png", noise)
    detector = Detector.load(tiny_weights, device="cpu")
    expected = bits(detector.detect(noise, score_threshold=0.001))
    for _ in range(3):
        with Image.open(tmp_path / "noise.png") as image:
            found = in_threads(lambda _, image=image: [bits(detector.detect(image, score_threshold=0.001))])  # type: ignore[misc]
        assert found == [[expected]] * THREADS


@pytest.mark.parametrize("cache", ["on", "off"])
def test_threads_can_load_weights_at_once(
    cache: str, tiny_weights: Path, images: list[ImageArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(SWITCH, cache)
    runtimes: list[RuntimeName] = ["onnxruntime", "openvino", "torch", "onnxruntime"]
    expected = [bits(Detector.load(tiny_weights, device="cpu", runtime=name).detect(images[0])) for name in runtimes]

    def load(number: int) -> list[Any]:
        detector = Detector.load(tiny_weights, device="cpu", runtime=runtimes[number])
        return [bits(detector.detect(images[0]))]

    assert in_threads(load, 4) == [[one] for one in expected]
    assert len(list(tmp_path.glob("detector/*"))) == (1 if cache == "on" else 0)


FIRST_LOAD = """
import sys, threading
from detector import Detector
failed = []
def load(runtime):
    try:
        Detector.load(sys.argv[1], runtime=runtime).detect(sys.argv[2])
    except BaseException as error:
        failed.append(repr(error))
threads = [threading.Thread(target=load, args=(name,)) for name in ("openvino", "onnxruntime", "openvino")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failed, failed
"""


def test_first_imports_may_happen_in_several_threads(tiny_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FIRST_LOAD, str(tiny_weights), str(tiny_data / "images" / "1.png")]
    done = subprocess.run(
        command, env=os.environ | {SWITCH: "off"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_invalid_number_of_threads_is_refused(runtime: RuntimeName, threads: Any, tiny_weights: Path) -> None:
    with pytest.raises(ConfigError, match="threads: expected a whole number of at least 1"):
        Detector.load(tiny_weights, device="cpu", runtime=runtime, threads=threads)


def test_graph_of_changed_weights_is_not_taken_from_the_cache(
    tiny_weights: Path, images: list[ImageArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    path = tmp_path / "w.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    first = Detector.load(path, runtime="onnxruntime")
    assert first.class_names == ("red", "blue")
    path.write_bytes(path.read_bytes().replace(b'[\\"red\\", \\"blue\\"]', b'[\\"RED\\", \\"BLUE\\"]'))
    assert Detector.load(path, runtime="onnxruntime").class_names == ("RED", "BLUE")
    assert Detector.load(path, runtime="onnxruntime", input_size=192).input_hw == (128, 192)
    assert len(list((tmp_path / "xdg" / "detector").iterdir())) == 3


def test_damaged_entry_of_the_cache_is_replaced(
    tiny_weights: Path, images: list[ImageArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = bits(Detector.load(tiny_weights, runtime="onnxruntime").detect(images[0]))
    [entry] = (tmp_path / "detector").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1000] + bytes(1000))
    assert bits(Detector.load(tiny_weights, runtime="onnxruntime").detect(images[0])) == expected
    assert entry.read_bytes() == whole
    entry.unlink()
    assert bits(Detector.load(tiny_weights, runtime="onnxruntime", cache=False).detect(images[0])) == expected
    assert not entry.exists()
