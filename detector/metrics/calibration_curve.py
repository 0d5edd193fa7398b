"""Reliability: how often detections with a certain score are right, and the expected calibration error (ECE)."""

from dataclasses import dataclass

import numpy as np

from detector.arrays import Doubles, Ints
from detector.metrics.matches import Matches
from detector.wording import UNDEFINED

LOWEST_SCORE = 0.05
"""Detections with lower scores do not count: there are many of them, they are all wrong, and nobody shows them."""


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """The result of `calibration_curve`, for B bins of equal width.

    Attributes:
        edges: [B + 1] limits of the bins, 0..1.
        counts: [B] number of detections in each bin.
        confidence: [B] mean score of the detections in each bin; -1: there are none.
        precision: [B] fraction of them that are true positives; -1: there are none.
        ece: expected calibration error: mean distance of both, weighted with the counts; -1: there are no detections.
    """

    edges: Doubles
    counts: Ints
    confidence: Doubles
    precision: Doubles
    ece: float


def calibration_curve(matches: Matches, *, bins: int = 10) -> CalibrationCurve | None:
    """Return how well scores agree with precision, at the lowest IoU threshold of the matches.

    Detections with a score below `LOWEST_SCORE` and those that are ignored do not count.

    Args:
        matches: the matches.
        bins: number of bins.

    Returns:
        The curve; None: a score is outside 0..1, so that scores are no probabilities.

    Source: Küppers et al., Multivariate Confidence Calibration for Object Detection, 2020.
    """
    if len(matches.scores) and not 0 <= matches.scores.min() <= matches.scores.max() <= 1:
        return None
    counted = ~matches.ignored[0, 0] & (matches.scores >= LOWEST_SCORE)
    scores, correct = matches.scores[counted], matches.true_positive[0, 0, counted]
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    confidence, precision = (
        np.divide(np.bincount(index, values, bins), counts, out=np.full(bins, float(UNDEFINED)), where=counts > 0)
        for values in (scores, correct.astype(np.float64))
    )
    total = int(counts.sum())
    ece = float((counts * np.abs(confidence - precision)).sum() / total) if total else float(UNDEFINED)
    return CalibrationCurve(np.linspace(0, 1, bins + 1), counts, confidence, precision, ece)
