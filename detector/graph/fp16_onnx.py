"""Convert an ONNX graph to float16: half the size, and faster on devices that compute in float16."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detector.errors import WeightsError
from detector.graph.int8_onnx import is_quantizable
from detector.graph.metadata import GraphInfo, graph_info_metadata
from detector.graph.to_onnx import import_onnx

if TYPE_CHECKING:
    import onnx


def to_fp16(graph: bytes) -> bytes:
    """Convert the weights and activations of an ONNX graph to float16, and return the new ONNX file.

    The inputs and outputs stay as they are (uint8 images, float32 boxes and scores). The same nodes as for int8 are
    converted (`is_quantizable`): not the normalization, the last convolution of each head and the decoding of boxes,
    because a float16 between 256 and 512 has steps of 0.25, too coarse for coordinates. The converter of ONNX Runtime
    is not used, because it rounds every tensor between two nodes that stay in float32 to float16 too.

    Args:
        graph: bytes of the ONNX file that `to_onnx` returned.

    Raises:
        MissingPackageError: the package onnx is not installed.
        WeightsError: a weight is too large for float16.
    """
    onnx = import_onnx()
    model = onnx.load_from_string(graph)
    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    floats = _float_tensors(onnx.shape_inference.infer_shapes(model).graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    half_nodes = [node for node in nodes if is_quantizable(node.name) and node.op_type != "Constant"]
    half = {name for node in half_nodes for name in node.output if name in floats}
    casts: dict[str, Any] = {}
    ordered = []
    for node in nodes:
        is_half = any(name in half for name in node.output)
        for index, name in enumerate(node.input):
            if name not in floats or (name in half) == is_half or (node.op_type == "Resize" and index > 0):
                continue  # the same type already; the scales of Resize are always float32
            node.input[index] = converted = f"{name}_{'fp16' if is_half else 'fp32'}"
            if name in weights:
                if converted not in weights:
                    array = _to_half(onnx.numpy_helper.to_array(weights[name]))
                    weights[converted] = onnx.numpy_helper.from_array(array, converted)
            elif converted not in casts:
                target = float16 if is_half else float32
                casts[converted] = onnx.helper.make_node(
                    "Cast", [name], [converted], name=f"/cast{converted}", to=target
                )
                ordered.append(casts[converted])
        ordered.append(node)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(ordered)
    used = {name for node in ordered for name in node.input}
    model.graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)
    for key, value in graph_info_metadata(GraphInfo(fp16=True)).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _to_half(array: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Return an array of weights in float16; raise WeightsError if a weight is too large."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise WeightsError(
            f"float16: a weight of {np.abs(array).max():.3g} is too large for float16 (largest number: 65504); export "
            "in float32"
        )
    return half


def _float_tensors(graph: "onnx.GraphProto") -> set[str]:
    """Return the names of all float32 tensors of a graph, after the inference of shapes."""
    onnx = import_onnx()
    float32 = onnx.TensorProto.FLOAT
    values = [*graph.value_info, *graph.input, *graph.output]
    names = {value.name for value in values if value.type.tensor_type.elem_type == float32}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == float32}
