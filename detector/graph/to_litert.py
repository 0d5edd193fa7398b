"""Convert a network to a LiteRT file (.tflite), with litert-torch, and quantize it to float16 or int8."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detector.arrays import ImageArray
from detector.errors import WeightsError
from detector.graph.graph_module import GraphModule, no_output, quiet_export
from detector.graph.metadata import GraphInfo, graph_info_metadata, graph_metadata
from detector.graph.tflite_file import append_metadata
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo

_BLOCKS = r"^(?!.*Conv2d_output)(?!.*\.Head_\d+;).*/detector\.model\.(backbone|neck|head|blocks|yolo)"
"""Regular expression for the names of tensors that int8 quantizes: those in the blocks of the backbone, neck and heads,
as `int8_onnx.is_quantizable` does. The last convolution of each head and the decoding of boxes stay in float32."""

_OPERATIONS = ("CONV_2D", "ADD", "RESIZE_NEAREST_NEIGHBOR", "MAX_POOL_2D", "CONCATENATION", "PAD")
"""Operations that int8 quantizes."""

_BOX_TOLERANCE, _SCORE_TOLERANCE = 0.5, 0.01
"""Largest difference of a box coordinate in pixels and of a score between the network and a converted float32 file."""


class _Named(nn.Module):
    """`GraphModule` with outputs that have names; litert-torch uses them as the names of the signature."""

    def __init__(self, network: GridNetwork, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.computation = GraphModule(network, input_hw)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        boxes, scores = self.computation(image)
        return {"boxes": boxes, "scores": scores}


def to_litert(
    network: GridNetwork,
    info: WeightsInfo,
    input_hw: tuple[int, int],
    fp16: bool = False,
    int8_inputs: Sequence[ImageArray] | None = None,
) -> bytes:
    """Convert a network to a LiteRT file, and return the content of the file.

    The input is `image` [1, H, W, 3] uint8 RGB. The outputs are `boxes` [1, P, 4] float32 in input pixels and `scores`
    [1, P, C] float32, for P grid points and C classes.

    Args:
        network: trained network, not fused.
        info: information about the weights, for the metadata; the input size in it is replaced by `input_hw`.
        input_hw: input size (height, width) of the graph, multiples of 32.
        fp16: whether the weights are stored in float16.
        int8_inputs: letterboxed images [H, W, 3] for int8 calibration; None: the file is not int8.

    Raises:
        WeightsError: the converted file does not compute what the network computes.
    """
    # litert-torch 0.10 keeps the constants by their address, and copies weights that are not contiguous, as those in
    # channels_last. A copy gets the address of the copy before, and layers of one shape get the weights of the first
    # (google-ai-edge/litert-torch issues 1061 and 1238). So the weights are made contiguous, and the file is checked.
    module = _Named(network, input_hw).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *input_hw, 3), dtype=np.uint8))
    model = _convert(module, image)
    _check(model, module, image)
    if int8_inputs is not None:
        model = _to_int8(model, int8_inputs)
    elif fp16:
        model = _to_fp16(model)
    graph_info = GraphInfo(int8=int8_inputs is not None, fp16=fp16)
    return append_metadata(model, graph_metadata(info, input_hw) | graph_info_metadata(graph_info))


def _convert(module: nn.Module, image: Tensor) -> bytes:
    """Return the LiteRT file of a module in float32, without metadata."""
    with quiet_export(), no_output():
        import litert_torch
    with tempfile.TemporaryDirectory() as folder, quiet_export(), no_output():
        path = Path(folder) / "model.tflite"
        litert_torch.convert(module, sample_kwargs={"image": image}).export(str(path))
        return path.read_bytes()


def _check(model: bytes, module: nn.Module, image: Tensor) -> None:
    """Raise WeightsError if a converted file does not compute what the module computes for an image of noise."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=model).get_signature_runner()
    found = runner(image=image.numpy())
    with torch.inference_mode():
        expected = module(image)
    for name, tolerance in (("boxes", _BOX_TOLERANCE), ("scores", _SCORE_TOLERANCE)):
        difference = np.abs(found[name] - expected[name].numpy()).max()
        if not difference <= tolerance:  # also if it is NaN
            raise WeightsError(
                f"litert: the converted file computes other {name} than the network (up to {difference:.3g}, expected "
                f"at most {tolerance}): an error of litert-torch, see its issue 1061; use another version of it"
            )


def _to_fp16(model: bytes) -> bytes:
    """Return a LiteRT file whose weights of convolutions are stored in float16."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(bytearray(model))
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    quantizer.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.CONV_2D,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=weights,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    with quiet_export(), no_output():
        return bytes(quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


def _to_int8(model: bytes, inputs: Sequence[ImageArray]) -> bytes:
    """Return a LiteRT file whose convolutions compute in int8, with one scale per channel of the weights.

    The range of an activation is measured on the images. All 8 bits are used: the kernels of LiteRT sum in 32 bits.
    """
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(bytearray(model))
    for operation in _OPERATIONS:
        quantizer.add_static_config(
            regex=_BLOCKS,
            operation_name=qtyping.TFLOperationName[operation],
            activation_num_bits=8,
            weight_num_bits=8,
        )
    data = {"serving_default": [{"image": image[None]} for image in inputs]}
    with quiet_export(), no_output():
        ranges = quantizer.calibrate(data, num_threads=1)
        return bytes(
            quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model
        )
