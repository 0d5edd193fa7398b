"""Post-training quantization (PTQ) of an OpenVINO model to int8, with NNCF."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detector.arrays import ImageArray
from detector.errors import MissingPackageError
from detector.graph.int8_onnx import is_quantizable
from detector.graph.no_telemetry import import_nncf

if TYPE_CHECKING:
    import openvino


def quantize_model(model: "openvino.Model", inputs: Sequence[ImageArray]) -> "openvino.Model":
    """Return a copy of a model with weights and activations quantized to int8 (post-training quantization).

    As in `int8_onnx.quantize`, nodes that are not `is_quantizable` stay in floating point.

    Args:
        model: a graph that `to_onnx` returned, read by OpenVINO, in floating point; NMS inside it is not quantized.
        inputs: calibration images [H, W, 3] uint8 RGB, letterboxed to the input size of the graph, similar to the
            images it will be used on.

    Raises:
        MissingPackageError: the package nncf is not installed.
    """
    try:
        nncf = import_nncf()
    except ImportError:
        raise MissingPackageError("int8 quantization for OpenVINO needs the package nncf: pip install nncf") from None
    names = [node.get_friendly_name() for node in model.get_ops()]
    not_quantized = [name for name in names if not is_quantizable(name)]
    # Hide NNCF's progress bars and its warnings about a graph it does not know.
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(inputs, lambda image: {"image": image[None]}),
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=not_quantized),
        )
    return quantized
