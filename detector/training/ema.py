"""A moving average of the weights: what is evaluated and saved."""

import copy

import torch

from detector.model.network import GridNetwork


class EmaWeights:
    """Keeps an averaged copy of a network, batch-norm statistics included.

    Attributes:
        network: the copy, in evaluation mode.

    Source: Tarvainen & Valpola, Mean teachers are better role models, 2017, equation 2.
    """

    def __init__(self, network: GridNetwork) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._pairs = [
            (mine, theirs)
            for (mine, theirs) in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
            if mine.is_floating_point()
        ]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average towards the network: average * decay + weights * (1 - decay)."""
        mine, theirs = map(list, zip(*self._pairs, strict=True))
        torch._foreach_lerp_(mine, theirs, 1 - decay)
