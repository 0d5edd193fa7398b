"""95 % confidence intervals of COCO's metrics, and of their differences, from random halves of the images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detector.arrays import Bools, Doubles, Ints
from detector.metrics.intervals import Interval, half_sample_interval
from detector.metrics.matches import AREA_RANGES, Matches
from detector.metrics.weighted import METRIC_NAMES, class_mean, weighted_class_ap, weighted_metrics
from detector.wording import UNDEFINED

RESAMPLES = 1000
"""Number of random halves of the images."""

_CLASS_METRICS = METRIC_NAMES[:2]
"""Metrics of each class: AP and AP50."""

AP_BIAS = 2.0
"""Bias of AP divided by the mean excess of AP on random halves of the images; measured by `tools/coverage.py`."""

_AREA_OF_METRIC = {"APs": 1, "APm": 2, "APl": 3, "ARs": 1, "ARm": 2, "ARl": 3}
"""Metric → index of its area range; all other metrics have the index 0."""


FEW_IMAGES = 5
"""A class with objects in fewer images adds too little spread to the mean over the classes: too few halves differ."""


_NAMES_SHOWN = 5
"""Largest number of class names in a note."""


@dataclass(frozen=True)
class Intervals:
    """95 % confidence intervals of COCO's metrics: how much they would change with other images of the same kind.

    An interval is None if the images do not tell it: a metric is undefined, its objects are in a single image, or all
    random halves of the images give the same value.

    Attributes:
        metrics: name as in `AveragePrecision` → interval.
        per_class: class name → {"AP", "AP50"} → interval.
        images: number of images.
        resamples: number of random halves of the images.
        few_images: name as in `AveragePrecision` → names of the classes whose objects that count for the metric are in
            fewer than 5 images; metrics without such classes are missing. Their intervals are too narrow.
    """

    metrics: Mapping[str, Interval | None]
    per_class: Mapping[str, Mapping[str, Interval | None]]
    images: int
    resamples: int
    few_images: Mapping[str, Sequence[str]]

    def to_json(self) -> dict[str, Any]:
        """Return the intervals as a dictionary that can be written as JSON; an interval is [low, high] or null."""
        return asdict(self) | {
            "metrics": _to_json(self.metrics),
            "per_class": {name: _to_json(intervals) for name, intervals in self.per_class.items()},
        }


def _to_json(intervals: Mapping[str, Interval | None]) -> dict[str, list[float] | None]:
    """Return intervals as lists [low, high], or None where there is no interval."""
    return {name: None if interval is None else interval.to_json() for name, interval in intervals.items()}


@dataclass(frozen=True, eq=False)
class Resampled:
    """COCO's metrics of the data and of random halves of its images.

    A class whose objects are all missing in a half has the metric of the data there. If it were left out of the mean
    over the classes, as in COCO's evaluation, the mean would change only because its classes change.

    Attributes:
        estimate: [12, C] the metrics of the data for each class; -1: undefined.
        halves: [12, C, R] the metrics of R halves; -1 where the metric of the data is.
        images: [12] number of images with an object that counts, for each metric.
        class_images: [12, C] number of images with an object of each class that counts, for each metric.
    """

    estimate: Doubles
    halves: Doubles
    images: Ints
    class_images: Ints

    @property
    def mean_estimate(self) -> Doubles:
        """[12] the metrics of the data."""
        return class_mean(self.estimate[..., None])[:, 0]

    @property
    def mean_halves(self) -> Doubles:
        """[12, R] the metrics of R halves."""
        return class_mean(self.halves)


def resample(matches: Matches, *, resamples: int = RESAMPLES, threads: int = 1) -> Resampled:
    """Compute COCO's metrics of the data, and of random halves of its images.

    The same number of images always gives the same halves; so two detectors are compared on the same images.

    Args:
        matches: the matches, with COCO's IoU thresholds.
        resamples: number of halves.
        threads: number of threads that compute.
    """
    weights = half_weights(len(matches.image_ids), resamples)
    metrics = _keep_classes(weighted_metrics(matches, weights, threads=threads).per_class)
    areas = [_AREA_OF_METRIC.get(name, 0) for name in METRIC_NAMES]
    counted = [np.unique(matches.object_image[~ignored]).size for ignored in matches.object_ignored]
    return Resampled(
        estimate=metrics[..., 0],
        halves=metrics[..., 1:],
        images=np.array(counted, np.int64)[areas],
        class_images=np.stack([images_of_classes(matches, area) for area in range(len(AREA_RANGES))])[areas],
    )


def images_of_classes(matches: Matches, area: int = 0) -> Ints:
    """Return [C] the number of images with an object of each class that counts in an area range."""
    counts = ~matches.object_ignored[area]
    pairs = np.unique(np.stack([matches.object_category[counts], matches.object_image[counts]]), axis=1)
    return np.bincount(pairs[0], minlength=len(matches.category_ids))


def few_images(class_images: Ints, class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes with objects in fewer than `FEW_IMAGES` images, but in some.

    Args:
        class_images: [C] number of images with an object of each class.
        class_names: [C] their names.
    """
    return tuple(name for name, count in zip(class_names, class_images.tolist(), strict=True) if 0 < count < FEW_IMAGES)


def few_images_by_metric(class_images: Ints, class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return name of a metric → `few_images`, for the metrics with such classes.

    Args:
        class_images: [12, C] number of images with an object of each class that counts, for each metric.
        class_names: [C] their names.
    """
    by_metric = {name: few_images(own, class_names) for name, own in zip(METRIC_NAMES, class_images, strict=True)}
    return {name: classes for name, classes in by_metric.items() if classes}


def few_images_note(few: Mapping[str, Sequence[str]]) -> str | None:
    """Return a line that says which intervals are too narrow, and because of which classes; None if none is.

    Args:
        few: as `Intervals.few_images`.

    >>> few_images_note({"APl": ("cat",), "ARl": ("cat",)})
    'too narrow, because objects of a class are in fewer than 5 images: the intervals of APl, ARl (cat)'
    """
    metrics: dict[str, list[str]] = {}
    for name, classes in few.items():
        more = f" and {len(classes) - _NAMES_SHOWN} more" if len(classes) > _NAMES_SHOWN else ""
        metrics.setdefault(", ".join(classes[:_NAMES_SHOWN]) + more, []).append(name)
    if not metrics:
        return None
    groups = "; ".join(f"{', '.join(names)} ({classes})" for classes, names in metrics.items())
    return f"too narrow, because objects of a class are in fewer than {FEW_IMAGES} images: the intervals of {groups}"


def resample_ap(matches: Matches, *, resamples: int = RESAMPLES, threads: int = 1) -> Doubles:
    """Return [1 + R] AP of the data, then AP of R halves, as `resample` does, in less than half of its time."""
    weights = half_weights(len(matches.image_ids), resamples)
    return class_mean(_keep_classes(weighted_class_ap(matches, weights, threads=threads)))


def half_weights(images: int, resamples: int) -> Bools:
    """Return [1 + R, I] the weights of the images: all images, then random halves of them.

    With an odd number of images, every other half has one image more.
    """
    order = np.random.default_rng(0).random((resamples, images)).argsort(axis=1)
    sizes = (images + np.arange(resamples)[:, None] % 2) // 2
    return np.concatenate([np.ones((1, images), np.bool_), order < sizes])


def _keep_classes(metrics: Doubles) -> Doubles:
    """Return metrics [..., 1 + R] in which a class that is missing in a half has the metric of the data, the first.

    Args:
        metrics: [..., 1 + R] metrics of classes; -1: undefined.
    """
    return np.where(metrics == UNDEFINED, metrics[..., :1], metrics)


def bootstrap_intervals(
    matches: Matches, class_names: Sequence[str], *, resamples: int = RESAMPLES, threads: int = 1
) -> Intervals:
    """Return the 95 % confidence intervals of COCO's metrics; `half_sample_interval` describes the method.

    Args:
        matches: the matches, with COCO's IoU thresholds.
        class_names: [C] a name for each class, in the order of `matches.category_ids`.
        resamples: number of random halves of the images.
        threads: number of threads that compute.
    """
    own = resample(matches, resamples=resamples, threads=threads)
    metrics = _intervals(own.mean_estimate, own.mean_halves, own.images, METRIC_NAMES)
    of_classes = [
        _intervals(own.estimate[index], own.halves[index], own.class_images[index], [name] * len(class_names))
        for index, name in enumerate(_CLASS_METRICS)
    ]
    return Intervals(
        metrics=dict(zip(METRIC_NAMES, metrics, strict=True)),
        per_class={
            name: dict(zip(_CLASS_METRICS, intervals, strict=True))
            for name, *intervals in zip(class_names, *of_classes, strict=True)
        },
        images=len(matches.image_ids),
        resamples=resamples,
        few_images=few_images_by_metric(own.class_images, class_names),
    )


def _intervals(estimates: Doubles, halves: Doubles, images: Ints, names: Sequence[str]) -> list[Interval | None]:
    """Return the intervals of N metrics.

    Args:
        estimates: [N] metrics of the data.
        halves: [N, R] metrics of the halves.
        images: [N] number of images with an object that counts.
        names: [N] name of each metric.
    """
    return [
        None if estimate == UNDEFINED else half_sample_interval(estimate, values, count, (0, 1), bias_factor(name))
        for estimate, values, count, name in zip(estimates.tolist(), halves, images.tolist(), names, strict=True)
    ]


def bias_factor(name: str) -> float:
    """Return the bias of a metric divided by the mean excess of the halves; see `half_sample_interval`."""
    return AP_BIAS if name.startswith("AP") else 1.0
