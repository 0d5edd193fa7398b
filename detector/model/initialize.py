"""First weights: variance kept from layer to layer, and a head that starts out nearly silent."""

import math
from collections.abc import Callable

import torch
from torch import nn

from detector.config import Config

PRIOR = 0.01
"""Score every point gives every class before training; keeps the many empty points from drowning the few objects.

Source: Lin et al., Focal Loss for Dense Object Detection, 2017, section 4.1.
"""

_FIRST_DISTANCE = 1.2
"""Bias of the distances: softplus(1.2) is about 1.5 strides to each side."""

_FIRST_ROOT = 0.4
"""Bias of the roots of width and height of the first YOLO's boxes: 0.16 of the canvas."""

INIT_STDS: dict[str, Callable[[int, int, Config], float]] = {
    "he": lambda n, m, config: math.sqrt(2 / n),
    "xavier": lambda n, m, config: math.sqrt(2 / (n + m)),
    "lecun": lambda n, m, config: math.sqrt(1 / n),
    "normal": lambda n, m, config: config.init_std,
}
"""Deviation of a layer's first weights, n numbers coming into each of its outputs and m going out of each input.

Source: He et al., Delving Deep into Rectifiers, 2015, equation 10; Glorot and Bengio, Understanding the difficulty of
training deep feedforward neural networks, 2010, equation 12; LeCun et al., Efficient BackProp, 1998, equation 16.
"""


def initialize(network: nn.Module, config: Config) -> None:
    """Draw the weights of all convolutions as `config.init` says."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            _draw(module, config)


def initialize_output(conv: nn.Conv2d, class_count: int, config: Config) -> None:
    """Set a head's last convolution so that scores start at `PRIOR` and boxes at a plausible size."""
    _draw(conv, config)
    assert conv.bias is not None
    conv.weight.data.mul_(0.1)
    conv.bias.data[:class_count] = first_logit(class_count, config)
    conv.bias.data[class_count:] = _FIRST_DISTANCE


def initialize_cells(conv: nn.Conv2d, class_count: int, config: Config) -> None:
    """Set the last convolution of the first YOLO's head: centers in the middle of the cell, boxes of a plausible size.

    Channels: C class scores, N confidences, then x, y and the roots of width and height for each of the N boxes.
    """
    _draw(conv, config)
    assert conv.bias is not None
    conv.weight.data.mul_(0.1)
    conv.bias.data.zero_()
    roots = _FIRST_ROOT * (1 + torch.arange(config.boxes_per_cell) / config.boxes_per_cell)
    offsets = torch.stack([torch.full_like(roots, 0.5), torch.full_like(roots, 0.5), roots, roots], dim=1)
    conv.bias.data[class_count + config.boxes_per_cell :] = offsets.flatten()


def first_logit(class_count: int, config: Config) -> float:
    """Return the logit at which every class starts with a score of `PRIOR` (or less, where there are many)."""
    if config.class_loss == "softmax":
        prior = min(PRIOR, 0.5 / class_count)
        return math.log(prior / (1 - class_count * prior))
    return -math.log((1 - PRIOR) / PRIOR)


def _draw(conv: nn.Conv2d, config: Config) -> None:
    area = conv.kernel_size[0] * conv.kernel_size[1]
    std = INIT_STDS[config.init](conv.in_channels * area, conv.out_channels * area, config)
    nn.init.normal_(conv.weight, 0.0, std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
