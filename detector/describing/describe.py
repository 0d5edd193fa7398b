"""Describing a network: a table of its layers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detector.config import Config
from detector.letterbox import input_hw_for_aspect
from detector.model.checkpoint import load_weights
from detector.model.network import GridNetwork, check_canvas, uses_spp
from detector.model.summary import summarize

_ASPECT = 4 / 3
_LONG_SIDE = 320


def describe(config: Config, weights: str | Path | None = None, class_count: int = 20) -> Iterator[str]:
    """Yield the lines of a table: a line per layer, then the sums.

    Args:
        config: of the network; an input on "auto" is taken as 320x256.
        weights: describe these instead, on the canvas they were trained on.
        class_count: C of a network without weights.

    Raises:
        InputError: no such weights, or an input that "valid" padding eats up.
    """
    if weights is not None:
        network, info = load_weights(weights)
        input_hw = info.input_hw
    else:
        long_side = _LONG_SIDE if config.input_size == "auto" else config.input_size
        input_hw = long_side if isinstance(long_side, tuple) else input_hw_for_aspect(long_side, _ASPECT)
        check_canvas(input_hw, config)
        colors = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)
        network = GridNetwork(config, class_count, *colors, spp=uses_spp(input_hw))
    layers = summarize(network, input_hw)
    width = max(len(layer.name) for layer in layers)
    yield f"{'layer':{width}}  {'what':21} {'out (c x h x w)':>15} {'parameters':>11} {'MFLOP':>9} {'sees, px':>9}"
    for layer in layers:
        out = f"{layer.channels} x {layer.size_hw[0]} x {layer.size_hw[1]}"
        yield (
            f"{layer.name:{width}}  {layer.kind:21} {out:>15} {layer.parameters:>11,} {layer.flops / 1e6:>9.1f} "
            f"{layer.receptive_field:>9}"
        )
    parameters, flops = sum(layer.parameters for layer in layers), sum(layer.flops for layer in layers)
    yield f"{len(layers)} layers, {parameters:,} parameters, {flops / 1e9:.2f} GFLOP for an input of " + (
        f"{input_hw[1]}x{input_hw[0]} (width x height)"
    )
