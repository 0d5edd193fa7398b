"""The error budget: how many points of AP each kind of error costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from detector.arrays import Bools, Doubles, Ints
from detector.metrics.matches import Matches
from detector.metrics.overlaps import image_overlaps
from detector.metrics.precision_recall import precision_at_recall
from detector.wording import UNDEFINED

ErrorKind = Literal["class", "localization", "both", "duplicate", "background", "missed"]
"""Kinds of errors. All but "missed" are kinds of false positives."""

ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)

BACKGROUND_IOU = 0.1
"""A false positive with a smaller IoU with every object is in the background."""


@dataclass(frozen=True)
class ErrorBudget:
    """The result of `error_budget`.

    Attributes:
        AP50: average precision at the IoU threshold of the matches, such as 0.5; -1: there are no objects.
        gains: kind → by how much this AP rises if all errors of the kind are fixed; -1: there are no objects.
        counts: kind → number of errors, at any score.
        false_positives: by how much the AP rises without any false positive.
        false_negatives: by how much the AP rises without any object that was not found.
    """

    AP50: float
    gains: Mapping[ErrorKind, float]
    counts: Mapping[ErrorKind, int]
    false_positives: float
    false_negatives: float


class _Kinds(NamedTuple):
    """The kind of each false positive.

    Attributes:
        kind: [D] index into `ERROR_KINDS`; -1: a true positive, or ignored.
        target: [D] index of the object that the detection would match if its class or its box were right; -1: none.
    """

    kind: Ints
    target: Ints


def error_budget(matches: Matches, ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> ErrorBudget:
    """Return what each kind of error costs at the lowest IoU threshold of the matches, 0.5 for COCO's matches.

    A false positive has one kind, the first that fits:

    - localization: the IoU with an object of its class is in 0.1..0.5;
    - class: the IoU with an object of another class is at least 0.5;
    - duplicate: the IoU with an object of its class is at least 0.5, and a better detection has this object;
    - background: the IoU with every object is at most 0.1;
    - both: the IoU with an object of another class is in 0.1..0.5.

    A missed object is not found, and no error of the kinds localization and class is about it. Errors are fixed one
    kind at a time. Class and localization errors become true positives if their object is free and no better error of
    these two kinds is about it; else they are removed, as all other false positives are. Missed objects do not count.
    The gains do not sum up to 1 - AP. Crowd regions play no part.

    Args:
        matches: the matches of `rows` with `ground_truth`.
        ground_truth: COCO dictionary.
        rows: detections in COCO's results format.

    Source: Bolya, Foley, Hays and Hoffman, TIDE: A General Toolbox for Identifying Object Detection Errors, 2020.
    """
    counts = ~matches.object_ignored[0]
    objects = np.bincount(matches.object_category[counts], minlength=len(matches.category_ids))
    true_positive = matches.true_positive[0, 0]
    kinds = _kinds(matches, ground_truth, rows)
    hit = np.zeros(len(counts), np.bool_)
    hit[matches.matched_object[0, true_positive]] = True
    fixable = np.isin(kinds.kind, (ERROR_KINDS.index("class"), ERROR_KINDS.index("localization")))
    missed = counts & ~hit
    missed[kinds.target[fixable]] = False
    own_class = matches.category.astype(np.int64)
    can_be_right = _best_of_free_objects(matches, kinds.target, fixable, hit)
    keep = ~matches.ignored[0, 0]
    base = _mean_ap(own_class, matches.scores, true_positive, keep, objects)
    gains: dict[ErrorKind, float] = {}
    numbers: dict[ErrorKind, int] = {}
    for index, kind in enumerate(ERROR_KINDS[:-1]):
        wrong = kinds.kind == index
        numbers[kind] = int(wrong.sum())
        fixed = wrong & can_be_right
        category = np.where(fixed, np.append(matches.object_category, 0)[kinds.target], own_class)
        ap = _mean_ap(category, matches.scores, true_positive | fixed, keep & (fixed | ~wrong), objects)
        gains[kind] = _gain(ap, base)
    numbers["missed"] = int(missed.sum())

    def without(left_out: Bools, kept: Bools) -> float:
        """Return the gain of AP if some objects do not count, and only some detections do."""
        rest = objects - np.bincount(matches.object_category[left_out], minlength=len(objects))
        return _gain(_mean_ap(own_class, matches.scores, true_positive, kept, rest, objects > 0), base)

    gains["missed"] = without(missed, keep)
    return ErrorBudget(
        AP50=base,
        gains=gains,
        counts=numbers,
        false_positives=without(np.zeros_like(missed), keep & true_positive),
        false_negatives=without(counts & ~hit, keep),
    )


def _kinds(matches: Matches, ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> _Kinds:
    """Return the kind of each false positive."""
    kind, target = np.full((2, len(matches.scores)), -1, np.int64)
    false_positive = ~matches.true_positive[0, 0] & ~matches.ignored[0, 0]
    threshold = float(matches.iou_thresholds[0])
    for image in image_overlaps(matches, ground_truth, rows):
        wrong = false_positive[image.found]
        own = image.found[wrong]
        if not len(own):
            continue
        kind[own] = ERROR_KINDS.index("background")
        if not len(image.objects):
            continue
        iou = image.iou[wrong]
        same_class = matches.category[own][:, None] == matches.object_category[image.objects]
        same, other = np.where(same_class, iou, 0), np.where(same_class, 0, iou)
        same_iou, other_iou = same.max(axis=1), other.max(axis=1)
        # The first condition that holds decides.
        conditions = (
            ("localization", (same_iou >= BACKGROUND_IOU) & (same_iou < threshold)),
            ("class", other_iou >= threshold),
            ("duplicate", same_iou >= threshold),
            ("background", np.maximum(same_iou, other_iou) <= BACKGROUND_IOU),
        )
        kind[own] = np.select(
            [condition for _, condition in conditions],
            [ERROR_KINDS.index(name) for name, _ in conditions],
            ERROR_KINDS.index("both"),
        )
        is_class = kind[own] == ERROR_KINDS.index("class")
        target[own] = image.objects[np.where(is_class, other.argmax(axis=1), same.argmax(axis=1))]
    return _Kinds(kind, target)


def _best_of_free_objects(matches: Matches, target: Ints, fixable: Bools, hit: Bools) -> Bools:
    """Return [D] which detections would become true positives: for each object that no detection has, the best one.

    Args:
        matches: the matches.
        target: [D] as in `_Kinds`.
        fixable: [D] class and localization errors.
        hit: [G] objects that a detection has.
    """
    candidates = np.flatnonzero(fixable & ~np.append(hit, True)[target])
    order = candidates[np.argsort(-matches.scores[candidates], kind="stable")]
    _, first = np.unique(target[order], return_index=True)
    best = np.zeros(len(fixable), np.bool_)
    best[order[first]] = True
    return best


def _mean_ap(
    category: Ints, scores: Doubles, true_positive: Bools, keep: Bools, objects: Ints, classes: Bools | None = None
) -> float:
    """Return the mean AP of the classes with objects; -1: none has.

    Args:
        category: [D] class of each detection.
        scores: [D] score of each detection.
        true_positive: [D] whether each detection is a true positive.
        keep: [D] whether each detection counts.
        objects: [C] number of objects of each class.
        classes: [C] classes of the mean; None: those with objects. A class of the mean without objects has an AP of 1.
    """
    values = []
    for index in np.flatnonzero(objects > 0 if classes is None else classes):
        own = np.flatnonzero(keep & (category == index))
        own = own[np.argsort(-scores[own], kind="stable")]
        count = int(objects[index])
        values.append(float(precision_at_recall(true_positive[own], count).mean()) if count else 1.0)
    return float(np.mean(values)) if values else float(UNDEFINED)


def _gain(ap: float, base: float) -> float:
    """Return the difference of two AP; -1 if they are undefined."""
    return float(UNDEFINED) if base == UNDEFINED else ap - base
