"""Tests of int8 quantization: the files are small, predictions nearly equal, and coordinates stay in float32."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from detector.errors import InputError
from detector.exporting.export import export
from detector.graph.int8_onnx import is_quantizable
from detector.graph.no_telemetry import openvino_core
from detector.media.sources import Source, find_sources
from detector.model.checkpoint import load_weights
from detector.options import DetectOptions, RuntimeName
from detector.runtime.base import Runtime
from detector.runtime.load import load_runtime


@pytest.fixture(scope="module")
def images(tiny_data: Path) -> list[Source]:
    return find_sources([str(tiny_data / "images")])


def assert_nearly_equal(float32: Runtime, int8: Runtime, images: list[Source]) -> None:
    """Check that int8 scores differ from float32 by less than 0.2, and confident boxes by a median below 1 pixel."""
    inputs = [source.read() for source in images[:4]]
    exact, quantized = float32.predict(inputs), int8.predict(inputs)
    assert not np.array_equal(exact.scores, quantized.scores)
    assert np.abs(exact.scores - quantized.scores).max() < 0.2
    confident = exact.scores.max(axis=2) > 0.5
    assert np.median(np.abs(exact.boxes - quantized.boxes)[confident]) < 1


@pytest.fixture(scope="module")
def graphs(tiny_weights: Path, images: list[Source], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Export the tiny weights in float32 and in int8, and return the paths of the two ONNX files."""
    folder = tmp_path_factory.mktemp("int8")
    export(tiny_weights, folder / "float32.onnx", certify=False)
    export(tiny_weights, folder / "int8.onnx", int8_images=images, certify=False)
    return folder / "float32.onnx", folder / "int8.onnx"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_file_is_small_and_predicts_nearly_the_same(
    runtime: RuntimeName, graphs: tuple[Path, Path], images: list[Source]
) -> None:
    (float32, info), (int8, int8_info) = (load_runtime(graph, runtime=runtime) for graph in graphs)
    assert int8_info == info
    assert graphs[1].stat().st_size < 0.5 * graphs[0].stat().st_size
    assert (float32.graph_info.int8, int8.graph_info.int8) == (False, True)
    assert_nearly_equal(float32, int8, images)


@pytest.mark.parametrize(("full_range", "largest"), [(False, 64), (True, 127)])
def test_weights_use_seven_bits_unless_all_are_requested(
    full_range: bool, largest: int, tiny_weights: Path, images: list[Source], tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    export(tiny_weights, path, int8_images=images, int8_full_range=full_range, certify=False)
    graph = onnx.load(path).graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == 3]
    kernels = [weight for weight in weights if weight.ndim == 4]
    assert len(kernels) > 10
    assert {int(np.abs(kernel.astype(int)).max()) for kernel in kernels} == {largest}
    bits = load_runtime(path, runtime="onnxruntime")[0].graph_info.int8_weight_bits
    assert bits == (8 if full_range else 7)


def test_full_range_without_int8_is_an_error(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"int8_full_range .* only with --int8"):
        export(tiny_weights, tmp_path / "x.onnx", int8_full_range=True)
    assert not list(tmp_path.iterdir())


def test_too_few_calibration_images_are_an_error(tiny_weights: Path, images: list[Source], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 images are too few"):
        export(tiny_weights, tmp_path / "int8.onnx", int8_images=images[:3], certify=False)
    assert not list(tmp_path.iterdir())


def test_grid_boxes_and_last_layers_stay_in_float32(tiny_weights: Path, images: list[Source], tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    export(tiny_weights, path, int8_images=images, dynamic=True, nms=DetectOptions(), certify=False)
    nodes = onnx.load(path).graph.node
    quantized = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    # Outside of the blocks, only one activation is quantized: the input of the first convolution.
    outside = {name for name in quantized if not is_quantizable(name)}
    [first] = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] in outside]
    assert first.input[0].startswith("/Conv")
    last_layers = [node.input for node in nodes if node.op_type == "Conv" and "/output/" in node.name]
    assert len(last_layers) == 3
    assert not any("Quantize" in name for names in last_layers for name in names[1:])
    # Each ReLU is folded into the range of the next quantization, so no int8 levels are spent on negative values.
    assert not [node for node in nodes if node.op_type == "Relu"]


def test_fake_quantization_errors_correlate_with_errors_of_the_export(
    tiny_weights: Path, graphs: tuple[Path, Path], images: list[Source]
) -> None:
    inputs = [source.read() for source in images]
    float32, int8 = (load_runtime(graph, runtime="onnxruntime")[0].predict(inputs).scores for graph in graphs)
    network, _ = load_weights(tiny_weights)
    network.train().set_fake_quant(7)
    with torch.no_grad():
        fake_quant = network(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)).scores().numpy()
    logits = [np.log(scores / (1 - scores)) for scores in (float32, fake_quant, int8)]
    errors = np.stack([(quantized - logits[0]).ravel() for quantized in logits[1:]])
    assert np.corrcoef(errors)[0, 1] > 0.6


@pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is an optional extra; find_spec avoids its telemetry")
def test_openvino_int8_predicts_nearly_the_same(
    graphs: tuple[Path, Path], tiny_weights: Path, images: list[Source], tmp_path: Path
) -> None:
    export(tiny_weights, tmp_path / "int8", format="openvino", int8_images=images, certify=False)
    float32, info = load_runtime(graphs[0], runtime="openvino")
    int8, int8_info = load_runtime(tmp_path / "int8")
    assert (int8_info, int8.graph_info.int8) == (info, True)
    assert (tmp_path / "int8/model.bin").stat().st_size < 0.5 * graphs[0].stat().st_size
    assert_nearly_equal(float32, int8, images)
    folder = tmp_path / "with_nms"
    export(
        tiny_weights, folder, format="openvino", int8_images=images, dynamic=True, nms=DetectOptions(), certify=False
    )
    model = openvino_core().read_model(folder / "model.xml")
    quantized = [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]
    sources = [node.input_value(0).get_node().get_friendly_name() for node in quantized]
    outside = [name for name in sources if not is_quantizable(name) and not name.startswith("network.")]
    assert outside == ["/Conv"]
