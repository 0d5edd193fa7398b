"""A graph in eight-bit integers: a quarter of the bytes, and on processors with such instructions faster still."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from detector.errors import InputError
from detector.images import Pixels

LEAST_PICTURES = 16

_QUANTIZED = ["Conv", "Add", "MaxPool", "Resize"]


def quantize(graph: bytes, canvases: Iterable[Pixels]) -> bytes:
    """Return a graph written by `to_onnx` with weights and activations in eight bits.

    The last convolution of each head and the decoding of boxes stay in float32: eight bits are too coarse for
    coordinates. Weights have a scale per channel; the range of each activation is the one seen on the pictures.

    Args:
        graph: the ONNX file's bytes.
        canvases: pictures [H, W, 3] uint8 RGB of the graph's size, like those it will see; some 64 are enough.

    Raises:
        InputError: the packages onnx and onnxruntime are not installed, or there are too few pictures.
    """
    try:
        import onnx
        from onnxruntime.quantization import quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise InputError("eight-bit graphs need onnx and onnxruntime: pip install 'detector[onnx]'") from None

    pictures = _Pictures(canvases)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        plain.write_bytes(graph)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        outputs = [node.name for node in onnx.load(prepared).graph.node if node.name.endswith("/output/Conv")]
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)  # it recommends to the root logger what has just been done
        try:
            quantize_static(
                prepared,
                quantized,
                pictures,
                per_channel=True,
                op_types_to_quantize=_QUANTIZED,
                nodes_to_exclude=outputs,
            )
        finally:
            logging.getLogger().setLevel(level)
        if pictures.count < LEAST_PICTURES:
            raise InputError(
                f"int8: {pictures.count} pictures are too few to see the range of every activation: "
                f"give at least {LEAST_PICTURES}, better 64"
            )
        model = onnx.load(quantized)
    if not model.metadata_props:
        model.metadata_props.extend(onnx.load_from_string(graph).metadata_props)
    return bytes(model.SerializeToString())


class _Pictures:
    """Hands one picture after the other to the calibration, which asks by this method."""

    def __init__(self, canvases: Iterable[Pixels]) -> None:
        self._left: Iterator[Pixels] = iter(canvases)
        self.count = 0

    def get_next(self) -> dict[str, Pixels] | None:
        canvas = next(self._left, None)
        self.count += canvas is not None
        return None if canvas is None else {"image": canvas[None]}
