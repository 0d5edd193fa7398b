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

_MOST_UNMATCHED = 0.05
"""Largest number of unmatched detections of an int8 export on another machine, as a fraction of its detections. With
equal sums it is 0.003 to 0.02; with sums that overflow on CPUs without VNNI, 0.2 to 1.3 (docs/results.md)."""

CONFIDENT = 0.25
"""Score above which a detection counts for the agreement; the default score threshold of a detection."""

MIN_AGREEMENT = 0.96
"""Smallest agreement of an export that is as good as its weights. int8 exports have 0.976 to 0.99; with sums that
overflow on CPUs without VNNI, 0.79 to 0.949, which costs 0.03 to 0.09 of AP (docs/results.md)."""

_MIN_CONFIDENT = 40
"""Smallest number of confident detections from which the agreement is judged."""

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
        confident: number of detections of both detectors with a score above 0.25 (or above the score threshold of the
            comparison, if it is higher).
        confident_unmatched: number of these detections that have no match among these detections of the other
            detector. Detections whose score is at most 0.01 above the limit are not counted.
    """

    images: int
    detections: int
    unmatched: int
    box: float
    score: float
    confident: int
    confident_unmatched: int

    @property
    def agreement(self) -> float | None:
        """The fraction of confident detections of both detectors that have a match, 0..1; None if there are none."""
        return 1 - self.confident_unmatched / self.confident if self.confident else None

    @property
    def agrees(self) -> bool | None:
        """Whether the agreement is at least 0.96; None if fewer than 40 confident detections cannot tell."""
        if self.agreement is None or self.confident < _MIN_CONFIDENT:
            return None
        return self.agreement >= MIN_AGREEMENT

    @property
    def is_within_rounding(self) -> bool:
        """Return True if float32 rounding errors can explain the differences.

        That is: no unmatched detection, boxes within 0.5 pixels, and scores within 0.01, all inclusive.
        """
        return self.unmatched == 0 and self.box <= _BOX_TOLERANCE and self.score <= _SCORE_TOLERANCE

    def is_similar_to(self, certified: "Parity") -> bool:
        """Return True if the differences are as small as expected for a bf16 export on another machine.

        That is: at most as many unmatched detections as in `certified`, plus 5 % of the detections. A machine without
        bf16 computes in float32, so that its detections may differ as much as those of the weights.

        Args:
            certified: differences between the same export and its weights, from the certificate.
        """
        return self.unmatched <= certified.unmatched + _MOST_UNMATCHED * self.detections

    @property
    def is_within_int8_rounding(self) -> bool:
        """Return True if the differences are as small as expected for the same int8 export on another machine.

        That is: the number of unmatched detections is at most 5 % of the detections, or at most 2. Sums of int8
        products are the same numbers on every machine, so only the rounding of the rest differs.
        """
        return self.unmatched <= max(2, _MOST_UNMATCHED * self.detections)

    def __str__(self) -> str:
        if not self.detections and not self.unmatched:
            return f"no detections in {plural(self.images, 'image')}, so nothing was compared"
        text = f"{plural(self.detections, 'detection')} in {plural(self.images, 'image')}: {self.unmatched} unmatched"
        if self.unmatched and self.box == self.score == 0:
            return text  # perhaps nothing was matched, so "boxes within 0 px" would mislead
        return f"{text}, boxes within {self.box:.3g} px, scores within {self.score:.2g}"


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
        unmatched += _count_unmatched(a, b, pairs, score_threshold)
    limit = max(score_threshold, CONFIDENT)
    confident = [tuple(one[one.scores > limit] for one in pair) for pair in zip(expected, found, strict=True)]
    return Parity(
        images=len(expected),
        detections=sum(map(len, expected)),
        unmatched=unmatched,
        box=box,
        score=score,
        confident=sum(len(a) + len(b) for a, b in confident),
        confident_unmatched=sum(_count_unmatched(a, b, match(a, b), limit) for a, b in confident),
    )


def _count_unmatched(a: Detections, b: Detections, pairs: Sequence[tuple[int, int]], score_threshold: float) -> int:
    """Return the number of detections in `a` and `b` that are in none of the pairs, and not just above the threshold.

    Args:
        a: detections of one detector in an image.
        b: detections of the other detector.
        pairs: matched detections: pairs (index in `a`, index in `b`).
        score_threshold: score threshold of both.
    """
    count = 0
    for scores, matched in ((a.scores, [i for i, _ in pairs]), (b.scores, [j for _, j in pairs])):
        count += int((np.delete(scores, matched) > score_threshold + _SCORE_TOLERANCE).sum())
    return count


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
