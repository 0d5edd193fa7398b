"""An ONNX graph in eight-bit integers: a quarter of the bytes, and faster on processors with such instructions."""

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.arrays import ImageArray
from detector.errors import InputError
from detector.graph.metadata import GraphInfo, graph_info_metadata

_QUANTIZED = ["Conv", "Relu", "Add", "MaxPool", "Resize"]
"""With ReLU among them no levels are spent on what it cuts off: it becomes the range of the convolution before it."""


def quantize(graph: bytes, inputs: Sequence[ImageArray]) -> bytes:
    """Return a graph written by `to_onnx` with weights and activations in eight bits.

    The last convolution of each head and the decoding of boxes stay in float32: eight bits are too coarse for
    coordinates. Weights have a scale per channel; the range of each activation is the mean of those of the
    images.

    Args:
        graph: the ONNX file's bytes.
        inputs: images [H, W, 3] uint8 RGB of the graph's size, like those it will see.

    Raises:
        InputError: the packages onnx and onnxruntime are not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise InputError("eight-bit graphs need onnx and onnxruntime: pip install onnx onnxruntime") from None

    metadata = onnx.load_from_string(graph).metadata_props
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        plain.write_bytes(graph)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        coarse = [node.name for node in onnx.load(prepared).graph.node if is_quantizable(node.name)]
        assert coarse  # none would be taken for all
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)  # it recommends to the root logger what has just been done
        try:
            quantize_static(
                prepared,
                quantized,
                _Images(inputs),
                per_channel=True,
                op_types_to_quantize=_QUANTIZED,
                nodes_to_quantize=coarse,
                activation_type=QuantType.QUInt8,  # the same answers as signed ones, and faster in ONNX Runtime
                # The mean of the images' ranges, as NNCF has it: one odd image makes no coarse levels for all.
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
    """Say whether a node of the graph, by name, may compute in eight bits.

    What may are the blocks of backbone, neck and heads. What may not is what stands before and behind them, the
    normalization of images, the grid and the decoding of boxes, and the last convolution of each head.
    """
    return re.match(r"/(backbone|neck|heads|cells)\b", node) is not None and "/output/" not in node


class _Images:
    """Hands one image after the other to the calibration, which asks by this method."""

    def __init__(self, inputs: Sequence[ImageArray]) -> None:
        self._left: Iterator[ImageArray] = iter(inputs)

    def get_next(self) -> dict[str, ImageArray] | None:
        letterboxed = next(self._left, None)
        return None if letterboxed is None else {"image": letterboxed[None]}
