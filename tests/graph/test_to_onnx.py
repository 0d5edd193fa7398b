"""Tests of ONNX graphs: dynamic graphs equal the network at any input size, and NMS in a graph equals a plain loop."""

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
from detector.errors import ConfigError, WeightsError
from detector.graph.nms_in_graph import add_nms
from detector.graph.no_telemetry import openvino_core
from detector.graph.to_onnx import to_onnx
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.options import DetectOptions
from detector.weights_info import WeightsInfo

Arrays = dict[str, np.ndarray[Any, Any]]


def random_network(**settings: Any) -> tuple[GridNetwork, WeightsInfo]:
    """Return a network with random weights and two classes, and the information about these weights."""
    torch.manual_seed(0)
    config = Config(model="pico", **settings)
    covariance = np.array([[900, 300, 0], [300, 800, 100], [0, 100, 700]], np.float32)
    input_hw = (416, 416) if settings == {} else (64, 96)
    network = make_network(config, 2, np.full(3, 99, np.float32), covariance, input_hw).eval()
    return network, WeightsInfo("pico", ("a", "b"), (1, 2), (64, 96), asdict(config), {})


def run_in_each_runtime(graph: bytes, image: np.ndarray[Any, Any], names: tuple[str, ...]) -> list[Arrays]:
    """Run a graph on an image; return two dictionaries name → output, from ONNX Runtime and from OpenVINO."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    core = openvino_core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled({"image": image})
    return [
        dict(zip(names, session.run(list(names), {"image": image}), strict=True)),
        {name: outputs[name] for name in names},
    ]


@pytest.mark.parametrize(
    "config", [{}, {"norm": "group", "activation": "swish"}, {"downsample": "avg_pool", "input": "pca"}]
)
def test_dynamic_graph_equals_the_network_at_any_size(config: dict[str, Any]) -> None:
    network, info = random_network(**config)
    graph = to_onnx(network, info, info.input_hw, dynamic=True)
    for shape in ((2, 96, 64, 3), (1, 32, 160, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        with torch.inference_mode():
            expected = network(torch.from_numpy(image).permute(0, 3, 1, 2))
        for outputs in run_in_each_runtime(graph, image, ("boxes", "scores")):
            assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}
            np.testing.assert_allclose(outputs["boxes"], expected.boxes(), atol=0.01)
            np.testing.assert_allclose(outputs["scores"], expected.scores(), atol=1e-4)


@pytest.mark.parametrize("config", [{"head": "yolo_v1"}, {"padding": "valid", "first_input_size": 1.0}])
def test_network_with_a_fixed_input_size_cannot_be_dynamic(config: dict[str, Any]) -> None:
    network, info = random_network(**config)
    with pytest.raises(WeightsError, match=f"dynamic: not possible with {next(iter(config))}="):
        to_onnx(network, info, info.input_hw, dynamic=True)


def test_boxes_and_scores_are_float32() -> None:
    network, info = random_network()
    outputs = onnx.load_from_string(to_onnx(network, info, info.input_hw)).graph.output
    assert [output.type.tensor_type.elem_type for output in outputs] == [onnx.TensorProto.FLOAT] * 2


def graph_with_outputs(boxes: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> bytes:
    """Return an ONNX graph that outputs the given boxes and scores for a black image.

    The outputs depend on the image. Otherwise the runtimes would replace the whole graph by constants.
    """
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> constant (uint8[1, 100, 200, 3] image) '
        "=> (float[1, P, 4] boxes, float[1, P, C] scores) { levels = Cast <to = 1> (image) "
        "lightest = ReduceMax <keepdims = 0> (levels) boxes = Add(b, lightest) scores = Add(s, lightest) }"
    )
    for name, array in (("b", boxes), ("s", scores)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array[None], name))
    return bytes(model.SerializeToString())


def plain_nms(
    boxes: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], options: DetectOptions
) -> list[tuple[int, int]]:
    """Apply NMS in a plain loop; return (point, class id) of each kept detection, sorted by descending score."""
    kept: list[tuple[int, int]] = []
    for point in np.argsort(-scores.max(axis=1), kind="stable"):
        class_id = int(scores[point].argmax())
        if scores[point, class_id] <= options.score_threshold:
            continue
        same_class = [other for other, its_class in kept if its_class == class_id]
        if not any(pairwise_iou(boxes[[point]], boxes[[other]])[0, 0] > options.iou_threshold for other in same_class):
            kept.append((int(point), class_id))
    return kept[: options.max_detections]


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**31),
    points=st.integers(1, 60),
    classes=st.integers(1, 4),
    score=st.sampled_from([0.0, 0.25, 0.9]),
    iou=st.sampled_from([0.0, 0.3, 0.6]),
    most=st.sampled_from([1, 5, 300]),
)
def test_nms_inside_a_graph_equals_a_plain_loop(
    seed: int, points: int, classes: int, score: float, iou: float, most: int
) -> None:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-20, 180, (points, 2)), rng.uniform(5, 90, (points, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    # Distinct scores, because the order of equal scores is undefined.
    scores = rng.permutation(np.linspace(0.01, 0.99, points * classes)).reshape(points, classes).astype(np.float32)
    options = DetectOptions(score_threshold=score, iou_threshold=iou, max_detections=most)
    graph = add_nms(graph_with_outputs(boxes, scores), options)
    clipped = np.clip(boxes, 0, np.array([200, 100, 200, 100], np.float32))
    kept = plain_nms(clipped, scores, options)
    black = np.zeros((1, 100, 200, 3), np.uint8)
    for outputs in run_in_each_runtime(graph, black, ("boxes", "scores", "class_ids")):
        assert outputs["class_ids"].tolist() == [class_id for _, class_id in kept]
        np.testing.assert_array_equal(outputs["scores"], [scores[pair] for pair in kept])
        np.testing.assert_array_equal(outputs["boxes"], clipped[[point for point, _ in kept]].reshape(-1, 4))


def test_graph_with_nms_is_valid_and_takes_one_image() -> None:
    network, info = random_network()
    graph = add_nms(to_onnx(network, info, info.input_hw, dynamic=True), DetectOptions(score_threshold=0.1))
    model = onnx.load(io.BytesIO(graph))
    onnx.checker.check_model(model, full_check=True)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in dims] == [1, "height", "width", 3]
    assert {prop.key: prop.value for prop in model.metadata_props}.keys() >= {"nms", "dynamic", "usage"}


@pytest.mark.parametrize(
    "options", [{"suppression": "soft"}, {"class_agnostic": True}, {"multi_label": True}, {"classes": [0]}]
)
def test_nms_inside_a_graph_refuses_unsupported_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"does not support {next(iter(options))}"):
        add_nms(b"", DetectOptions(**options))
