"""First weights: variance kept from layer to layer, and a head that starts out nearly silent."""

import math

from torch import nn

PRIOR = 0.01
"""Score every point gives every class before training; keeps the many empty points from drowning the few objects.

Source: Lin et al., Focal Loss for Dense Object Detection, 2017, section 4.1.
"""

_FIRST_DISTANCE = 1.2
"""Bias of the distances: softplus(1.2) is about 1.5 strides to each side."""


def initialise(network: nn.Module) -> None:
    """Draw the weights of all convolutions that a ReLU follows.

    Source: He et al., Delving Deep into Rectifiers, 2015, equation 10 (fan-in).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def initialise_output(conv: nn.Conv2d, class_count: int) -> None:
    """Set a head's last convolution so that scores start at `PRIOR` and boxes at a plausible size."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    conv.weight.data.mul_(0.1)
    conv.bias.data[:class_count] = -math.log((1 - PRIOR) / PRIOR)
    conv.bias.data[class_count:] = _FIRST_DISTANCE
