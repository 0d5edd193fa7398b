"""The network as an ONNX graph: uint8 pictures in, boxes and scores out, and what the weights say about themselves."""

import io
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from detector.engine.checkpoint import load_weights
from detector.errors import InputError
from detector.letterbox import canvas_of_aspect
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
        return predictions.boxes(), predictions.class_logits.sigmoid()


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


def export(weights: str | Path, path: Path, long_side: int | None = None) -> tuple[tuple[int, int], int]:
    """Write weights as an ONNX file; it appears whole or not at all.

    Args:
        weights: .safetensors by path or shipped name.
        path: ends in .onnx.
        long_side: of the canvas in pixels, divides by 32; None: as trained.

    Returns:
        The canvas (height, width) and the size of the file in bytes.

    Raises:
        InputError: no such weights or canvas, another suffix, a place that cannot be written, or no package onnx.
    """
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx")
    network, info = load_weights(weights)
    height, width = info.canvas_hw
    canvas_hw = info.canvas_hw if long_side is None else canvas_of_aspect(long_side, width / height)
    graph = to_onnx(network, info, canvas_hw)
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(graph)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    return canvas_hw, len(graph)
