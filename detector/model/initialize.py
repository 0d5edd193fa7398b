"""Initial weights of a network, with which training starts.

The variance of the activations stays the same from layer to layer, and all class scores start low.
"""

import math
from collections.abc import Callable

from torch import nn

from detector.config import NetworkConfig, ScoreConfig

PRIOR = 0.01
"""Score of every class at every point before training.

With a higher score, the loss of the many points without an object would dominate the loss of the few objects.

Source: Lin et al., Focal Loss for Dense Object Detection, 2017, section 4.1.
"""

_INITIAL_DISTANCE_BIAS = 1.2
"""Initial bias of the distances: softplus(1.2) is about 1.5, so each box starts with 1.5 strides to each side."""

INIT_STDS: dict[str, Callable[[int, int, NetworkConfig], float]] = {
    "he": lambda n, m, config: math.sqrt(2 / n),
    "xavier": lambda n, m, config: math.sqrt(2 / (n + m)),
    "lecun": lambda n, m, config: math.sqrt(1 / n),
    "normal": lambda n, m, config: config.init_std,
}
"""Value of the setting `init` → standard deviation of the initial weights of a layer with fan-in n and fan-out m.

Source: He et al., Delving Deep into Rectifiers, 2015, equation 10; Glorot and Bengio, Understanding the difficulty of
training deep feedforward neural networks, 2010, equation 12; LeCun et al., Efficient BackProp, 1998, equation 16.
"""


def initialize(network: nn.Module, config: NetworkConfig) -> None:
    """Set the weights of all convolutions in `network` to random values as in `config.init`, and the biases to 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            draw_weights(module, config)


def initialize_output(conv: nn.Conv2d, class_count: int, config: NetworkConfig) -> None:
    """Initialize the last convolution of a head, so that scores start at `PRIOR` and boxes at a plausible size.

    Args:
        conv: the last convolution; its output channels are C class logits, then 4 distances.
        class_count: number of classes C.
        config: `init` and `class_loss`.
    """
    draw_weights(conv, config)
    assert conv.bias is not None
    conv.weight.data.mul_(0.1)
    conv.bias.data[:class_count] = initial_logit(class_count, config)
    conv.bias.data[class_count:] = _INITIAL_DISTANCE_BIAS


def initial_logit(class_count: int, config: ScoreConfig) -> float:
    """Return the logit of every class before training, which corresponds to the score `PRIOR`.

    With a softmax over more than 50 classes, the logit corresponds to the score 0.5 / `class_count`, which is lower.
    """
    if config.class_loss == "softmax":
        prior = min(PRIOR, 0.5 / class_count)
        return math.log(prior / (1 - class_count * prior))
    return -math.log((1 - PRIOR) / PRIOR)


def draw_weights(conv: nn.Conv2d, config: NetworkConfig, fan_out: int | None = None) -> None:
    """Set the weights of `conv` to random values, normally distributed as `config.init` defines, and its bias to 0.

    Args:
        conv: the convolution.
        config: `init` and `init_std`.
        fan_out: number of outputs that one input influences. None: as for a kernel that moves over the feature map.
    """
    area = conv.kernel_size[0] * conv.kernel_size[1]
    std = INIT_STDS[config.init](conv.in_channels * area, fan_out or conv.out_channels * area, config)
    nn.init.normal_(conv.weight, 0.0, std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
