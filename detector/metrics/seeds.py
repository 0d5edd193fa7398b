"""Compares two settings, each trained with several seeds: how much seeds and images contribute to the uncertainty."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from detector.arrays import Doubles
from detector.errors import FileError
from detector.metrics.bootstrap import AP_BIAS, few_images, images_of_classes, resample_ap
from detector.metrics.intervals import Z80, Interval, needed, students_t, verdict
from detector.metrics.matches import Matches
from detector.wording import UNDEFINED, plural

VAL_HALVES = "val_halves.json"
"""File in the folder of a run with the AP of its last weights on random halves of the val images."""

Covers = Literal["seeds and images", "seeds", "images", "nothing"]
"""What would change a measured difference, and is covered by its interval."""

_FEWEST_IMAGES = 2
"""Smallest number of images that tell anything about other images."""

_FEWEST_VALUES = 3
"""AP on all images, and on at least two halves."""


@dataclass(frozen=True, eq=False)
class ApHalves:
    """AP of one run on its val images, and on random halves of them.

    Attributes:
        val: checksum of the images and their objects; the halves of two runs are the same images only if it is equal.
        images: number of images with objects.
        ap: [1 + R] AP of all images, then of R halves, as `resample_ap` returns it.
        few_images: names of the classes with objects in fewer than 5 images, which add too little to the spread.
    """

    val: str
    images: int
    ap: Doubles
    few_images: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the values as a dictionary that can be written as JSON."""
        return {
            "val": self.val,
            "images": self.images,
            "few_images": list(self.few_images),
            "AP": float(self.ap[0]),
            "halves": self.ap[1:].tolist(),
        }

    @staticmethod
    def from_json(values: Any) -> "ApHalves":
        """Return what `to_json` has written.

        Raises:
            FileError: the values are something else.
        """
        try:
            ap = np.array([values["AP"], *values["halves"]], np.float64)
            halves = ApHalves(str(values["val"]), int(values["images"]), ap, tuple(map(str, values["few_images"])))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FileError(f"not the AP of random halves of the val images ({error!r:.100})") from None
        in_range = bool(((halves.ap >= 0) & (halves.ap <= 1)).all())  # NaN is not
        if halves.ap.shape[1:] or len(halves.ap) < _FEWEST_VALUES or not in_range:
            raise FileError(f"not the AP of random halves of the val images ({halves.ap!r:.100})")
        return halves


def ap_halves(matches: Matches, class_names: Mapping[int, str], *, threads: int = 1) -> ApHalves | None:
    """Return AP on all images and on random halves of them; None: AP is undefined, because there are no objects.

    Args:
        matches: the matches, with COCO's IoU thresholds.
        class_names: category id → name of the class.
        threads: number of threads that compute.
    """
    ap = resample_ap(matches, threads=threads)
    if ap[0] == UNDEFINED:
        return None
    content = hashlib.sha256()
    for array in (matches.image_ids, matches.category_ids, matches.object_image, matches.object_category):
        content.update(np.ascontiguousarray(array, np.int64).tobytes() + b"|")
    return ApHalves(
        val=content.hexdigest(),
        images=len(np.unique(matches.object_image[~matches.object_ignored[0]])),
        ap=ap,
        few_images=few_images(images_of_classes(matches), [class_names[own] for own in matches.category_ids.tolist()]),
    )


@dataclass(frozen=True)
class SeedsDifference:
    """The difference of AP of two settings: the mean over the seeds, with intervals.

    Attributes:
        value: mean over the seeds of AP of the first setting minus AP of the second; nan without a seed.
        seeds: number of seeds.
        images: number of val images with objects; 0: it is not known.
        seeds_only: 95 % confidence interval for other seeds on the same val images; None with fewer than two seeds.
        interval: 95 % confidence interval that covers as much as is known; see `covers`.
        covers: what `interval` covers: "seeds and images", "seeds" (then it is `seeds_only`), "images" (one seed), or
            "nothing" (then it is None).
        seeds_needed: about how many seeds would tell, on the same val images; None: more seeds would not, or it is not
            known. Only if nothing else follows from `interval`.
        images_needed: about how many val images would tell, with as many seeds as now; None as above.
        few_images: names of the classes with objects in fewer than 5 val images; with such classes, `interval` is too
            narrow.
    """

    value: float
    seeds: int
    images: int
    seeds_only: Interval | None
    interval: Interval | None
    covers: Covers
    seeds_needed: int | None
    images_needed: int | None
    few_images: tuple[str, ...] = ()

    def verdict(self) -> str:
        """Return the verdict in a few words: better, worse, the same, or cannot tell and what would."""
        if not self.seeds:
            return "no baseline to compare with"
        if self.seeds == 1:
            return "the same" if self.value == 0 else "cannot tell from one seed"
        where = ", on these val images" if self.covers == "seeds" else ""
        if self.seeds_only == Interval(0, 0):
            return "the same"
        result = verdict(self.value, self.interval)
        if result != "cannot tell":
            return f"{result}{where}"
        if self.seeds_needed is not None:
            return f"cannot tell; about {self.seeds_needed} seeds would{where}"
        if self.images_needed is not None:
            return f"cannot tell; about {plural(self.images_needed, 'val image')} would, more seeds would not"
        if self.covers == "seeds":
            return f"cannot tell; even 100 times the seeds would not{where}"
        return "cannot tell; neither more seeds nor more val images alone would"


def seeds_difference(
    differences: Sequence[float], halves: Sequence[tuple[ApHalves | None, ApHalves | None]] = ()
) -> SeedsDifference:
    """Compare two settings over seeds and images.

    The difference with seed s on images I is taken as d + seed(s) + images(I) + both(s, I), and the mean over S seeds
    is compared with d. The spread of the differences over the seeds, on the same images, contains seed and both; so its
    variance / S is that of both of them in the mean. The images of I are the same for all seeds: what they contribute
    to all seeds alike does not become smaller with more seeds. This part is the mean covariance of the differences of
    two seeds on the same random halves of the images. (The variance of the mean over the seeds on the halves would
    count "both" twice.)

    The two margins are combined as the root of the sum of their squares: t(S - 1) standard errors of the seeds, and
    t(images - 1) of the images. In simulations (`tools/seed_coverage.py`) this contains the truth in 94 to 99 % of the
    cases. One standard error for both with the degrees of freedom of Satterthwaite undercovers with two or three seeds,
    because the degrees of freedom are then estimated from one or two. For the bias of AP, see `half_sample_interval`.

    Args:
        differences: AP of the first setting minus AP of the second, for each seed that both have.
        halves: for each of these seeds, AP on halves of the first and of the second setting; None: not known.

    Source: Zou and Donner, Construction of confidence limits about effect measures: a general approach, 2008 (margins
    of independent parts); Searle, Casella and McCulloch, Variance Components, 1992.
    """
    count = len(differences)
    value = fmean(differences) if differences else math.nan
    seed_t = students_t(count - 1) if count > 1 else math.nan
    seed_error = stdev(differences) / math.sqrt(count) if count > 1 else math.nan
    seeds_only = _around(value, seed_t * seed_error) if count > 1 else None
    known = _differences_on_halves(halves) if count and len(halves) == count else None
    if known is None:
        more = needed(count, value, seed_t * seed_error) if count > 1 else None
        covers: Covers = "seeds" if count > 1 else "nothing"
        return SeedsDifference(value, count, 0, seeds_only, seeds_only, covers, more, None)
    own, images = known.ap, known.images
    image_t = students_t(images - 1)
    parts = _image_parts(own[:, 1:])
    image_margin = image_t * math.sqrt(parts.common)
    bias = AP_BIAS * float(own[:, 1:].mean() - own[:, 0].mean())
    if count == 1:
        interval = _around(value - bias, math.hypot(image_margin, bias / 2))
        return SeedsDifference(value, 1, images, None, interval, "images", None, None, known.few_images)
    without_images = math.sqrt(max(seed_error**2 - parts.single, 0))
    return SeedsDifference(
        value=value,
        seeds=count,
        images=images,
        seeds_only=seeds_only,
        interval=_around(value - bias, math.hypot(seed_t * seed_error, image_margin, bias / 2)),
        covers="seeds and images",
        seeds_needed=needed(count, value, seed_t * seed_error, (image_t + Z80) * math.sqrt(parts.common)),
        images_needed=needed(
            images, value, image_t * math.sqrt(parts.common + parts.single), (seed_t + Z80) * without_images
        ),
        few_images=known.few_images,
    )


@dataclass(frozen=True)
class _ImageParts:
    """Variances of the mean difference that come from the choice of the images.

    Attributes:
        common: what the images contribute to all seeds alike.
        single: what they contribute to each seed separately, in the mean over the seeds.
    """

    common: float
    single: float


def _image_parts(halves: Doubles) -> _ImageParts:
    """Return the parts of the variance over the halves.

    Args:
        halves: [S, R] difference of AP for each seed on R random halves.
    """
    seeds = len(halves)
    covariance = np.atleast_2d(np.cov(halves))
    if seeds == 1:
        return _ImageParts(float(covariance[0, 0]), 0.0)
    total, own = float(covariance.mean()), float(np.trace(covariance)) / seeds
    single = max((own - total) / (seeds - 1), 0.0)
    return _ImageParts(max(total - single, 0.0), min(single, total))


def _differences_on_halves(halves: Sequence[tuple[ApHalves | None, ApHalves | None]]) -> ApHalves | None:
    """Return the differences of the first and the second of each pair, with `ap` [S, 1 + R].

    None: a run is missing, or the images do not tell anything about other images: the runs were evaluated on different
    images, only one image has objects, or all halves have the same AP.
    """
    runs = [run for pair in halves for run in pair if run is not None]
    if not runs or len(runs) != 2 * len(halves):
        return None
    if len({(run.val, run.images, len(run.ap)) for run in runs}) > 1 or runs[0].images < _FEWEST_IMAGES:
        return None
    ap = np.stack([run.ap for run in runs]).reshape(len(halves), 2, -1)
    if not np.ptp(ap[:, :, 1:], axis=2).any():
        return None
    return replace(runs[0], ap=ap[:, 0] - ap[:, 1])


def _around(center: float, margin: float) -> Interval:
    """Return an interval of a difference of AP, which is between -1 and 1."""
    return Interval(max(center - margin, -1.0), min(center + margin, 1.0))
