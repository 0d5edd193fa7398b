"""Exports in float16 are half the size, keep their inputs and outputs, and detect the same objects."""

from pathlib import Path

import onnx
import pytest
from torch import nn

from detector.errors import ConfigError, WeightsError
from detector.exporting.certificate import read_certificate
from detector.exporting.certify import certify_export
from detector.exporting.export import export
from detector.exporting.verify import verify
from detector.graph.export_format import Format
from detector.graph.fp16_onnx import to_fp16
from detector.graph.to_onnx import to_onnx
from detector.model.checkpoint import load_weights, save_weights
from detector.options import DetectOptions
from detector.predict.detector import Detector


@pytest.mark.parametrize(("format", "name"), [("onnx", "half.onnx"), ("openvino", "half_openvino")])
def test_float16_export_detects_the_same_objects(format: Format, name: str, tmp_path: Path) -> None:
    full = export("scenes", tmp_path / f"full_{name}", format=format, input_size=160, certify=False)
    half = export("scenes", tmp_path / name, format=format, input_size=160, fp16=True)
    assert half.size_bytes < 0.6 * full.size_bytes
    certificate = read_certificate(half.path)
    assert certificate.graph.fp16
    assert not certificate.exact
    parity = certificate.parity["built-in images"]
    assert parity.agrees
    # Not the largest differences: of two similar boxes, NMS may keep the other one.
    assert parity.unmatched <= 0.02 * parity.detections
    assert verify(half.path).parity.unmatched <= 2


def test_float16_graph_keeps_its_types_and_float32_decoding() -> None:
    network, info = load_weights("scenes")
    graph = onnx.load_from_string(to_fp16(to_onnx(network, info, (64, 96))))
    types = [value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.output)]
    assert types == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT]
    halves = [weight.name for weight in graph.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) > 40
    assert not any("output" in name for name in halves)
    # no tensor is rounded to float16 between two nodes in float32
    producers = {name: node for node in graph.graph.node for name in node.output}
    for node in graph.graph.node:
        if node.op_type == "Cast" and node.input[0] in producers:
            assert producers[node.input[0]].op_type != "Cast"


def test_dynamic_float16_graph_with_nms_runs(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    result = export("scenes", path, input_size=160, fp16=True, dynamic=True, nms=DetectOptions())
    assert result.certificate is not None
    assert result.certificate.graph.dynamic
    assert list(result.certificate.parity) == ["built-in images", "an input of 224"]


def test_weights_too_large_for_float16_are_an_error(tmp_path: Path) -> None:
    network, info = load_weights("scenes")
    first, second = network.backbone.get_submodule("stem.0.norm"), network.backbone.get_submodule("stem.1.conv")
    assert isinstance(first, nn.BatchNorm2d)
    assert isinstance(second, nn.Conv2d)
    first.weight.data *= 1e6
    first.bias.data *= 1e6
    second.weight.data /= 1e6
    save_weights(tmp_path / "large.safetensors", network, info)
    export(tmp_path / "large.safetensors", tmp_path / "full.onnx", input_size=160)
    with pytest.raises(WeightsError, match=r"float16|NaN"):
        export(tmp_path / "large.safetensors", tmp_path / "half.onnx", input_size=160, fp16=True)


def test_int8_and_float16_exclude_each_other(tiny_weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot also be in float16"):
        export(tiny_weights, tmp_path / "a.onnx", fp16=True, int8_images=[tiny_data / "images"])


def test_certificate_of_a_float16_export_names_the_cpu(tmp_path: Path) -> None:
    export("scenes", tmp_path / "half.onnx", input_size=160, fp16=True, certify=False)
    certificate = certify_export("scenes", tmp_path / "half.onnx")
    assert "on a CPU with" in certificate.valid_for
    assert Detector.load(tmp_path / "half.onnx").runtime.graph_info.fp16
