"""Describe a network as a table with one line per layer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detector.config import Config
from detector.letterbox import input_hw_for_aspect
from detector.model.checkpoint import load_weights
from detector.model.make_network import make_network
from detector.model.network import check_padding
from detector.model.summary import summarize

_ASPECT = 4 / 3
_LONG_SIDE = 320


def describe(config: Config, weights: str | Path | None = None, class_count: int = 20) -> Iterator[str]:
    """Yield the lines of a table that describes a network: the header, one line per layer, and the totals.

    Args:
        config: settings of the network. With `input_size="auto"`, the table is for an input of 320x256 pixels (width x
            height). Not used if `weights` is given.
        weights: weights whose network is described, for the input size of its training; None: describe a new network
            with the settings `config`.
        class_count: number of classes of the new network.

    Raises:
        InputError: the weights cannot be loaded, or the input is too small for "valid" padding.
    """
    if weights is not None:
        network, info = load_weights(weights)
        input_hw = info.choose_input_hw(None, str(weights))
    else:
        long_side = _LONG_SIDE if config.input_size == "auto" else config.input_size
        input_hw = long_side if isinstance(long_side, tuple) else input_hw_for_aspect(long_side, _ASPECT)
        check_padding(input_hw, config)
        color_mean, color_covariance = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)
        network = make_network(config, class_count, color_mean, color_covariance, input_hw=input_hw)
    layers = summarize(network, input_hw)
    width = max(len(layer.name) for layer in layers)
    yield f"{'layer':{width}}  {'type':21} {'out (c x h x w)':>15} {'parameters':>11} {'MFLOP':>9} {'field, px':>9}"
    for layer in layers:
        out = f"{layer.channels} x {layer.size_hw[0]} x {layer.size_hw[1]}"
        yield (
            f"{layer.name:{width}}  {layer.kind:21} {out:>15} {layer.parameters:>11,} {layer.flops / 1e6:>9.1f} "
            f"{layer.receptive_field:>9}"
        )
    parameters, flops = sum(layer.parameters for layer in layers), sum(layer.flops for layer in layers)
    yield (
        f"{len(layers)} layers, {parameters:,} parameters, {flops / 1e9:.2f} GFLOP for an input of "
        f"{input_hw[1]}x{input_hw[0]} (width x height)"
    )
