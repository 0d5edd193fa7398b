"""Parity: how much the detections of two detectors differ on the same images.

Each detection of one detector is matched with at most one detection of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.boxes import pairwise_iou
from detector.detections import Detections

_BOX_TOLERANCE, _SCORE_TOLERANCE = 0.5, 0.01
"""Largest differences, in image pixels and in score, that the rounding errors of float32 may cause."""

_MATCH_IOU = 0.5
"""Smallest IoU at which two detections of the same class are matched."""


@dataclass(frozen=True)
class Parity:
    """Differences between the detections of two detectors on the same images.

    Attributes:
        images: number of images.
        detections: number of detections of the reference.
        unmatched: number of detections, of both detectors, without a match, except those with a score within 0.01 of
            the score threshold.
        box: largest difference of a box coordinate of matched detections, in image pixels.
        score: largest difference of a score of matched detections.
    """

    images: int
    detections: int
    unmatched: int
    box: float
    score: float

    @property
    def is_within(self) -> bool:
        """Whether rounding errors of float32 explain the differences: all matched, boxes and scores nearly equal."""
        return self.unmatched == 0 and self.box <= _BOX_TOLERANCE and self.score <= _SCORE_TOLERANCE

    def is_like(self, certified: "Parity") -> bool:
        """Return whether the differences are explained by reduced precision (int8, bf16) on another machine.

        Args:
            certified: differences between the same export and its weights when it was certified. As many unmatched
                detections are allowed, plus 5 % of the detections.
        """
        return self.unmatched <= certified.unmatched + self.detections / 20

    def __str__(self) -> str:
        return (
            f"{self.detections} detections in {self.images} images: {self.unmatched} unmatched, boxes within "
            f"{self.box:.3g} px, scores within {self.score:.2g}"
        )


def compare_detections(expected: Sequence[Detections], found: Sequence[Detections], score_threshold: float) -> Parity:
    """Match the detections of each image and return the largest differences.

    Args:
        expected: detections of the reference, one item per image.
        found: detections of the other detector, one item per image.
        score_threshold: score threshold of both. Detections just above it may be missing on one side.
    """
    unmatched, box, score = 0, 0.0, 0.0
    for a, b in zip(expected, found, strict=True):
        pairs = match(a, b)
        for i, j in pairs:
            box = max(box, float(np.abs(a.boxes[i] - b.boxes[j]).max()))
            score = max(score, abs(float(a.scores[i] - b.scores[j])))
        for scores, matched in ((a.scores, {i for i, _ in pairs}), (b.scores, {j for _, j in pairs})):
            rest = [value for index, value in enumerate(scores) if index not in matched]
            unmatched += sum(bool(value > score_threshold + _SCORE_TOLERANCE) for value in rest)
    return Parity(len(expected), sum(map(len, expected)), unmatched, box, score)


def match(a: Detections, b: Detections) -> list[tuple[int, int]]:
    """Match two lists of detections of an image greedily, class by class.

    In the order of `a` (best score first), each detection is matched with the unmatched detection of `b` of the same
    class with the highest IoU, if it is at least 0.5.

    Returns:
        Pairs (index in `a`, index in `b`).
    """
    if not len(a) or not len(b):
        return []
    iou = pairwise_iou(a.boxes, b.boxes)
    iou[a.class_ids[:, None] != b.class_ids] = 0
    pairs = []
    for i in range(len(a)):
        j = int(iou[i].argmax())
        if iou[i, j] >= _MATCH_IOU:
            pairs.append((i, j))
            iou[:, j] = 0
    return pairs
