"""The network as an ONNX graph: uint8 pictures in, boxes and scores out, and what the weights say about themselves."""

import io
import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from detector.errors import InputError
from detector.model.fuse import fuse
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo, to_metadata

OPSET = 17


class _Graph(nn.Module):
    """What the graph computes: the folded network, its boxes decoded and its logits turned into scores."""

    def __init__(self, network: GridNetwork) -> None:
        super().__init__()
        self.network = fuse(network)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        predictions = self.network(image.permute(0, 3, 1, 2))
        return predictions.boxes(), predictions.scores()


def to_onnx(network: GridNetwork, info: WeightsInfo, canvas_hw: tuple[int, int]) -> bytes:
    """Return an ONNX file: `image` [1, H, W, 3] uint8 RGB → `boxes` [1, P, 4] canvas pixels, `scores` [1, P, C].

    Args:
        network: trained, not fused.
        info: goes into the metadata, with `canvas_hw` as its canvas.
        canvas_hw: the one size the graph takes; both divide by 32.

    Raises:
        InputError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("writing ONNX needs the package onnx: pip install 'detector[onnx]'") from None
    graph = _Graph(network).cpu().eval()
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # The exporter that records one run is deprecated; its successor wants one more package and many seconds.
        # The rest are remarks that sizes become constants, which is wanted.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (torch.zeros(1, *canvas_hw, 3, dtype=torch.uint8),),
            file,  # type: ignore[arg-type]  # its annotation knows paths only
            input_names=["image"],
            output_names=["boxes", "scores"],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, to_metadata(replace(info, canvas_hw=canvas_hw)))
    return bytes(model.SerializeToString())
