"""Parity: the differences between the detections of two detectors on the same images.

Each detection of one detector is matched with at most one detection of the other detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.boxes import pairwise_iou
from detector.detections import Detections
from detector.wording import plural

_BOX_TOLERANCE, _SCORE_TOLERANCE = 0.5, 0.01
"""Largest difference of a box coordinate (in image pixels) and of a score that float32 rounding errors may cause."""

_MATCH_IOU = 0.5
"""Two detections of the same class are matched if their IoU is at least this value."""


@dataclass(frozen=True)
class Parity:
    """Differences between the detections of two detectors on the same images.

    Attributes:
        images: number of images.
        detections: number of detections of the reference detector.
        unmatched: number of detections of both detectors that have no match. Detections whose score is at most 0.01
            above the score threshold are not counted.
        box: largest difference of a box coordinate between two matched detections, in image pixels.
        score: largest difference of the score between two matched detections.
    """

    images: int
    detections: int
    unmatched: int
    box: float
    score: float

    @property
    def is_within_rounding(self) -> bool:
        """Return True if float32 rounding errors can explain the differences.

        That is: no unmatched detection, boxes within 0.5 pixels, and scores within 0.01, all inclusive.
        """
        return self.unmatched == 0 and self.box <= _BOX_TOLERANCE and self.score <= _SCORE_TOLERANCE

    def is_similar_to(self, certified: "Parity") -> bool:
        """Return True if the differences are as small as expected for an int8 or bf16 export on another machine.

        That is: at most as many unmatched detections as in `certified`, plus 5 % of the detections.

        Args:
            certified: differences between the same export and its weights, from the certificate.
        """
        return self.unmatched <= certified.unmatched + self.detections / 20

    def __str__(self) -> str:
        return (
            f"{plural(self.detections, 'detection')} in {plural(self.images, 'image')}: {self.unmatched} unmatched, "
            f"boxes within {self.box:.3g} px, scores within {self.score:.2g}"
        )


def compare_detections(expected: Sequence[Detections], found: Sequence[Detections], score_threshold: float) -> Parity:
    """Match the detections of two detectors in each image, and return the largest differences.

    Args:
        expected: detections of the reference detector, one item per image.
        found: detections of the other detector, one item per image.
        score_threshold: score threshold of both detectors. A detection whose score is at most 0.01 above the threshold
            may be missing on one side.
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
    """Match the detections of two detectors in one image greedily, within each class; return the pairs.

    In the order of `a` (highest score first), each detection is matched with the detection of `b` that has the same
    class, has no match yet, and has the highest IoU. If the highest IoU is below 0.5, the detection has no match.

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
