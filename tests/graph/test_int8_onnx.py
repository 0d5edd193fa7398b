from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from detector.errors import InputError
from detector.exporting.export import export
from detector.graph.int8_onnx import is_quantizable
from detector.graph.metadata import NmsSettings
from detector.graph.no_telemetry import openvino_core
from detector.media.sources import Source, find_sources
from detector.model.checkpoint import load_weights
from detector.options import RuntimeName
from detector.runtime.base import Runtime
from detector.runtime.load import load_runtime


@pytest.fixture(scope="module")
def images(tiny_data: Path) -> list[Source]:
    return find_sources([str(tiny_data / "images")])


def assert_nearly_alike(one: Runtime, two: Runtime, images: list[Source]) -> None:
    inputs = [source.read() for source in images[:4]]
    exact, coarse = one.predict(inputs), two.predict(inputs)
    assert not np.array_equal(exact.scores, coarse.scores)
    assert np.abs(exact.scores - coarse.scores).max() < 0.2
    sure = exact.scores.max(axis=2) > 0.5
    assert np.median(np.abs(exact.boxes - coarse.boxes)[sure]) < 1


@pytest.fixture(scope="module")
def graphs(tiny_weights: Path, images: list[Source], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("int8")
    export(tiny_weights, folder / "plain.onnx")
    export(tiny_weights, folder / "int8.onnx", int8_images=images)
    return folder / "plain.onnx", folder / "int8.onnx"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_eight_bits_answer_nearly_alike_in_a_fraction_of_the_bytes(
    runtime: RuntimeName, graphs: tuple[Path, Path], images: list[Source]
) -> None:
    (plain, info), (small, small_info) = (load_runtime(graph, runtime) for graph in graphs)
    assert small_info == info
    assert graphs[1].stat().st_size < 0.5 * graphs[0].stat().st_size
    assert (plain.form.int8, small.form.int8) == (False, True)
    assert_nearly_alike(plain, small, images)


def test_too_few_images_to_see_the_ranges_on_are_refused(
    tiny_weights: Path, images: list[Source], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="3 images are too few"):
        export(tiny_weights, tmp_path / "int8.onnx", int8_images=images[:3])
    assert not list(tmp_path.iterdir())


def test_the_grid_the_boxes_and_the_last_layers_keep_their_precision(
    tiny_weights: Path, images: list[Source], tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    export(tiny_weights, path, int8_images=images, dynamic=True, nms=NmsSettings())
    nodes = onnx.load(path).graph.node
    rounded = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    # Of what does not belong to a block, only what the first convolution takes.
    outside = {name for name in rounded if not is_quantizable(name)}
    [first] = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] in outside]
    assert first.input[0].startswith("/Conv")
    kept = [node.input for node in nodes if node.op_type == "Conv" and "/output/" in node.name]
    assert len(kept) == 3
    assert not any("Quantize" in name for names in kept for name in names[1:])
    # What ReLU cuts off gets no levels: it is folded into the range of what comes after it.
    assert not [node for node in nodes if node.op_type == "Relu"]


def test_learning_in_eight_bits_sees_what_the_export_does(
    tiny_weights: Path, graphs: tuple[Path, Path], images: list[Source]
) -> None:
    inputs = [source.read() for source in images]
    plain, small = (load_runtime(graph, "onnxruntime")[0].predict(inputs).scores for graph in graphs)
    network, _ = load_weights(tiny_weights)
    network.train().set_fake_quant(True)
    with torch.no_grad():
        seen = network(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)).scores().numpy()
    errors = [np.log(scores / (1 - scores)) - np.log(plain / (1 - plain)) for scores in (seen, small)]
    assert np.corrcoef(*(error.ravel() for error in errors))[0, 1] > 0.6


@pytest.mark.skipif(find_spec("nncf") is None, reason="an extra of its own; importing it here would report it")
def test_openvino_answers_nearly_alike_in_eight_bits(
    graphs: tuple[Path, Path], tiny_weights: Path, images: list[Source], tmp_path: Path
) -> None:
    export(tiny_weights, tmp_path / "int8", "openvino", int8_images=images)
    (plain, info), (small, small_info) = load_runtime(graphs[0], "openvino"), load_runtime(tmp_path / "int8")
    assert (small_info, small.form.int8) == (info, True)
    assert (tmp_path / "int8/model.bin").stat().st_size < 0.5 * graphs[0].stat().st_size
    assert_nearly_alike(plain, small, images)
    folder = tmp_path / "suppressed"
    export(tiny_weights, folder, "openvino", int8_images=images, dynamic=True, nms=NmsSettings())
    model = openvino_core().read_model(folder / "model.xml")
    rounded = [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]
    sources = [node.input_value(0).get_node().get_friendly_name() for node in rounded]
    outside = [name for name in sources if not is_quantizable(name) and not name.startswith("network.")]
    assert outside == ["/Conv"]
