"""`Predictions`: the interface of the predictions of all kinds of heads."""

from typing import Protocol, Self

from torch import Tensor

from detector.config import ScoreConfig
from detector.model.grid import Grid


class Predictions(Protocol):
    """Raw predictions of a network for B images: P boxes per image, and the scores of C classes for each box.

    Runtimes, NMS and evaluation use only `boxes` and `scores`. The loss depends on the kind of predictions; see
    `loss.criterion`.
    """

    @property
    def grid(self) -> Grid:
        """The grid points, or the centers of the cells, at which the network predicts."""

    def boxes(self) -> Tensor:
        """Return the predicted boxes [B, P, 4] as (x1, y1, x2, y2) in input pixels."""

    def scores(self) -> Tensor:
        """Return the class scores [B, P, C], 0..1."""

    def with_grid(self, grid: Grid) -> Self:
        """Return a copy that holds `grid` instead of the present grid object; both must have the same points.

        The ONNX export uses this method to store the points as constants.
        """

    def at_initial_bias(self, config: ScoreConfig) -> Self:
        """Return a copy of the predictions in which every class score equals its initial bias.

        The check of the initial loss compares the loss of this copy with the loss of an untrained network.
        """

    def initial_loss_theory(self, config: ScoreConfig) -> str:
        """Return a text that describes the class loss at the initial bias, for the finding about the initial loss."""
