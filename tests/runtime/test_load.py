"""Tests of `load_runtime`: all runtimes predict the same; damaged files and wrong combinations are errors."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from detector.boxes import pairwise_iou
from detector.data.open_data import open_data
from detector.detections import Detections
from detector.errors import ConfigError, FileError, InputError, WeightsError
from detector.exporting.export import export
from detector.images import find_images
from detector.model.checkpoint import load_weights
from detector.options import MAX_DETECTIONS, SCORE_THRESHOLD, DetectOptions, RuntimeName
from detector.predict.detector import Detector
from detector.runtime.load import load_runtime

BOX_TOLERANCE, SCORE_TOLERANCE = 0.5, 0.01
"""Largest allowed difference of a coordinate (in image pixels) and of a score between two runtimes."""


@pytest.fixture(scope="module")
def graph(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the tiny weights to ONNX, and return the path of the file."""
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export(tiny_weights, path, certify=False)
    return path


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the tiny weights to an OpenVINO IR, and return the path of the folder."""
    path = tmp_path_factory.mktemp("graph") / "tiny_openvino"
    export(tiny_weights, path, format="openvino", certify=False)
    return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export the shipped weights `scenes` three times, and return the paths of the exports.

    "plain" is an .onnx file with a fixed input size and without NMS. "dynamic_nms" (an .onnx file) and "folder" (an
    OpenVINO IR) are dynamic and contain NMS.
    """
    root = tmp_path_factory.mktemp("graph")
    paths = {"plain": root / "scenes.onnx", "dynamic_nms": root / "nms.onnx", "folder": root / "nms_openvino"}
    export("scenes", paths["plain"], certify=False)
    export("scenes", paths["dynamic_nms"], nms=DetectOptions(), dynamic=True, certify=False)
    export("scenes", paths["folder"], format="openvino", nms=DetectOptions(), dynamic=True, certify=False)
    return paths


def assert_equal_detections(expected: Detections, found: Detections) -> None:
    """Check that each detection matches exactly one found detection of the same class, within the tolerances."""
    assert len(expected) == len(found)
    similarity = pairwise_iou(expected.boxes, found.boxes) * (expected.class_ids[:, None] == found.class_ids)
    match = similarity.argmax(axis=1)
    assert sorted(match) == list(range(len(found)))
    np.testing.assert_allclose(expected.boxes, found.boxes[match], atol=BOX_TOLERANCE)
    np.testing.assert_allclose(expected.scores, found.scores[match], atol=SCORE_TOLERANCE)


def test_a_folder_does_not_hide_shipped_weights(
    exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(exports["folder"], tmp_path / "cells")
    monkeypatch.chdir(tmp_path)
    assert Detector.load("cells").class_names == ("RBC", "WBC", "Platelets")
    assert Detector.load("./cells").class_names == Detector.load("scenes").class_names


KINDS: list[tuple[str, RuntimeName]] = [
    ("plain", "onnxruntime"),
    ("plain", "openvino"),
    ("dynamic_nms", "onnxruntime"),
    ("dynamic_nms", "openvino"),
    ("folder", "openvino"),
]


@pytest.mark.parametrize(("kind", "runtime"), KINDS)
def test_every_export_detects_the_same_objects(kind: str, runtime: RuntimeName, exports: dict[str, Path]) -> None:
    split = open_data("scenes").read("test")
    # The scores of the runtimes differ by 1e-6. In these images, no score is within 2e-4 of a score threshold, and no
    # IoU is within 9e-5 of the NMS threshold. So rounding errors cannot add or remove a detection on any CPU.
    images = [split.read_image(annotation) for annotation in split.annotations[:12]]
    torch, exported = Detector.load("scenes", device="cpu"), Detector.load(exports[kind], runtime=runtime)
    for score, most in ((SCORE_THRESHOLD, MAX_DETECTIONS), (0.5, 3)):
        expected = torch.detect(images, score_threshold=score, max_detections=most)
        found = exported.detect(images, score_threshold=score, max_detections=most)
        assert sum(len(detections) for detections in expected) > 12
        for one, other in zip(expected, found, strict=True):
            assert_equal_detections(one, other)


@pytest.mark.parametrize(("kind", "runtime"), KINDS[2:])
def test_dynamic_export_runs_at_another_input_size(kind: str, runtime: RuntimeName, exports: dict[str, Path]) -> None:
    split = open_data("scenes").read("test")
    images = [split.read_image(annotation) for annotation in split.annotations[:3]]
    torch = Detector.load("scenes", device="cpu", input_size=416)
    exported = Detector.load(exports[kind], input_size=416, runtime=runtime)
    assert torch.input_hw == exported.input_hw == (320, 416)
    for one, other in zip(torch.detect(images), exported.detect(images), strict=True):
        assert_equal_detections(one, other)
    with pytest.raises(ConfigError, match="410 is not a multiple of 32"):
        Detector.load(exports[kind], input_size=410, runtime=runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("input_size", [None, 160])
def test_graph_in_memory_equals_the_network_at_every_point(
    runtime: RuntimeName, input_size: int | None, tiny_weights: Path
) -> None:
    torch, _ = load_runtime(tiny_weights, device="cpu", runtime="torch", input_size=input_size)
    graph, _ = load_runtime(tiny_weights, device="cpu", runtime=runtime, input_size=input_size)
    assert torch.input_hw == graph.input_hw
    inputs = list(np.random.default_rng(0).integers(0, 256, (3, *torch.input_hw, 3), dtype=np.uint8))
    expected, found = torch.predict(inputs), graph.predict(inputs)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_openvino_fast_scores_are_close(exports: dict[str, Path]) -> None:
    exact, _ = load_runtime(exports["plain"], runtime="openvino")
    fast, _ = load_runtime(exports["plain"], runtime="openvino-fast")
    inputs = [np.random.default_rng(0).integers(0, 256, (*exact.input_hw, 3), dtype=np.uint8)]
    np.testing.assert_allclose(fast.predict(inputs).scores, exact.predict(inputs).scores, atol=0.05)


def test_exports_contain_the_information_about_the_weights(graph: Path, folder: Path, tiny_weights: Path) -> None:
    _, info = load_weights(tiny_weights)
    runtimes: tuple[RuntimeName, ...] = ("auto", "onnxruntime", "openvino")
    for runtime in runtimes:
        assert Detector.load(graph, runtime=runtime).info == info
    assert Detector.load(folder).info == Detector.load(folder / "model.xml").info == info


def test_export_with_fixed_input_size_runs_only_at_this_size(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    assert export(tiny_weights, path, input_size=192, certify=False).input_hw == (128, 192)
    large = Detector.load(path)
    assert (large.input_hw, large.info.input_hw) == ((128, 192), (128, 192))
    assert Detector.load(path, input_size=192).input_hw == (128, 192)
    with pytest.raises(WeightsError, match=r"fixed input size of 192 pixels .* cannot run at 96.*--imgsz 96"):
        Detector.load(path, input_size=96)


def test_wrong_combinations_of_weights_runtime_and_device_are_errors(
    graph: Path, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"torch runs \.safetensors"):
        load_runtime(graph, runtime="torch")
    with pytest.raises(ConfigError, match=r"'cuda'.*runs only on the CPU"):
        load_runtime(graph, device="cuda")
    with pytest.raises(ConfigError, match="runs only on the CPU"):
        load_runtime(tiny_weights, device="cuda", runtime="openvino")
    with pytest.raises(FileError, match="cannot be read"):
        load_runtime(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match=r"onnxruntime runs \.onnx files, not the folder"):
        load_runtime(folder, runtime="onnxruntime")
    with pytest.raises(ConfigError, match=r"torch runs \.safetensors"):
        load_runtime(folder, runtime="torch")
    with pytest.raises(WeightsError, match="cannot run at 192"):
        load_runtime(folder, input_size=192)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_foreign_and_truncated_onnx_files_are_errors(runtime: RuntimeName, graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match=r"foreign\.onnx: written by another program"):
        load_runtime(tmp_path / "foreign.onnx", runtime=runtime)
    (tmp_path / "truncated.onnx").write_bytes(graph.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"truncated\.onnx: not a readable ONNX file"):
        load_runtime(tmp_path / "truncated.onnx", runtime=runtime)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.bin", lambda data: data[:-1], r"model\.bin: the file does not belong to model\.xml"),
        ("model.bin", lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], r"model\.bin: the file does not"),
        ("model.xml", lambda data: data[:3000], "not a readable OpenVINO IR"),
        ("model.xml", lambda data: b"", "not a readable OpenVINO IR"),
        ("model.xml", lambda data: data.replace(b"detector-weights-2", b"another"), "written by another program"),
        (
            "model.xml",
            lambda data: data[: data.index(b"<framework>")] + b"</rt_info></net>",
            "written by another program",
        ),
        ("model.xml", lambda data: data.replace(b"[64, 96]", b"[32, 32]"), "export it again"),
        ("model.bin", None, r"the folder contains no model\.bin"),
        ("model.xml", None, r"the folder contains no model\.xml.*weights/best\.safetensors"),
    ],
)
def test_damaged_or_foreign_folder_is_an_error(
    name: str, change: Callable[[bytes], bytes] | None, message: str, folder: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(folder, tmp_path / "w_openvino")
    data = (path / name).read_bytes()
    (path / name).unlink()
    if change is not None:
        assert change(data) != data
        (path / name).write_bytes(change(data))
    with pytest.raises(InputError, match=message) as caught:
        load_runtime(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["graph", "folder"])
def test_detecting_with_an_export_does_not_import_torch(
    kind: str, request: pytest.FixtureRequest, tiny_data: Path
) -> None:
    image = find_images(tiny_data / "images")[0]
    path: Path = request.getfixturevalue(kind)
    code = f"import sys, detector\nassert len(detector.Detector.load({str(path)!r}).detect({str(image)!r})) >= 0\n"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
def test_signals_work_after_openvino_networks_are_deleted(tiny_weights: Path) -> None:
    code = (
        "import os, signal\n"
        "from detector import Detector\n"
        f"first, second = (Detector.load({str(tiny_weights)!r}, runtime='openvino') for _ in range(2))\n"
        "del first\n"
        "del second\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('caught'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"caught\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, "runtime: expected one of auto, torch, onnxruntime, .*got 'onnx'"),
        ({"runtime": "numpy"}, "runtime: expected one of"),
        ({"runtime": None}, "runtime: expected one of .*got None"),
        ({"device": 0}, "device: expected a name such as 'cpu' or 'cuda:1', got 0"),
        ({"threads": 10**9}, "threads: expected a whole number of at least 1 and at most 1024"),
        ({"threads": 10**9, "runtime": "onnxruntime"}, "threads: expected"),
    ],
)
def test_options_that_no_runtime_has_are_refused(tiny_weights: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_runtime(tiny_weights, **options)
