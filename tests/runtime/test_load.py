import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from detector.boxes import pairwise_iou
from detector.data.open_data import open_data
from detector.detections import Detections
from detector.errors import InputError
from detector.exporting.export import export
from detector.graph.metadata import NmsSettings
from detector.images import find_images
from detector.model.checkpoint import load_weights
from detector.options import RuntimeName
from detector.predict.detector import Detector
from detector.runtime.load import load_runtime

SAME_BOX, SAME_SCORE = 0.5, 0.01
"""How far answers of two runtimes may be apart: pixels of the image, and score."""


@pytest.fixture(scope="module")
def graph(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export(tiny_weights, path)
    return path


@pytest.fixture(scope="module")
def folder(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "tiny_openvino"
    export(tiny_weights, path, "openvino")
    return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped `scenes`, plain and with everything free or inside."""
    where = tmp_path_factory.mktemp("graph")
    paths = {"plain": where / "scenes.onnx", "all": where / "all.onnx", "folder": where / "all_openvino"}
    export("scenes", paths["plain"])
    export("scenes", paths["all"], nms=NmsSettings(), dynamic=True)
    export("scenes", paths["folder"], "openvino", nms=NmsSettings(), dynamic=True)
    return paths


def assert_agree(one: Detections, other: Detections) -> None:
    """Each detection of either has its like in the other."""
    assert len(one) == len(other)
    like = pairwise_iou(one.boxes, other.boxes) * (one.class_ids[:, None] == other.class_ids)
    partner = like.argmax(axis=1)
    assert sorted(partner) == list(range(len(other)))
    np.testing.assert_allclose(one.boxes, other.boxes[partner], atol=SAME_BOX)
    np.testing.assert_allclose(one.scores, other.scores[partner], atol=SAME_SCORE)


KINDS: list[tuple[str, RuntimeName]] = [
    ("plain", "onnxruntime"),
    ("plain", "openvino"),
    ("all", "onnxruntime"),
    ("all", "openvino"),
    ("folder", "openvino"),
]


@pytest.mark.parametrize(("kind", "runtime"), KINDS)
def test_every_export_finds_the_same_in_images(kind: str, runtime: RuntimeName, exports: dict[str, Path]) -> None:
    split = open_data("scenes").read("test")
    images = [split.read_image(annotation) for annotation in split.annotations[:12]]
    torch, other = Detector.load("scenes", "cpu"), Detector.load(exports[kind], runtime=runtime)
    for options in ({}, {"score_threshold": 0.5, "max_detections": 3}):
        found = torch.detect(images, **options)
        assert sum(len(detections) for detections in found) > 12
        for one, two in zip(found, other.detect(images, **options), strict=True):
            assert_agree(one, two)


@pytest.mark.parametrize(("kind", "runtime"), KINDS[2:])
def test_a_dynamic_export_takes_another_canvas(kind: str, runtime: RuntimeName, exports: dict[str, Path]) -> None:
    split = open_data("scenes").read("test")
    images = [split.read_image(annotation) for annotation in split.annotations[:3]]
    torch, other = Detector.load("scenes", "cpu", 416), Detector.load(exports[kind], long_side=416, runtime=runtime)
    assert torch.input_hw == other.input_hw == (320, 416)
    for one, two in zip(torch.detect(images), other.detect(images), strict=True):
        assert_agree(one, two)
    with pytest.raises(InputError, match="does not divide by 32"):
        Detector.load(exports[kind], long_side=410, runtime=runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("long_side", [None, 160])
def test_a_graph_made_in_memory_says_at_every_point_what_the_network_says(
    runtime: RuntimeName, long_side: int | None, tiny_weights: Path
) -> None:
    torch, _ = load_runtime(tiny_weights, "torch", "cpu", long_side)
    other, _ = load_runtime(tiny_weights, runtime, "cpu", long_side)
    assert torch.input_hw == other.input_hw
    inputs = list(np.random.default_rng(0).integers(0, 256, (3, *torch.input_hw, 3), dtype=np.uint8))
    one, two = torch.predict(inputs), other.predict(inputs)
    np.testing.assert_allclose(two.boxes, one.boxes, atol=0.01)
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-4)


def test_openvino_in_its_own_precision_is_near(exports: dict[str, Path]) -> None:
    exact, _ = load_runtime(exports["plain"], "openvino")
    fast, _ = load_runtime(exports["plain"], "openvino-fast")
    inputs = [np.random.default_rng(0).integers(0, 256, (*exact.input_hw, 3), dtype=np.uint8)]
    one, two = exact.predict(inputs), fast.predict(inputs)
    np.testing.assert_allclose(two.scores, one.scores, atol=0.05)


def test_class_names_ids_and_training_facts_travel_with_the_graph(
    graph: Path, folder: Path, tiny_weights: Path
) -> None:
    _, info = load_weights(tiny_weights)
    for runtime in ("auto", "onnxruntime", "openvino"):
        assert Detector.load(graph, runtime=runtime).info == info
    assert Detector.load(folder).info == Detector.load(folder / "model.xml").info == info


def test_a_graph_for_another_canvas_says_so(tiny_weights: Path, tmp_path: Path) -> None:
    assert export(tiny_weights, tmp_path / "large.onnx", long_side=192) == (128, 192)
    large = Detector.load(tmp_path / "large.onnx")
    assert (large.input_hw, large.info.input_hw) == ((128, 192), (128, 192))
    assert Detector.load(tmp_path / "large.onnx", long_side=192).input_hw == (128, 192)
    with pytest.raises(InputError, match=r"canvas of 192 pixels and cannot take 96.*--imgsz 96"):
        Detector.load(tmp_path / "large.onnx", long_side=96)


def test_what_does_not_go_together_is_refused(graph: Path, folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"torch runs \.safetensors"):
        load_runtime(graph, "torch")
    with pytest.raises(InputError, match=r"'cuda'.*runs on the CPU"):
        load_runtime(graph, device="cuda")
    with pytest.raises(InputError, match="runs on the CPU"):
        load_runtime(tiny_weights, "openvino", "cuda")
    with pytest.raises(InputError, match="cannot be read"):
        load_runtime(tmp_path / "none.onnx")
    with pytest.raises(InputError, match=r"onnxruntime runs \.onnx, not a folder"):
        load_runtime(folder, "onnxruntime")
    with pytest.raises(InputError, match=r"torch runs \.safetensors"):
        load_runtime(folder, "torch")
    with pytest.raises(InputError, match="cannot take 192"):
        load_runtime(folder, long_side=192)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_files_that_are_no_graphs_of_ours_are_refused(runtime: RuntimeName, graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match=r"foreign\.onnx: weights of another program"):
        load_runtime(tmp_path / "foreign.onnx", runtime)
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cut\.onnx: not a readable ONNX file"):
        load_runtime(tmp_path / "cut.onnx", runtime)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.bin", lambda data: data[:-1], r"model\.bin: is not the file that model\.xml was written with"),
        ("model.bin", lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], r"model\.bin: is not the file"),
        ("model.xml", lambda data: data[:3000], "not a readable OpenVINO IR"),
        ("model.xml", lambda data: b"", "not a readable OpenVINO IR"),
        ("model.xml", lambda data: data.replace(b"detector-weights-2", b"another"), "weights of another program"),
        ("model.xml", lambda data: data[: data.index(b"<framework>")] + b"</rt_info></net>", "another program"),
        ("model.xml", lambda data: data.replace(b"[64, 96]", b"[32, 32]"), "export it again"),
        ("model.bin", None, r"a folder without model\.bin"),
        ("model.xml", None, r"a folder without model\.xml.*weights/best\.safetensors"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(
    name: str, change: Callable[[bytes], bytes] | None, said: str, folder: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(folder, tmp_path / "w_openvino")
    data = (path / name).read_bytes()
    (path / name).unlink()
    if change is not None:
        assert change(data) != data
        (path / name).write_bytes(change(data))
    with pytest.raises(InputError, match=said) as caught:
        load_runtime(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["graph", "folder"])
def test_detecting_with_an_export_never_loads_torch(kind: str, request: pytest.FixtureRequest, tiny_data: Path) -> None:
    image = find_images(tiny_data / "images")[0]
    path: Path = request.getfixturevalue(kind)
    code = f"import sys, detector\nassert len(detector.Detector.load({str(path)!r}).detect({str(image)!r})) >= 0\n"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signals")
def test_a_signal_finds_its_stack_when_networks_come_and_go(tiny_weights: Path) -> None:
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
