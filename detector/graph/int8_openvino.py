"""An OpenVINO graph in eight-bit integers, by NNCF."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detector.arrays import ImageArray
from detector.errors import InputError
from detector.graph.int8_onnx import is_quantizable
from detector.graph.no_telemetry import import_nncf

if TYPE_CHECKING:
    import openvino


def quantize_model(model: "openvino.Model", inputs: Sequence[ImageArray]) -> "openvino.Model":
    """Return a model made of a graph by `to_onnx` with weights and activations in eight bits.

    As with `quantize`, what is not `is_quantizable` stays in floating point.

    Args:
        model: in floating point; suppression inside is left alone.
        inputs: images [H, W, 3] uint8 RGB of the graph's size, like those it will see.

    Raises:
        InputError: the package nncf is not installed.
    """
    try:
        nncf = import_nncf()
    except ImportError:
        raise InputError("eight-bit graphs for OpenVINO need the package nncf: pip install nncf") from None
    exact = [node.get_friendly_name() for node in model.get_ops() if not is_quantizable(node.get_friendly_name())]
    # Its progress bars and its remarks on a graph it knows nothing of.
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(inputs, lambda letterboxed: {"image": letterboxed[None]}),
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=exact),
        )
    return quantized
