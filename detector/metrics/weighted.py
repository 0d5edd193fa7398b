"""Computes COCO's metrics from matches, with a weight for each image; many sets of weights at once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detector.arrays import Bools, Doubles, Ints
from detector.metrics.matches import AREA_RANGES, Matches
from detector.wording import UNDEFINED

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Names of COCO's twelve metrics; the attributes of `AveragePrecision` have the same names."""

_RECALL_LEVELS = np.append(np.linspace(0, 1, 101)[:-1], 1 - 1e-9)
"""COCO's 101 recall levels, with the same rounding as in COCO's evaluation.

The last is 1 minus the rounding error of a sum of weights that are not whole numbers.
"""

_AT_75 = 5
"""Index of the IoU threshold 0.75."""

_LIMITED_DETECTIONS = (1, 10)
"""Numbers of detections per image and class of AR1 and AR10."""

_ROWS_AT_ONCE = 4096
"""Number of detections whose weights are summed at once: with 64 sets of weights, they fit into a processor cache."""

_SETS_AT_ONCE = 64
"""Number of sets of weights for which the metrics are computed at once."""


@dataclass(frozen=True, eq=False)
class WeightedMetrics:
    """COCO's metrics for R sets of image weights. A metric is -1 if no object with a weight above 0 counts for it.

    Attributes:
        per_class: [12, C, R] the metrics of each class, in the order of `METRIC_NAMES`.
    """

    per_class: Doubles

    @property
    def metrics(self) -> Doubles:
        """[12, R] the metrics: the means over the classes whose metric is not -1."""
        return class_mean(self.per_class)

    @property
    def class_ap(self) -> Doubles:
        """[C, R] AP of each class."""
        return np.asarray(self.per_class[METRIC_NAMES.index("AP")])


def class_mean(per_class: Doubles) -> Doubles:
    """Return [..., R] the means over the classes of metrics [..., C, R] that are not -1; -1 if all are."""
    defined = per_class != UNDEFINED
    count = defined.sum(axis=-2)
    total = np.where(defined, per_class, 0).sum(axis=-2)
    return np.where(count > 0, total / np.maximum(count, 1), float(UNDEFINED))


class _Curve(NamedTuple):
    """What the metrics of one class in one area range depend on, in the order of falling scores.

    A detection has an event if it is a true positive at an IoU threshold, or if the threshold decides whether it
    counts. The other detections are false positives at every threshold, or they are ignored at every threshold.

    Attributes:
        object_image: [G] index of the image of each object that counts.
        image: [N] index of the image of each detection that counts at the highest IoU threshold.
        event_image: [E] index of the image of each event.
        before_event: [E] number of detections of `image` up to and including the event.
        change: [T, E] 1 if the detection of an event counts although it is not in `image`, -1 if it is in `image` and
            does not count, else 0.
        true_positive: for each IoU threshold, the indices of the events with a true positive.
        hits: [L, E] fraction of the IoU thresholds at which the event is a true positive, if at most 1, 10 and all
            detections of the class count in an image; only the last in the area ranges other than "all".
    """

    object_image: Ints
    image: Ints
    event_image: Ints
    before_event: Ints
    change: Doubles
    true_positive: tuple[Ints, ...]
    hits: Doubles


class _CurveMetrics(NamedTuple):
    """Metrics of one class in one area range, for R sets of weights; -1 where no object counts.

    Attributes:
        precision: [T, R] average precision at each IoU threshold.
        recall: [L, R] average recall; L as in `_Curve.hits`.
    """

    precision: Doubles
    recall: Doubles


def weighted_metrics(matches: Matches, weights: npt.NDArray[Any], *, threads: int = 1) -> WeightedMetrics:
    """Compute COCO's metrics with weighted images, for R sets of weights.

    With the weights 1, the metrics are those of COCO's evaluation. An image with the weight 2 counts as if it were in
    the data twice; with the weight 0, as if it were not there. Precision changes only at true positives, so only there
    it is computed; the weights of the false positives between them are summed first.

    Args:
        matches: the matches, with COCO's IoU thresholds. AR100 and the AP count all of its detections.
        weights: [R, I] weights of the images, not negative.
        threads: number of threads that compute.
    """
    classes = [_class_curves(matches, category, len(AREA_RANGES)) for category in range(len(matches.category_ids))]
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda chunk: _metrics(classes, chunk), _chunks(weights)))
    return WeightedMetrics(np.concatenate(parts, axis=-1))


def weighted_class_ap(matches: Matches, weights: npt.NDArray[Any], *, threads: int = 1) -> Doubles:
    """Compute [C, R] AP of each class, as `weighted_metrics` does, in less than half of its time.

    Args:
        matches: the matches.
        weights: [R, I] weights of the images, not negative.
        threads: number of threads that compute.
    """
    curves = [_class_curves(matches, category, 1)[0] for category in range(len(matches.category_ids))]

    def class_ap(chunk: Doubles) -> Doubles:
        """Return [C, R] AP for a chunk of weights [I, R]."""
        return np.stack([_curve_metrics(curve, chunk).precision.mean(axis=0) for curve in curves])

    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(class_ap, _chunks(weights))), axis=-1)


def _chunks(weights: npt.NDArray[Any]) -> Iterator[Doubles]:
    """Yield sets of weights [R, I] in chunks [I, R]."""
    for start in range(0, len(weights), _SETS_AT_ONCE):
        yield np.ascontiguousarray(weights[start : start + _SETS_AT_ONCE].T, np.float64)


def _class_curves(matches: Matches, category: int, areas: int) -> list[_Curve]:
    """Return the curves of a class.

    Args:
        matches: the matches.
        category: index of the class.
        areas: number of area ranges, of which the first is "all".
    """
    start, stop = np.searchsorted(matches.category, [category, category + 1]).tolist()
    own = slice(start, stop)
    of_class = matches.object_category == category
    curves = []
    for area in range(areas):
        object_image = matches.object_image[of_class & ~matches.object_ignored[area]]
        limits = _LIMITED_DETECTIONS if area == 0 else ()
        curves.append(
            _curve(
                object_image.astype(np.int64),
                matches.image[own].astype(np.int64),
                matches.true_positive[area, :, own],
                ~matches.ignored[area, :, own],
                np.stack([*(matches.rank[own] < limit for limit in limits), np.ones(stop - start, np.bool_)]),
            )
        )
    return curves


def _curve(object_image: Ints, image: Ints, true_positive: Bools, counts: Bools, within_limit: Bools) -> _Curve:
    """Return a curve.

    Args:
        object_image: [G] index of the image of each object that counts.
        image: [N] index of the image of each detection.
        true_positive: [T, N] whether a detection is a true positive.
        counts: [T, N] whether a detection is a true or a false positive.
        within_limit: [L, N] whether a detection is within each limit of detections per image.
    """
    always = counts[-1]
    change = counts.astype(np.float64) - always
    events = np.flatnonzero(true_positive.any(axis=0) | change.any(axis=0))
    hits = true_positive[:, events].mean(axis=0)
    return _Curve(
        object_image=object_image,
        image=image[always],
        event_image=image[events],
        before_event=np.cumsum(always)[events],
        change=change[:, events],
        true_positive=tuple(np.flatnonzero(flags) for flags in true_positive[:, events]),
        hits=hits * within_limit[:, events],
    )


def _metrics(classes: Sequence[Sequence[_Curve]], weights: Doubles) -> Doubles:
    """Return [12, C, R] the metrics of each class for a few sets of weights.

    Args:
        classes: for each class, its curve in each area range.
        weights: [I, R] weights of the images.
    """
    metrics = np.empty((len(METRIC_NAMES), len(classes), weights.shape[1]))
    for index, curves in enumerate(classes):
        everything, *by_size = (_curve_metrics(curve, weights) for curve in curves)
        precision = everything.precision
        average = [precision.mean(axis=0), precision[0], precision[_AT_75]]
        average += [size.precision.mean(axis=0) for size in by_size]
        metrics[:, index] = [*average, *everything.recall, *(size.recall[0] for size in by_size)]
    return metrics


def _curve_metrics(curve: _Curve, weights: Doubles) -> _CurveMetrics:
    """Return the metrics of one class in one area range, for weights [I, R]."""
    sets = weights.shape[1]
    objects = weights[curve.object_image].sum(axis=0)
    precision = np.zeros((len(curve.true_positive), sets))
    recall = np.zeros((len(curve.hits), sets))
    divisor = np.where(objects > 0, objects, 1)
    if len(curve.event_image) and objects.any():
        own = weights[curve.event_image]
        counted = _sums_before(weights, curve.image, curve.before_event)
        recall = curve.hits @ own / divisor
        for index, (change, events) in enumerate(zip(curve.change, curve.true_positive, strict=True)):
            if len(events):
                total = counted + np.cumsum(change[:, None] * own, axis=0) if change.any() else counted
                precision[index] = _average_precision(np.cumsum(own[events], axis=0), total[events], divisor)
    for values in (precision, recall):
        values[:, objects == 0] = UNDEFINED
    return _CurveMetrics(precision, recall)


def _sums_before(weights: Doubles, image: Ints, ends: Ints) -> Doubles:
    """Return [E, R] the sums of the weights of the first images, for each of E numbers of images.

    Args:
        weights: [I, R] weights of the images.
        image: [N] indices of images.
        ends: [E] numbers of images to sum, 0..N, ascending.
    """
    sums = np.zeros((len(ends), weights.shape[1]))
    total = np.zeros(weights.shape[1])
    for start in range(0, int(ends[-1]), _ROWS_AT_ONCE):
        block = weights[image[start : start + _ROWS_AT_ONCE]]
        block[0] += total
        np.cumsum(block, axis=0, out=block)
        first, last = np.searchsorted(ends, [start, start + len(block)], side="right")
        sums[first:last] = block[ends[first:last] - start - 1]
        total = block[-1]
    return sums


def _average_precision(correct: Doubles, total: Doubles, objects: Doubles) -> Doubles:
    """Return [R] the average precision: the mean over COCO's 101 recall levels.

    Args:
        correct: [P, R] total weight of the true positives, up to and including each true positive.
        total: [P, R] total weight of the detections that count, up to and including each true positive.
        objects: [R] total weight of the objects that count, above 0.
    """
    precision = np.divide(correct, total, out=np.zeros_like(correct), where=correct > 0)
    # COCO's precision at a recall level is the highest precision at this or a higher recall.
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = correct / objects
    level = np.floor(100 * recall + 1e-9).astype(np.int64)
    # Some of COCO's levels are rounded up: a recall of exactly 7/100 does not reach the level 7 * 0.01.
    level -= _RECALL_LEVELS[level] > recall
    reached = np.diff(level + 1, axis=0, prepend=0)
    return np.asarray((reached * envelope).sum(axis=0) / len(_RECALL_LEVELS))
