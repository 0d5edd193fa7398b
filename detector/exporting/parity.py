"""How far two detectors' answers to the same images lie apart: their detections matched one to one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.boxes import pairwise_iou
from detector.detections import Detections

_BOX_TOLERANCE, _SCORE_TOLERANCE = 0.5, 0.01
"""ImageArray of the image, and score, by which exact arithmetic may drift."""

_SAME_OBJECT = 0.5
"""IoU from which two detections of a class are the same one."""


@dataclass(frozen=True)
class Drift:
    """How far two lists of answers to the same images lie apart.

    Attributes:
        images: how many.
        detections: of the reference.
        unmatched: detections of either that the other lacks, but for those whose score is that near the threshold.
        box: largest difference of a side, pixels of the image.
        score: largest difference of a score.
    """

    images: int
    detections: int
    unmatched: int
    box: float
    score: float

    @property
    def is_within(self) -> bool:
        """Whether exact arithmetic may differ so much."""
        return self.unmatched == 0 and self.box <= _BOX_TOLERANCE and self.score <= _SCORE_TOLERANCE

    def is_like(self, other: "Drift") -> bool:
        """Say whether arithmetic that is not exact may differ so much between machines.

        On one of them it differed by `other` from the weights: so far, and one in twenty detections, is let pass.
        """
        return self.unmatched <= other.unmatched + self.detections / 20

    def __str__(self) -> str:
        return (
            f"{self.detections} detections in {self.images} images: {self.unmatched} unmatched, boxes within "
            f"{self.box:.3g} px, scores within {self.score:.2g}"
        )


def compare(expected: Sequence[Detections], found: Sequence[Detections], score_threshold: float) -> Drift:
    """Match the detections of each image one to one, class by class, and return how far they lie apart.

    Args:
        expected: of the reference, an image each.
        found: of the other.
        score_threshold: both were asked for: what hardly passes it may be missing on the other side.
    """
    unmatched, box, score = 0, 0.0, 0.0
    for one, other in zip(expected, found, strict=True):
        pairs = match(one, other)
        for mine, theirs in pairs:
            box = max(box, float(np.abs(one.boxes[mine] - other.boxes[theirs]).max()))
            score = max(score, abs(float(one.scores[mine] - other.scores[theirs])))
        for scores, taken in ((one.scores, {a for a, _ in pairs}), (other.scores, {b for _, b in pairs})):
            alone = [value for index, value in enumerate(scores) if index not in taken]
            unmatched += sum(bool(value > score_threshold + _SCORE_TOLERANCE) for value in alone)
    return Drift(len(expected), sum(map(len, expected)), unmatched, box, score)


def match(one: Detections, other: Detections) -> list[tuple[int, int]]:
    """Return pairs of indices: the best of the first takes its best partner of the same class, then the next best."""
    if not len(one) or not len(other):
        return []
    iou = pairwise_iou(one.boxes, other.boxes)
    iou[one.class_ids[:, None] != other.class_ids] = 0
    pairs = []
    for mine in range(len(one)):
        theirs = int(iou[mine].argmax())
        if iou[mine, theirs] >= _SAME_OBJECT:
            pairs.append((mine, theirs))
            iou[:, theirs] = 0
    return pairs
