"""Export: from weights to a file that runs without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detector.engine.sources import Source
from detector.errors import InputError
from detector.files import write_whole
from detector.letterbox import canvas_of_aspect, lay_on_canvas
from detector.model.checkpoint import load_weights
from detector.runtime.graph import to_onnx
from detector.runtime.quantize import quantize

_CALIBRATION_PICTURES = 64


def export(
    weights: str | Path, path: Path, long_side: int | None = None, int8_pictures: Sequence[Source] | None = None
) -> tuple[int, int]:
    """Write weights as an ONNX file; it appears whole or not at all.

    Args:
        weights: .safetensors by path or shipped name.
        path: ends in .onnx.
        long_side: of the canvas in pixels, divides by 32; None: as trained.
        int8_pictures: compute in eight-bit integers, in the ranges seen on these pictures (64 of them are looked at).

    Returns:
        The canvas (height, width).

    Raises:
        InputError: no such weights or canvas, another suffix, a place that cannot be written, a package is missing, or
            the pictures are too few or cannot be read.
    """
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx")
    network, info = load_weights(weights)
    height, width = info.canvas_hw
    canvas_hw = info.canvas_hw if long_side is None else canvas_of_aspect(long_side, width / height)
    graph = to_onnx(network, info, canvas_hw)
    if int8_pictures is not None:
        count = min(_CALIBRATION_PICTURES, len(int8_pictures))
        chosen = [int8_pictures[int(i)] for i in np.linspace(0, len(int8_pictures) - 1, count)]
        graph = quantize(graph, (lay_on_canvas(picture.read(), canvas_hw)[1] for picture in chosen))
    write_whole(path, graph)
    return canvas_hw
