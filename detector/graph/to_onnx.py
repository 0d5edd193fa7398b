"""Convert a network to an ONNX file.

The graph takes uint8 images and outputs boxes and scores. Its metadata contains the information about the weights.
"""

import hashlib
import io
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from detector.config import config_of
from detector.errors import MissingPackageError, WeightsError
from detector.graph.graph_module import GraphModule, quiet_export
from detector.graph.metadata import GraphInfo, graph_info_metadata, graph_metadata
from detector.model.network import GridNetwork
from detector.version import VERSION
from detector.weights_info import WeightsInfo

OPSET = 17
"""Version of the ONNX operator set of the exported graphs."""

_DYNAMIC_AXES = {0: "images", 1: "height", 2: "width"}
"""Input axes of a dynamic graph that may have any size: axis number → name of the axis."""


def to_onnx(network: GridNetwork, info: WeightsInfo, input_hw: tuple[int, int], dynamic: bool = False) -> bytes:
    """Convert a network to an ONNX graph, and return the ONNX file.

    The input of the graph is `image` [1, H, W, 3] uint8 RGB. The outputs of the graph are `boxes` [1, P, 4] float32 in
    input pixels and `scores` [1, P, C] float32 from 0 to 1, for P grid points and C classes.

    Args:
        network: trained network, not fused.
        info: information about the weights, for the metadata; the input size in it is replaced by `input_hw`.
        input_hw: input size (height, width) of the graph, multiples of 32.
        dynamic: if True, the graph accepts any number of images, and any height and width that are multiples of 32.

    Returns:
        The bytes of the ONNX file.

    Raises:
        MissingPackageError: the package onnx is not installed.
        WeightsError: `dynamic` is True, but the network supports only a fixed input size.
    """
    onnx = import_onnx()
    if dynamic:
        _check_dynamic(info)
    graph = GraphModule(network, None if dynamic else input_hw)
    file = io.BytesIO()
    # The tracing exporter warns that it is deprecated, but the new exporter needs one more package and many seconds.
    with quiet_export(), torch.inference_mode():
        torch.onnx.export(
            graph,
            (torch.zeros(1, *input_hw, 3, dtype=torch.uint8),),
            file,  # type: ignore[arg-type]  # the annotation allows only paths
            input_names=["image"],
            output_names=["boxes", "scores"],
            opset_version=OPSET,
            dynamic_axes={"image": _DYNAMIC_AXES, "boxes": {0: "images"}, "scores": {0: "images"}} if dynamic else None,
            dynamo=False,
        )
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, graph_metadata(info, input_hw) | graph_info_metadata(GraphInfo(dynamic=dynamic)))
    return bytes(model.SerializeToString())


@cache
def code_hash() -> str:
    """Return a hash of the code on which the result of `to_onnx` depends, and of the version of the package.

    A graph in the cache is used only by the code that has written it, also while the package is developed.
    """
    here = Path(__file__).parent
    code = [path.read_bytes() for folder in (here, here.parent / "model") for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"\0".join([VERSION.encode(), *code])).hexdigest()


def _check_dynamic(info: WeightsInfo) -> None:
    """Raise WeightsError if a graph traced at one input size would be wrong at other input sizes."""
    config = config_of(dict(info.config))
    for setting, required in (("head", "points"), ("padding", "same")):
        if (value := getattr(config, setting)) != required:
            raise WeightsError(
                f"dynamic: not possible with {setting}={value}, because the layer sizes depend on the input size; "
                "export one graph per input size, without --dynamic"
            )


def import_onnx() -> ModuleType:
    """Import onnx and onnx.parser, and return the module `onnx`.

    Raises:
        MissingPackageError: onnx is not installed.
    """
    try:
        import onnx
        import onnx.parser
    except ImportError:
        raise MissingPackageError(
            "writing ONNX files needs the package onnx: pip install 'grid-detector[onnx]'"
        ) from None
    return onnx
