"""The network as an ONNX graph: uint8 images in, boxes and scores out, and what the weights say about themselves."""

import io
import warnings
from dataclasses import replace
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import config_of
from detector.errors import InputError
from detector.graph.metadata import GraphInfo, graph_info_metadata, graph_metadata
from detector.model.fuse import fuse
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo

OPSET = 17

_FREE = {0: "images", 1: "height", 2: "width"}
"""Axes of the input that may vary in a dynamic graph."""


class _Graph(nn.Module):
    """What the graph computes: the folded network, its boxes decoded and its logits turned into scores.

    Args:
        network: trained, not fused.
        input_hw: the one size of images; None: any.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, network: GridNetwork, input_hw: tuple[int, int] | None) -> None:
        super().__init__()
        self.network = fuse(network).cpu()
        weight, bias = self.network.color_convolution()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        # OpenCV's dnn before 5 computes no constants: where the points are known, they stand in the graph as numbers.
        self._grid = None
        if input_hw is not None:
            with torch.inference_mode():
                self._grid = self.network(torch.zeros(1, 3, *input_hw, dtype=torch.uint8)).grid

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        levels = F.conv2d(image.permute(0, 3, 1, 2).float(), self.weight, self.bias)
        predictions = self.network.from_normalized(levels)
        if self._grid is not None:
            predictions = replace(predictions, grid=self._grid)
        return predictions.boxes(), predictions.scores()


def to_onnx(network: GridNetwork, info: WeightsInfo, input_hw: tuple[int, int], dynamic: bool = False) -> bytes:
    """Return an ONNX file: `image` [1, H, W, 3] uint8 RGB → `boxes` [1, P, 4] canvas pixels, `scores` [1, P, C].

    Args:
        network: trained, not fused.
        info: goes into the metadata, with `input_hw` as its canvas.
        input_hw: the one size the graph takes; both divide by 32.
        dynamic: take any number of images of any such size.

    Raises:
        InputError: the package onnx is not installed, or such a network cannot be dynamic.
    """
    onnx = import_onnx()
    if dynamic:
        _check_dynamic(info)
    graph = _Graph(network, None if dynamic else input_hw).eval()
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # The exporter that records one run is deprecated; its successor wants one more package and many seconds.
        # The rest are remarks that sizes become constants, which is wanted.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (torch.zeros(1, *input_hw, 3, dtype=torch.uint8),),
            file,  # type: ignore[arg-type]  # its annotation knows paths only
            input_names=["image"],
            output_names=["boxes", "scores"],
            opset_version=OPSET,
            dynamic_axes={"image": _FREE, "boxes": {0: "images"}, "scores": {0: "images"}} if dynamic else None,
            dynamo=False,
        )
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, graph_metadata(info, input_hw) | graph_info_metadata(GraphInfo(dynamic=dynamic)))
    return bytes(model.SerializeToString())


def _check_dynamic(info: WeightsInfo) -> None:
    """Refuse networks in which the record of one canvas would be wrong for others."""
    config = config_of(dict(info.config))
    for setting, value in (("head", "points"), ("padding", "same")):
        if (own := getattr(config, setting)) != value:
            raise InputError(
                f"dynamic: not with {setting}={own}, whose sizes depend on the canvas; export one per canvas"
            )


def import_onnx() -> ModuleType:
    """Import onnx.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnx
        import onnx.parser
    except ImportError:
        raise InputError("writing ONNX needs the package onnx: pip install onnx") from None
    return onnx
