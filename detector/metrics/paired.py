"""Compares two detectors on the same images: the difference of their metrics, with an interval and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.errors import InputError
from detector.metrics.bootstrap import RESAMPLES, bias_factor, few_images_by_metric, resample
from detector.metrics.intervals import LARGEST_RATIO, Interval, Verdict, half_sample_interval, needed, verdict
from detector.metrics.matches import Matches
from detector.metrics.weighted import METRIC_NAMES
from detector.wording import UNDEFINED, plural

_FEWEST_IMAGES = 2
"""Smallest number of images for which there are intervals."""


@dataclass(frozen=True)
class Difference:
    """The difference of a metric of two detectors.

    Attributes:
        value: metric of the first detector minus metric of the second.
        interval: its 95 % confidence interval; None if the images do not tell it.
    """

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class PairedDifference:
    """A comparison of two detectors on the same images.

    Attributes:
        metrics: name as in `AveragePrecision` → difference, for the metrics that are defined.
        verdict: whether the first detector is better or worse by its AP: the interval of the difference does not
            contain zero. "the same": the difference is zero on all random halves of the images.
        images: number of images.
        images_needed: if the verdict is "cannot tell": about how many images would tell; see `needed`.
        few_images: as in `Intervals`.
    """

    metrics: Mapping[str, Difference]
    verdict: Verdict
    images: int
    images_needed: int | None
    few_images: Mapping[str, Sequence[str]]

    def describe(self) -> str:
        """Return the verdict in one sentence."""
        if self.verdict == "the same":
            return "verdict: the same AP"
        if self.verdict != "cannot tell":
            return f"verdict: {self.verdict}, because the interval of the difference of AP does not contain 0"
        if "AP" not in self.metrics:
            return "verdict: cannot tell, because there are no objects"
        if self.images < _FEWEST_IMAGES:
            return "verdict: cannot tell; one image tells nothing about other images"
        if self.images_needed is None:
            return (
                "verdict: cannot tell; the difference is so small that even "
                f"{plural(LARGEST_RATIO * self.images, 'image')} would probably not be enough"
            )
        return (
            f"verdict: cannot tell; if the true difference is as measured, about {plural(self.images_needed, 'image')} "
            "would tell in 4 of 5 cases"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a dictionary that can be written as JSON; an interval is [low, high] or null."""
        metrics = {
            name: {"difference": own.value, "interval": None if own.interval is None else own.interval.to_json()}
            for name, own in self.metrics.items()
        }
        return {
            "metrics": metrics,
            "verdict": self.verdict,
            "images": self.images,
            "images_needed": self.images_needed,
            "few_images": dict(self.few_images),
        }


def paired_difference(
    first: Matches,
    second: Matches,
    class_names: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    threads: int = 1,
) -> PairedDifference:
    """Compare two detectors on the same random halves of the same images; see `half_sample_interval`.

    An image that is difficult for both detectors hardly changes their difference. So its interval is narrower than that
    of each metric.

    Args:
        first: matches of the first detector, with COCO's IoU thresholds.
        second: matches of the second detector, on the same images and objects.
        class_names: [C] a name for each class, in the order of `category_ids`; None: the category ids.
        resamples: number of random halves of the images.
        threads: number of threads that compute.

    Raises:
        InputError: the images or the classes of the two differ.
    """
    if not np.array_equal(first.image_ids, second.image_ids):
        raise InputError("the two results are about different images: compare both on the same split (--split)")
    if not np.array_equal(first.category_ids, second.category_ids):
        raise InputError("the two results are about different classes: compare both on the same data")
    one, other = (resample(matches, resamples=resamples, threads=threads) for matches in (first, second))
    metrics = {}
    for index, name in enumerate(METRIC_NAMES):
        estimate, images = one.mean_estimate[index], int(one.images[index])
        if estimate != UNDEFINED:
            value = float(estimate - other.mean_estimate[index])
            differences = one.mean_halves[index] - other.mean_halves[index]
            interval = half_sample_interval(value, differences, images, (-1, 1), bias_factor(name))
            metrics[name] = Difference(value, interval)
    ap = metrics.get("AP", Difference(0.0, None))
    result = verdict(ap.value, ap.interval) if "AP" in metrics else "cannot tell"
    images = len(first.image_ids)
    more = None
    if result == "cannot tell" and ap.interval is not None:
        more = needed(images, ap.value, (ap.interval.high - ap.interval.low) / 2)
    names = class_names or [str(category_id) for category_id in first.category_ids]
    few = {name: classes for name, classes in few_images_by_metric(one.class_images, names).items() if name in metrics}
    return PairedDifference(metrics, result, images, more, few)
