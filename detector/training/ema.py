"""EMA: the exponential moving average of the weights, which is evaluated and saved.

`torch.optim.swa_utils.AveragedModel` would do the same for a constant decay; here the decay is a function of the step.
"""

import copy

import torch

from detector.model.network import GridNetwork


class EmaWeights:
    """An averaged copy of a network; the statistics of batch norm are averaged too.

    Args:
        network: the network in training; its parameters are read at each update.

    Attributes:
        network: the averaged copy, in evaluation mode.

    Source: Tarvainen and Valpola, Mean teachers are better role models, 2017, equation 2.
    """

    def __init__(self, network: GridNetwork) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        states = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        pairs = [(average, current) for average, current in states if average.is_floating_point()]
        self._averages, self._currents = map(list, zip(*pairs, strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Update the average: average * decay + weights * (1 - decay)."""
        torch._foreach_lerp_(self._averages, self._currents, 1 - decay)
