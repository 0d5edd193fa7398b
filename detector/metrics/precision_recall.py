"""Precision and recall: as a curve for each class, and against the score threshold."""

from dataclasses import dataclass

import numpy as np

from detector.arrays import Bools, Doubles
from detector.metrics.matches import Matches
from detector.wording import UNDEFINED

RECALL_LEVELS = np.linspace(0, 1, 101)
"""COCO's 101 recall levels."""

_THRESHOLDS = np.arange(1, 100) / 100
"""Score thresholds, for scores in 0..1."""


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Precision, recall and F1 of all classes together, against the score threshold.

    Attributes:
        thresholds: [S] score thresholds, ascending; a detection counts if its score is at least the threshold.
        precision: [S] fraction of the detections that are true positives; -1: there are no detections.
        recall: [S] fraction of the objects that are found; -1: there are no objects.
        f1: [S] harmonic mean of both; 0 if there are no true positives, -1 if there are no objects.
    """

    thresholds: Doubles
    precision: Doubles
    recall: Doubles
    f1: Doubles

    @property
    def best(self) -> int | None:
        """Index of the threshold with the highest F1, the highest of several; None: no F1 is above 0."""
        if not len(self.f1) or self.f1.max() <= 0:
            return None
        return len(self.f1) - 1 - int(self.f1[::-1].argmax())


def threshold_curve(matches: Matches) -> ThresholdCurve:
    """Return precision, recall and F1 at the lowest IoU threshold of the matches.

    The thresholds are 0.01, 0.02, ..., 0.99. If another program wrote scores outside 0..1, they are 99 numbers between
    the lowest and the highest score.
    """
    counted = ~matches.ignored[0, 0]
    scores, true_positive = matches.scores[counted], matches.true_positive[0, 0, counted]
    thresholds = _THRESHOLDS
    if len(scores) and not 0 <= scores.min() <= scores.max() <= 1:
        thresholds = np.linspace(scores.min(), scores.max(), 101)[1:-1]
    found = _at_least(scores, thresholds)
    correct = _at_least(scores[true_positive], thresholds)
    objects = int((~matches.object_ignored[0]).sum())
    undefined = np.full(len(thresholds), float(UNDEFINED))
    precision = np.divide(correct, found, out=undefined.copy(), where=found > 0)
    if not objects:
        return ThresholdCurve(thresholds, precision, undefined, undefined)
    return ThresholdCurve(thresholds, precision, correct / objects, 2 * correct / (found + objects))


def _at_least(scores: Doubles, thresholds: Doubles) -> Doubles:
    """Return [S] the number of scores that are at least each threshold."""
    return (len(scores) - np.searchsorted(np.sort(scores), thresholds)).astype(np.float64)


def precision_at_recall(true_positive: Bools, objects: int) -> Doubles:
    """Return [101] COCO's precision at each of its recall levels: the highest precision at this or a higher recall.

    The average precision is the mean.

    Args:
        true_positive: [N] whether each detection of a class is a true positive, the highest score first.
        objects: number of objects of the class, at least 1.
    """
    correct = np.cumsum(true_positive)
    precision = np.maximum.accumulate((correct / np.arange(1, len(correct) + 1))[::-1])[::-1]
    first = np.searchsorted(correct / objects, RECALL_LEVELS)
    return np.append(precision, 0.0)[first]


def class_curves(matches: Matches) -> list[Doubles | None]:
    """Return for each class [101] COCO's precision at each recall level, at the lowest IoU threshold of the matches.

    None: the class has no objects.
    """
    curves: list[Doubles | None] = []
    for category in range(len(matches.category_ids)):
        objects = int(((matches.object_category == category) & ~matches.object_ignored[0]).sum())
        own = (matches.category == category) & ~matches.ignored[0, 0]
        curves.append(precision_at_recall(matches.true_positive[0, 0, own], objects) if objects else None)
    return curves
