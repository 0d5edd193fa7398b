"""What was found in one picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.boxes import Floats
from detector.errors import InputError

SCORE_THRESHOLD = 0.25
"""Lowest score worth showing, where the user does not say."""

IOU_THRESHOLD = 0.6
"""Overlap above which two boxes count as one object, where the user does not say."""

MAX_DETECTIONS = 300
"""Most detections of one picture, where the user does not say."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one picture, best first. Iterating gives (class name, score, box).

    Attributes:
        boxes: [N, 4] in pixels of the original picture, inside it.
        scores: [N] float32, 0..1, falling.
        class_ids: [N] int64, positions in `class_names`.
        class_names: all classes of the detector.

    Raises:
        InputError: the arrays do not fit together.

    >>> found = Detections(np.array([[1, 2, 3, 4]], np.float32), np.array([.9], np.float32), np.array([1]), ("a", "b"))
    >>> [(name, round(score, 2), box.tolist()) for name, score, box in found]
    [('b', 0.9, [1.0, 2.0, 3.0, 4.0])]
    """

    boxes: Floats
    scores: Floats
    class_ids: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or self.class_ids.shape != (n,):
            raise InputError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape} and class_ids {self.class_ids.shape} do not fit"
            )
        if n and not 0 <= self.class_ids.min() <= self.class_ids.max() < len(self.class_names):
            raise InputError(f"class ids must lie in 0..{len(self.class_names) - 1}, the classes that have names")
        if np.any(self.scores[1:] > self.scores[:-1]):
            raise InputError("detections must be sorted by score, best first")

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[str, float, Floats]]:
        for box, score, class_id in zip(self.boxes, self.scores, self.class_ids, strict=True):
            yield self.class_names[class_id], float(score), box
