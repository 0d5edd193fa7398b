"""Post-training quantization (PTQ) of an ONNX graph to int8.

The file shrinks to a quarter, and CPUs with int8 instructions run it faster. Calibration measures the ranges of the
activations on sample images.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.arrays import ImageArray
from detector.errors import MissingPackageError
from detector.graph.metadata import GraphInfo, graph_info_metadata

_OP_TYPES = ["Conv", "Relu", "Add", "MaxPool", "Resize"]
"""With ReLU in this list, no int8 levels are spent on negative values: ReLU is folded into the output range of the
convolution before it."""


def quantize(graph: bytes, inputs: Sequence[ImageArray]) -> bytes:
    """Quantize the weights and activations of a graph to int8 (post-training quantization).

    The last convolution of each head and the decoding of boxes stay in float32: int8 is too coarse for coordinates.
    Weights have one scale per channel. The range of an activation is the mean of its ranges on the calibration images.

    Args:
        graph: bytes of the ONNX file that `to_onnx` returned.
        inputs: calibration images [H, W, 3] uint8 RGB, letterboxed to the input size of the graph, similar to the
            images it will be used on.

    Returns:
        The bytes of the quantized ONNX file.

    Raises:
        MissingPackageError: the packages onnx and onnxruntime are not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise MissingPackageError(
            "int8 quantization needs the packages onnx and onnxruntime: pip install onnx onnxruntime"
        ) from None

    metadata = onnx.load_from_string(graph).metadata_props
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        plain.write_bytes(graph)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        names = [node.name for node in onnx.load(prepared).graph.node if is_quantizable(node.name)]
        assert names  # onnxruntime quantizes every node if the list is empty
        level = logging.getLogger().level
        # quantize_static advises on the root logger to run the preprocessing that was just run.
        logging.getLogger().setLevel(logging.ERROR)
        try:
            quantize_static(
                prepared,
                quantized,
                _CalibrationReader(inputs),
                per_channel=True,
                op_types_to_quantize=_OP_TYPES,
                nodes_to_quantize=names,
                activation_type=QuantType.QUInt8,  # same outputs as with signed int8, and faster in ONNX Runtime
                # The mean of the ranges of all images, as in NNCF: one outlier does not widen the range for all.
                extra_options={"CalibMovingAverage": True},
            )
        finally:
            logging.getLogger().setLevel(level)
        model = onnx.load(quantized)
    del model.metadata_props[:]
    model.metadata_props.extend(metadata)
    for key, value in graph_info_metadata(GraphInfo(int8=True)).items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


def is_quantizable(node: str) -> bool:
    """Return whether a graph node, given by name, may be quantized to int8.

    The blocks of the backbone, neck and heads may. The normalization of the image, the last convolution of each head,
    the grid and the decoding of boxes may not.
    """
    return re.match(r"/(backbone|neck|heads|cells)\b", node) is not None and "/output/" not in node


class _CalibrationReader:
    """Passes the images one by one to ONNX Runtime's calibration, which calls `get_next`."""

    def __init__(self, inputs: Sequence[ImageArray]) -> None:
        self._remaining: Iterator[ImageArray] = iter(inputs)

    def get_next(self) -> dict[str, ImageArray] | None:
        image = next(self._remaining, None)
        return None if image is None else {"image": image[None]}
