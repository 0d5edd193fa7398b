"""Measure how often 95 % confidence intervals of AP contain the AP of the population, by simulation.

    python tools/coverage.py --population boxes --sizes 70 300 --sets 2000 --used-only

Test sets are drawn from one large population whose AP is known. For each set, several methods compute an interval; the
method "used" is that of `detector evaluate`. `--used-only` leaves out the others and takes half of the time. A
population is either `boxes`, random boxes with random detections (a minute for 15,000 images), or `scenes`, rendered
images on which the shipped weights detect with an input size of 224 (about 8 minutes on one core).
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from detector.arrays import Doubles, Ints
from detector.data.formats.coco_scoring import to_coco
from detector.data.scenes import scenes
from detector.detections import coco_results
from detector.evaluating.evaluate import detect_split
from detector.metrics.bootstrap import AP_BIAS, half_weights
from detector.metrics.intervals import Interval, half_sample_interval, students_t
from detector.metrics.matches import Matches, match_detections
from detector.metrics.weighted import class_mean, weighted_class_ap
from detector.predict.detector import Detector
from detector.wording import UNDEFINED

INPUT_SIZE = 224
"""Input size with which the shipped weights detect in the scenes."""

Coco = tuple[dict[str, Any], list[dict[str, Any]]]
"""Ground truth and results in COCO's formats."""


@dataclass(frozen=True)
class Coverage:
    """How well the intervals of one method contain the AP of the population.

    Attributes:
        method: name of the method.
        contained: fraction of the sets whose interval contains it.
        above: fraction of the sets whose interval is above it.
        below: fraction of the sets whose interval is below it.
        width: mean width of the intervals.
    """

    method: str
    contained: float
    above: float
    below: float
    width: float


def boxes_population(images: int) -> Coco:
    """Return random objects of six classes, from frequent to rare, and random detections with many kinds of errors."""
    rng = np.random.default_rng(1)
    classes = 1 / np.arange(1, 7)
    objects: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        frequent = rng.choice(6, 1 + rng.poisson(2), p=classes / classes.sum())
        chosen = rng.choice(frequent, rng.poisson(6)) + 1
        boxes = np.hstack([rng.uniform(0, 600, (len(chosen), 2)), np.exp(rng.uniform(2.3, 5.7, (len(chosen), 2)))])
        for category_id, box in zip(chosen.tolist(), boxes, strict=True):
            objects.append({"image_id": image_id, "category_id": category_id, "bbox": box.tolist(), "iscrowd": 0})
            for _ in range(1 + rng.poisson(0.5)):
                found = box + rng.normal(0, 0.08, 4) * np.tile(box[2:], 2)
                own = category_id if rng.random() < 0.8 else int(rng.integers(1, 7))
                row = {"image_id": image_id, "category_id": own, "bbox": found.tolist(), "score": rng.beta(2, 2)}
                results.append(row)
        for _ in range(10):
            box = np.concatenate([rng.uniform(0, 600, 2), rng.uniform(10, 200, 2)])
            own = int(rng.integers(1, 7))
            results.append({"image_id": image_id, "category_id": own, "bbox": box.tolist(), "score": rng.beta(1, 6)})
    truth = {
        "images": [{"id": image_id} for image_id in range(1, images + 1)],
        "annotations": objects,
        "categories": [{"id": category_id, "name": str(category_id)} for category_id in range(1, 7)],
    }
    return truth, results


def scenes_population(images: int) -> Coco:
    """Return the objects in rendered scenes, and what the shipped weights detect in them."""
    scenes.SPLIT_SIZES["population"] = images
    detected = detect_split(Detector.load("scenes", input_size=INPUT_SIZE), scenes.read_split("population"))
    return to_coco(detected.split), coco_results(detected.found, detected.split.category_ids)


def draw_sets(matches: Matches, size: int, sets: int) -> Iterator[Matches]:
    """Yield the matches of random test sets, each drawn without replacement from the images of the population."""
    rng = np.random.default_rng([2, size])
    count = len(matches.image_ids)
    for _ in range(sets):
        yield select_images(matches, np.sort(rng.choice(count, size, replace=False)))


def select_images(matches: Matches, images: Ints) -> Matches:
    """Return the matches of some images, given by their indices in ascending order."""
    position = np.full(len(matches.image_ids), -1, np.int32)
    position[images] = np.arange(len(images))
    found = np.flatnonzero(position[matches.image] >= 0)
    objects = np.flatnonzero(position[matches.object_image] >= 0)
    return replace(
        matches,
        image_ids=matches.image_ids[images],
        image=position[matches.image[found]],
        category=matches.category[found],
        scores=matches.scores[found],
        row=matches.row[found],
        rank=matches.rank[found],
        true_positive=matches.true_positive[:, :, found],
        ignored=matches.ignored[:, :, found],
        object_image=position[matches.object_image[objects]],
        object_category=matches.object_category[objects],
        object_ignored=matches.object_ignored[:, objects],
        object_row=matches.object_row[objects],
        matched_object=np.full((len(matches.iou_thresholds), len(found)), -1, np.int32),
    )


def ap_of(matches: Matches, weights: npt.NDArray[Any]) -> Doubles:
    """Return [R] AP for R sets of weights; a class that is missing in a set of weights has the AP of the first set."""
    own = weighted_class_ap(matches, weights)
    return class_mean(np.where(own == UNDEFINED, own[:, :1], own))


def intervals_of(estimate: float, resampled: Doubles, halves: Doubles, images: int) -> dict[str, Interval]:
    """Return method → interval of one test set.

    Args:
        estimate: AP of the set.
        resampled: [R] AP of resamples with replacement; empty: only the method that is used.
        halves: [R] AP of random halves of the images.
        images: number of images of the set.
    """
    used = half_sample_interval(estimate, halves, images, (0, 1), AP_BIAS)
    assert used is not None, "every half has the same AP"
    name_of_used = "random halves: t, minus 2 x their excess (used)"
    if not len(resampled):
        return {name_of_used: used}
    normal = NormalDist()
    error, bias = float(resampled.std(ddof=1)), float(resampled.mean()) - estimate
    margin = students_t(images - 1) * error * sqrt(images / (images - 1))
    below = float(np.clip(np.mean(resampled < estimate), 1e-3, 1 - 1e-3))
    shift = 2 * normal.inv_cdf(below)

    def quantiles(low: float, high: float) -> Interval:
        """Return the interval between two quantiles of the resampled values."""
        return Interval(*np.quantile(resampled, [low, high]).tolist())

    percentile = quantiles(0.025, 0.975)
    without_bias = half_sample_interval(estimate, halves, images, (0, 1), 0.0)
    assert without_bias is not None
    return {
        "bootstrap: percentile": percentile,
        "bootstrap: reversed percentile": Interval(2 * estimate - percentile.high, 2 * estimate - percentile.low),
        "bootstrap: bias-corrected percentile (BC)": quantiles(normal.cdf(shift - 1.96), normal.cdf(shift + 1.96)),
        "bootstrap: t, sqrt(n / (n - 1))": Interval(estimate - margin, estimate + margin),
        "bootstrap: the same, minus its bias": Interval(estimate - bias - margin, estimate - bias + margin),
        "bootstrap: the same, minus 2 x its bias": Interval(estimate - 2 * bias - margin, estimate - 2 * bias + margin),
        "random halves: t": without_bias,
        name_of_used: used,
    }


def simulate(
    matches: Matches, truth: float, size: int, sets: int, resamples: int, used_only: bool
) -> Iterator[list[Coverage]]:
    """Yield the coverage of each method after 500, 1000, ... and all sets, and print the bias of AP.

    Args:
        matches: the matches of the population.
        truth: AP of the population.
        size: number of images of a set.
        sets: number of sets.
        resamples: number of halves and of resamples of each set.
        used_only: no resamples with replacement; only the method of `detector evaluate`.
    """
    rows: dict[str, list[tuple[bool, bool, bool, float]]] = {}
    columns: list[tuple[float, ...]] = []
    rng = np.random.default_rng([3, size])
    for number, own in enumerate(draw_sets(matches, size, sets), 1):
        weights = half_weights(size, resamples)
        if not used_only:
            draws = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
            weights = np.concatenate([weights, draws])
        ap = ap_of(own, weights)
        estimate, halves, resampled = float(ap[0]), ap[1 : resamples + 1], ap[resamples + 1 :]
        columns.append((estimate, halves.mean() - estimate, halves.std()))
        for method, interval in intervals_of(estimate, resampled, halves, size).items():
            above, below = interval.low > truth, interval.high < truth
            width = interval.high - interval.low
            rows.setdefault(method, []).append((not (above or below), above, below, width))
        if number % 500 == 0 or number == sets:
            mean, excess, error = np.mean(columns, axis=0).tolist()
            print(
                f"{number} sets of {size} images: AP {mean:.4f}, population {truth:.4f}: bias {mean - truth:+.4f}; "
                f"excess of halves {excess:+.4f}; standard deviation {np.std(columns, axis=0)[0]:.4f}, by halves "
                f"{error:.4f}; {time.process_time():.0f} CPU s",
                flush=True,
            )
            yield [Coverage(method, *np.mean(values, axis=0).tolist()) for method, values in rows.items()]


def print_table(coverages: list[Coverage]) -> None:
    """Print a Markdown table."""
    print("| method | contains | too high | too low | mean width |\n| --- | --- | --- | --- | --- |")
    for own in coverages:
        percent = " | ".join(f"{100 * value:.1f} %" for value in (own.contained, own.above, own.below))
        print(f"| {own.method} | {percent} | {own.width:.4f} |", flush=True)


def main() -> None:
    """Make the population, and print the coverage for each size of test set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", choices=("boxes", "scenes"), default="boxes")
    parser.add_argument("--images", type=int, default=15_000, help="number of images of the population")
    parser.add_argument("--sizes", type=int, nargs="+", default=[70, 300], help="numbers of images of the test sets")
    parser.add_argument("--sets", type=int, default=2000, help="number of test sets of each size")
    parser.add_argument("--resamples", type=int, default=200, help="number of halves and of resamples of each set")
    parser.add_argument("--used-only", action="store_true", help="only the method of `detector evaluate`")
    options = parser.parse_args()
    make = boxes_population if options.population == "boxes" else scenes_population
    matches = match_detections(*make(options.images))
    truth = float(ap_of(matches, np.ones((1, options.images)))[0])
    for size in options.sizes:
        for coverages in simulate(matches, truth, size, options.sets, options.resamples, options.used_only):
            print_table(coverages)


if __name__ == "__main__":
    main()
