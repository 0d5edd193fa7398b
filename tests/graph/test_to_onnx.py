"""Dynamic graphs answer as the network does at any size; suppression inside a graph does what the plain loop does."""

import io
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.boxes import pairwise_iou
from detector.config import Config
from detector.errors import InputError
from detector.graph.metadata import NmsSettings
from detector.graph.nms_in_graph import suppress_inside
from detector.graph.no_telemetry import openvino_core
from detector.graph.to_onnx import to_onnx
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo

Arrays = dict[str, np.ndarray[Any, Any]]


def random_network(**settings: Any) -> tuple[GridNetwork, WeightsInfo]:
    torch.manual_seed(0)
    config = Config(model="pico", **settings)
    covariance = np.array([[900, 300, 0], [300, 800, 100], [0, 100, 700]], np.float32)
    network = GridNetwork(config, 2, np.full(3, 99, np.float32), covariance, spp=settings == {}).eval()
    return network, WeightsInfo("pico", ("a", "b"), (1, 2), (64, 96), asdict(config), {})


def run_everywhere(graph: bytes, image: np.ndarray[Any, Any], names: tuple[str, ...]) -> list[Arrays]:
    """What ONNX Runtime and OpenVINO answer."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    core = openvino_core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = compiled({"image": image})
    return [
        dict(zip(names, session.run(list(names), {"image": image}), strict=True)),
        {name: answer[name] for name in names},
    ]


@pytest.mark.parametrize(
    "config", [{}, {"norm": "group", "activation": "swish"}, {"downsample": "avg_pool", "input": "pca"}]
)
def test_a_dynamic_graph_answers_as_the_network_at_any_size_and_number(config: dict[str, Any]) -> None:
    network, info = random_network(**config)
    graph = to_onnx(network, info, info.input_hw, dynamic=True)
    for shape in ((2, 96, 64, 3), (1, 32, 160, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        with torch.inference_mode():
            expected = network(torch.from_numpy(image).permute(0, 3, 1, 2))
        for answer in run_everywhere(graph, image, ("boxes", "scores")):
            assert {array.dtype for array in answer.values()} == {np.dtype(np.float32)}
            np.testing.assert_allclose(answer["boxes"], expected.boxes(), atol=0.01)
            np.testing.assert_allclose(answer["scores"], expected.scores(), atol=1e-4)


@pytest.mark.parametrize("config", [{"head": "yolo_v1"}, {"padding": "valid", "first_input_size": 1.0}])
def test_a_network_whose_sizes_depend_on_the_canvas_is_not_exported_as_dynamic(config: dict[str, Any]) -> None:
    network, info = random_network(**config)
    with pytest.raises(InputError, match=f"dynamic: not with {next(iter(config))}="):
        to_onnx(network, info, info.input_hw, dynamic=True)


def test_boxes_and_scores_are_float32() -> None:
    network, info = random_network()
    outputs = onnx.load_from_string(to_onnx(network, info, info.input_hw)).graph.output
    assert [output.type.tensor_type.elem_type for output in outputs] == [onnx.TensorProto.FLOAT] * 2


def graph_that_says(boxes: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> bytes:
    """A graph that answers this to a black image; that it looks at one keeps it from being computed beforehand."""
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> said (uint8[1, 100, 200, 3] image) '
        "=> (float[1, P, 4] boxes, float[1, P, C] scores) { levels = Cast <to = 1> (image) "
        "lightest = ReduceMax <keepdims = 0> (levels) boxes = Add(b, lightest) scores = Add(s, lightest) }"
    )
    for name, array in (("b", boxes), ("s", scores)):
        made.graph.initializer.append(onnx.numpy_helper.from_array(array[None], name))
    return bytes(made.SerializeToString())


def plain_loop(boxes: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], nms: NmsSettings) -> list[tuple[int, int]]:
    """Doubles and classes that stay, best first; one after the other."""
    kept: list[tuple[int, int]] = []
    for point in np.argsort(-scores.max(axis=1), kind="stable"):
        class_id = int(scores[point].argmax())
        if scores[point, class_id] <= nms.score_threshold:
            continue
        rivals = [other for other, its_class in kept if its_class == class_id]
        if not any(pairwise_iou(boxes[[point]], boxes[[other]])[0, 0] > nms.iou_threshold for other in rivals):
            kept.append((int(point), class_id))
    return kept[: nms.max_detections]


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**31),
    points=st.integers(1, 60),
    classes=st.integers(1, 4),
    score=st.sampled_from([0.0, 0.25, 0.9]),
    iou=st.sampled_from([0.0, 0.3, 0.6]),
    most=st.sampled_from([1, 5, 300]),
)
def test_suppression_inside_a_graph_keeps_what_the_plain_loop_keeps(
    seed: int, points: int, classes: int, score: float, iou: float, most: int
) -> None:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-20, 180, (points, 2)), rng.uniform(5, 90, (points, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    # Distinct scores: which of two equal ones comes first is nobody's promise.
    scores = rng.permutation(np.linspace(0.01, 0.99, points * classes)).reshape(points, classes).astype(np.float32)
    nms = NmsSettings(score, iou, most)
    graph = suppress_inside(graph_that_says(boxes, scores), nms)
    cut = np.clip(boxes, 0, np.array([200, 100, 200, 100], np.float32))
    kept = plain_loop(cut, scores, nms)
    for answer in run_everywhere(graph, np.zeros((1, 100, 200, 3), np.uint8), ("boxes", "scores", "class_ids")):
        assert answer["class_ids"].tolist() == [class_id for _, class_id in kept]
        np.testing.assert_array_equal(answer["scores"], [scores[pair] for pair in kept])
        np.testing.assert_array_equal(answer["boxes"], cut[[point for point, _ in kept]].reshape(-1, 4))


def test_a_graph_with_suppression_is_a_valid_file_that_takes_one_image() -> None:
    network, info = random_network()
    graph = suppress_inside(to_onnx(network, info, info.input_hw, dynamic=True), NmsSettings(0.1))
    model = onnx.load(io.BytesIO(graph))
    onnx.checker.check_model(model, full_check=True)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in dims] == [1, "height", "width", 3]
    assert {prop.key: prop.value for prop in model.metadata_props}.keys() >= {"nms", "dynamic", "usage"}
