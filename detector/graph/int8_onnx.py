"""Quantize an ONNX graph to int8 after training (post-training quantization, PTQ).

The int8 file has about a quarter of the size, and CPUs with int8 instructions run it faster. Calibration runs the graph
on sample images to measure the range of each activation.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.arrays import ImageArray
from detector.graph.metadata import GraphInfo, graph_info_metadata
from detector.graph.no_telemetry import import_onnxruntime

_OP_TYPES = ["Conv", "Relu", "Add", "MaxPool", "Resize"]
"""Types of the nodes that are quantized. Because ReLU is in this list, ONNX Runtime folds each ReLU into the output
range of the convolution before it. So no int8 levels are spent on negative values."""


def quantize(graph: bytes, inputs: Sequence[ImageArray], full_range: bool = False) -> bytes:
    """Quantize the weights and activations of an ONNX graph to int8, and return the new ONNX file.

    The last convolution of each head and the decoding of boxes stay in float32, because int8 is too coarse for
    coordinates. Weights have one scale per channel. The range of an activation is the mean of its ranges on the
    calibration images.

    By default, the weights use only the values -64..64. x86 CPUs without VNNI instructions add the products of two
    activations (0..255) and two weights in 16 bits: with weights up to 127 this sum overflows, ONNX Runtime clips it
    without an error, and the detections become worse.

    Args:
        graph: bytes of the ONNX file that `to_onnx` returned.
        inputs: calibration images, each [H, W, 3] uint8 RGB, letterboxed to the input size of the graph. They should
            be similar to the images on which the graph will run.
        full_range: whether the weights use the values -127..127. The file is then only for CPUs with exact int8 sums:
            x86 with VNNI, and ARM.

    Returns:
        The bytes of the quantized ONNX file.
    """
    import onnx

    import_onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    metadata = onnx.load_from_string(graph).metadata_props
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        plain.write_bytes(graph)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        names = [node.name for node in onnx.load(prepared).graph.node if is_quantizable(node.name)]
        assert names  # if the list is empty, onnxruntime quantizes every node
        level = logging.getLogger().level
        # Hide a useless warning: quantize_static recommends the preprocessing that has just been done.
        logging.getLogger().setLevel(logging.ERROR)
        try:
            quantize_static(
                prepared,
                quantized,
                _CalibrationReader(inputs),
                per_channel=True,
                reduce_range=not full_range,
                op_types_to_quantize=_OP_TYPES,
                nodes_to_quantize=names,
                activation_type=QuantType.QUInt8,  # same outputs as with signed int8, but faster in ONNX Runtime
                # Use the mean of the ranges of all images, as NNCF does: one outlier image must not widen the range.
                extra_options={"CalibMovingAverage": True},
            )
        finally:
            logging.getLogger().setLevel(level)
        model = onnx.load(quantized)
    del model.metadata_props[:]
    model.metadata_props.extend(metadata)
    for key, value in graph_info_metadata(GraphInfo(int8=True, int8_weight_bits=8 if full_range else 7)).items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


def is_quantizable(node: str) -> bool:
    """Return True if the graph node with the name `node` may be quantized to int8.

    True for nodes in the blocks of the backbone, neck and heads. False for the normalization of the image, the last
    convolution of each head, the grid, and the decoding of boxes.
    """
    return re.match(r"/(backbone|neck|heads|cells)\b", node) is not None and "/output/" not in node


class _CalibrationReader:
    """Calibration images for ONNX Runtime, which calls `get_next` until it returns None."""

    def __init__(self, inputs: Sequence[ImageArray]) -> None:
        self._remaining: Iterator[ImageArray] = iter(inputs)

    def get_next(self) -> dict[str, ImageArray] | None:
        """Return the next image as the input of the graph {"image": [1, H, W, 3]}, or None after the last image."""
        image = next(self._remaining, None)
        return None if image is None else {"image": image[None]}
