"""Quantize an OpenVINO model to int8 after training (post-training quantization, PTQ), with the package NNCF."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detector.arrays import ImageArray
from detector.graph.int8_onnx import is_quantizable
from detector.graph.no_telemetry import import_nncf

if TYPE_CHECKING:
    import openvino


def quantize_model(model: "openvino.Model", inputs: Sequence[ImageArray], full_range: bool = False) -> "openvino.Model":
    """Return a copy of `model` in which weights and activations are quantized to int8.

    Nodes for which `is_quantizable` is False stay in floating point, as in `int8_onnx.quantize`. NMS inside the model
    also stays in floating point.

    Args:
        model: floating-point model that OpenVINO read from an ONNX file of `to_onnx`.
        inputs: calibration images, each [H, W, 3] uint8 RGB, letterboxed to the input size of the model. They should
            be similar to the images on which the model will run.
        full_range: whether the weights use all 8 bits, except those of the first layer; as in `int8_onnx.quantize`.
    """
    nncf = import_nncf()
    names = [node.get_friendly_name() for node in model.get_ops()]
    not_quantized = [name for name in names if not is_quantizable(name)]
    # Hide the progress bars of NNCF and its warnings about an unknown graph.
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(inputs, lambda image: {"image": image[None]}),
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=not_quantized),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.FIRST_LAYER if full_range else nncf.OverflowFix.ENABLE
            ),
        )
    return quantized
