"""EMA: the exponential moving average of the weights. The averaged weights are evaluated and saved.

`torch.optim.swa_utils.AveragedModel` supports only a constant decay; here the decay is a function of the step.
"""

import copy

import torch

from detector.model.network import GridNetwork


class EmaWeights:
    """A copy of a network with averaged weights and averaged batch norm statistics.

    Args:
        network: the network that is trained; each update reads its current weights.

    Attributes:
        network: the copy with averaged weights, in evaluation mode.

    Source: Tarvainen and Valpola, Mean teachers are better role models, 2017, equation 2.
    """

    def __init__(self, network: GridNetwork) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        states = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        pairs = [(average, current) for average, current in states if average.is_floating_point()]
        self._averages, self._currents = map(list, zip(*pairs, strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Set the average to average * decay + current * (1 - decay), where `current` are the weights in training."""
        torch._foreach_lerp_(self._averages, self._currents, 1 - decay)
