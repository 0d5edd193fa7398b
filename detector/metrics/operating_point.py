"""Choose score thresholds from matches: the operating point of a detector."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detector.arrays import Bools, Doubles
from detector.errors import ConfigError
from detector.metrics.bootstrap import RESAMPLES, half_weights
from detector.metrics.intervals import Interval, half_sample_interval
from detector.metrics.matches import Matches
from detector.wording import UNDEFINED

VALUE_NAMES = ("precision", "recall", "F1")
"""What is measured at a threshold."""

_DIGITS = 4
"""A threshold is rounded to this number of decimals if it separates the same scores."""

_RATIO_BIAS = 1.0
"""Bias of a ratio of two sums divided by its mean excess on random halves: the bias falls as 1 / number of images."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What score thresholds are chosen for; without a smallest precision or recall, for the best F1.

    Attributes:
        min_precision: smallest precision, above 0 and at most 1; of these thresholds, that with the best recall.
        min_recall: smallest recall, above 0 and at most 1; of these thresholds, that with the best precision.
        per_class: whether each class has its own threshold; else all classes have the same.

    Raises:
        ConfigError: a value is out of range, or both are given.
    """

    min_precision: float | None = None
    min_recall: float | None = None
    per_class: bool = True

    def __post_init__(self) -> None:
        for name in ("min_precision", "min_recall"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name}: expected a number above 0 and at most 1, got {value}")
        if self.min_precision is not None and self.min_recall is not None:
            raise ConfigError("min_precision, min_recall: give only one of them; the other becomes as good as possible")

    def __str__(self) -> str:
        """Return the goal as text.

        >>> print(Goal(min_precision=0.95))
        precision of at least 0.95, for each class
        """
        scope = "for each class" if self.per_class else "one threshold for all classes"
        if self.min_precision is not None:
            return f"precision of at least {self.min_precision:g}, {scope}"
        if self.min_recall is not None:
            return f"recall of at least {self.min_recall:g}, {scope}"
        return f"best F1, {scope}"


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold, and what it gives on the images on which it was chosen.

    Attributes:
        threshold: a detection must have a higher score.
        precision: 0..1.
        recall: 0..1.
        f1: 0..1.
    """

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Choice:
    """The threshold of a class, or of all classes, or why there is none.

    Attributes:
        point: the operating point; None: the goal cannot be reached.
        problem: why there is no operating point, and what can be reached; empty if there is one.
    """

    point: OperatingPoint | None
    problem: str = ""


@dataclass(frozen=True)
class Reached:
    """Precision, recall and F1 of detections.

    Attributes:
        values: name as in `VALUE_NAMES` → value, 0..1; -1: undefined, because there are no detections or no objects.
        intervals: the same names → 95 % confidence interval; None: the images do not tell it.
        detections: number of detections.
        objects: number of objects.
    """

    values: dict[str, float]
    intervals: dict[str, Interval | None]
    detections: int
    objects: int

    def to_json(self) -> dict[str, Any]:
        """Return the values as a dictionary that can be written as JSON; an interval is [low, high] or null."""
        intervals = {name: None if one is None else one.to_json() for name, one in self.intervals.items()}
        return asdict(self) | {"intervals": intervals}


def choose_points(matches: Matches, goal: Goal, lowest: float) -> list[Choice]:
    """Choose the score threshold of each of C classes at the first IoU threshold of the matches.

    A threshold lies in the middle between the lowest score that it keeps and the next lower one, so rounding errors of
    a runtime do not change what it keeps.

    Args:
        matches: the matches on val, of detections with low scores too.
        goal: what is chosen.
        lowest: score threshold of the detections; lower scores are not known.
    """
    counts = ~matches.ignored[0, 0]
    correct = matches.true_positive[0, 0]
    of_object = matches.object_category[~matches.object_ignored[0]]
    classes = range(len(matches.category_ids))
    if not goal.per_class:
        choice = _choose(matches.scores[counts], correct[counts], len(of_object), goal, lowest)
        return [choice] * len(classes)
    choices = []
    for category in classes:
        own = counts & (matches.category == category)
        objects = int((of_object == category).sum())
        choices.append(_choose(matches.scores[own], correct[own], objects, goal, lowest))
    return choices


def _choose(scores: Doubles, correct: Bools, objects: int, goal: Goal, lowest: float) -> Choice:
    """Choose one threshold.

    Args:
        scores: [N] scores.
        correct: [N] True for a true positive.
        objects: number of objects.
        goal: what is chosen.
        lowest: as for `choose_points`.
    """
    if not objects:
        return Choice(None, "there are no such objects")
    if not correct.any():
        return Choice(None, "no detection is correct")
    order = np.argsort(-scores, kind="stable")
    scores, correct = scores[order], correct[order]
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # of equal scores, all are kept or none
    hits = np.cumsum(correct)[last]
    precision, recall = hits / (last + 1), hits / objects
    f1 = 2 * hits / (last + 1 + objects)
    limited, best = (precision, recall) if goal.min_recall is None else (recall, precision)
    smallest = goal.min_precision if goal.min_recall is None else goal.min_recall
    if smallest is None:
        index = max(range(len(last)), key=lambda k: (f1[k], precision[k]))
    else:
        index = max(range(len(last)), key=lambda k: (limited[k] >= smallest, best[k], limited[k]))
    if smallest is not None and limited[index] < smallest:
        index = max(range(len(last)), key=lambda k: (limited[k], best[k]))
        names = ("recall", "precision") if goal.min_precision is None else ("precision", "recall")
        reached = f"{names[0]} {limited[index]:.3f}, with {names[1]} {best[index]:.3f}"
        return Choice(None, f"not reachable; the highest is {reached}")
    below = scores[last[index] + 1] if index + 1 < len(last) else lowest
    threshold = _between(float(below), float(scores[last[index]]))
    return Choice(OperatingPoint(threshold, float(precision[index]), float(recall[index]), float(f1[index])))


def _between(low: float, high: float) -> float:
    """Return a threshold that keeps the score `high` and not the score `low`, with few digits if possible.

    >>> _between(0.25, 0.75), _between(0.5, 0.50001)
    (0.5, 0.500005)
    """
    middle = (low + high) / 2
    rounded = round(middle, _DIGITS)
    return rounded if low < rounded < high else middle


def measure(matches: Matches, categories: Sequence[int]) -> Reached:
    """Return precision, recall and F1 of all detections of some classes together, with 95 % confidence intervals.

    Args:
        matches: the matches; only the first IoU threshold is used.
        categories: indices of the classes.
    """
    own = np.isin(matches.category, categories) & ~matches.ignored[0, 0]
    images = len(matches.image_ids)
    correct = own & matches.true_positive[0, 0]
    of_class = np.isin(matches.object_category, categories) & ~matches.object_ignored[0]
    counts = np.stack([
        np.bincount(of_image, minlength=images)
        for of_image in (matches.image[correct], matches.image[own], matches.object_image[of_class])
    ])  # fmt: skip
    values = _ratios(half_weights(images, RESAMPLES).astype(np.float64) @ counts.T)
    _, found, objects = counts
    deciding = [int((of > 0).sum()) for of in (found, objects, found + objects)]
    return Reached(
        values=dict(zip(VALUE_NAMES, values[:, 0].tolist(), strict=True)),
        intervals={
            name: None
            if row[0] == UNDEFINED
            else half_sample_interval(float(row[0]), row[1:], count, (0, 1), _RATIO_BIAS)
            for name, row, count in zip(VALUE_NAMES, values, deciding, strict=True)
        },
        detections=int(found.sum()),
        objects=int(objects.sum()),
    )


def _ratios(sums: Doubles) -> Doubles:
    """Return [3, 1 + R] precision, recall and F1; -1: undefined. A half without a value has the value of all images.

    Args:
        sums: [1 + R, 3] numbers of true positives, detections and objects.
    """
    correct, found, objects = sums.T
    rows = []
    for above, below in ((correct, found), (correct, objects), (2 * correct, found + objects)):
        ratio = np.divide(above, below, out=np.full_like(above, UNDEFINED), where=below > 0)
        rows.append(np.where(ratio == UNDEFINED, ratio[0], ratio))
    # F1 is undefined without detections, as precision is, and without objects, as recall is.
    rows[2] = np.where((found[0] > 0) & (objects[0] > 0), rows[2], UNDEFINED)
    return np.stack(rows)
