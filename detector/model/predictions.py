"""The interface of the predictions of every kind of head."""

from typing import Protocol, Self

from torch import Tensor

from detector.config import ScoreConfig
from detector.model.grid import Grid


class Predictions(Protocol):
    """Raw predictions of a network for B images: P boxes each, with scores of C classes.

    Runtimes, NMS and evaluation use `boxes` and `scores` only. How the loss is computed depends on the kind of
    predictions; see `loss.criterion`.
    """

    @property
    def grid(self) -> Grid:
        """The grid points or cells at which the network predicts."""

    def boxes(self) -> Tensor:
        """Return the predicted boxes [B, P, 4] as (x1, y1, x2, y2) in input pixels."""

    def scores(self) -> Tensor:
        """Return the class scores [B, P, C], 0..1."""

    def with_grid(self, grid: Grid) -> Self:
        """Return the predictions with another grid object of the same points.

        The ONNX export uses it to store the points as constants.
        """

    def at_initial_bias(self, config: ScoreConfig) -> Self:
        """Return the predictions with all class scores exactly at their initial bias.

        The initial-loss diagnosis compares their loss with that of an untrained network.
        """

    def initial_loss_theory(self, config: ScoreConfig) -> str:
        """Describe the class loss at the initial bias, for the report of the initial-loss diagnosis."""
