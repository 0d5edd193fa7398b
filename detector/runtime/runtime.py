"""What a runtime is: canvases in, boxes and scores at every point of the grid out. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from detector.boxes import Floats
from detector.images import Pixels


@dataclass(frozen=True, eq=False)
class PointPredictions:
    """What the network says about B pictures at each of the P points of its grid.

    Attributes:
        boxes: [B, P, 4] float32 corners in canvas pixels, not clipped.
        scores: [B, P, C] float32, 0..1.
    """

    boxes: Floats
    scores: npt.NDArray[np.float32]


class Runtime(Protocol):
    """Computes a trained network.

    Attributes:
        name: of the library.
        canvas_hw: height and width of its pictures.
    """

    name: str
    canvas_hw: tuple[int, int]

    def predict(self, canvases: Sequence[Pixels]) -> PointPredictions:
        """Predict for B > 0 pictures [H, W, 3] uint8 RGB of the size of the canvas."""
        ...


def first_line(error: Exception) -> str:
    """Return the first line that says something of an error of a library; its name where none does."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
    return (lines or [type(error).__name__])[0]
