"""Measure how often the intervals of `detector compare` contain the true difference of two settings, by simulation.

    python tools/seed_coverage.py --seeds 2 3 5 --images 80 --comparisons 2000
    python tools/seed_coverage.py --detections --seeds 3 --images 70 --comparisons 300 --resamples 200

The difference of a run of each setting on one image is: a part of the seed, a part of the image that is common to all
seeds, and a part of both. The true difference is 0. In the table, the parts are standard deviations of what they
contribute to the difference of one seed on all images; "contains" should be 95 %.

With `--detections`, AP is computed from random detections in random images instead. Runs differ in how well they place
boxes; the parts are standard deviations of the logarithm of their error. The two settings have the same distribution,
so the true difference is 0 too.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.arrays import Doubles
from detector.metrics.bootstrap import half_weights, resample_ap
from detector.metrics.matches import match_detections
from detector.metrics.seeds import ApHalves, SeedsDifference, seeds_difference

Parts = tuple[float, float, float]
"""Standard deviations of the parts: seed, images, both."""

PARTS: tuple[Parts, ...] = (
    (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (1, 0.5, 1), (1, 1, 1), (0.5, 1, 0.5), (1, 0.3, 0.3),
)  # fmt: skip

DETECTION_PARTS: tuple[Parts, ...] = ((0.05, 0, 0), (0, 0.5, 0), (0.1, 0.5, 0.3), (0.05, 0.5, 0.5))
"""The same for the detections."""

SCALE = 0.01
"""A part of 1 is this difference of AP."""

CLASSES = 3
"""Number of classes of the random objects."""

Simulate = Callable[[Parts, int, Doubles, np.random.Generator], SeedsDifference]
"""Simulates a comparison from parts, number of seeds, weights [1 + R, I] of the images, and random numbers."""


def simulate(parts: Parts, seeds: int, halves: Doubles, rng: np.random.Generator) -> SeedsDifference:
    """Return the comparison of two settings without a true difference, for a metric that is a mean over the images."""
    images = halves.shape[1]
    of_seed, of_images, of_both = (SCALE * part for part in parts)
    values = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_images * images**0.5, images)
    values = values + rng.normal(0, of_both * images**0.5, (seeds, images))
    ap = values @ halves.T / halves.sum(axis=1)
    nothing = ApHalves("", images, np.zeros(len(halves)))
    return seeds_difference(ap[:, 0].tolist(), [(ApHalves("", images, own), nothing) for own in ap])


def simulate_detections(parts: Parts, seeds: int, halves: Doubles, rng: np.random.Generator) -> SeedsDifference:
    """Return the comparison of two settings without a true difference, from random detections."""
    resamples, images = len(halves) - 1, halves.shape[1]
    of_seed, of_images, of_both = parts
    image = np.repeat(np.arange(images), 1 + rng.poisson(4, images))
    category = rng.integers(1, CLASSES + 1, len(image))
    boxes = np.hstack([rng.uniform(0, 600, (len(image), 2)), np.exp(rng.uniform(2.3, 5.7, (len(image), 2)))])
    truth = {
        "images": [{"id": own} for own in range(images)],
        "annotations": _rows(image, category, boxes),
        "categories": [{"id": own} for own in range(1, CLASSES + 1)],
    }
    ap: list[list[Doubles]] = []
    for _ in range(2):
        common = rng.normal(0, of_images, images)
        runs = []
        for _ in range(seeds):
            errors = 0.08 * np.exp(rng.normal(0, of_seed) + common + rng.normal(0, of_both, images))[image, None]
            placed = boxes + rng.normal(0, 1, boxes.shape) * errors * np.tile(boxes[:, 2:], 2)
            placed[:, 2:] = np.maximum(placed[:, 2:], 1)
            scores = np.concatenate([rng.beta(4, 2, len(image)), rng.beta(1, 3, 2 * images)])
            wrong = np.hstack([rng.uniform(0, 600, (2 * images, 2)), rng.uniform(10, 200, (2 * images, 2))])
            of_wrong = rng.integers(0, images, 2 * images), rng.integers(1, CLASSES + 1, 2 * images)
            rows = [*_rows(image, category, placed), *_rows(*of_wrong, wrong)]
            results = [row | {"score": score} for row, score in zip(rows, scores.tolist(), strict=True)]
            runs.append(resample_ap(match_detections(truth, results), resamples=resamples))
        ap.append(runs)
    pairs = [(ApHalves("", images, one), ApHalves("", images, other)) for one, other in zip(*ap, strict=True)]
    return seeds_difference([float(one.ap[0] - other.ap[0]) for one, other in pairs], pairs)


def _rows(image: Any, category: Any, boxes: Doubles) -> list[dict[str, Any]]:
    """Return objects or detections as rows of COCO's formats, without scores."""
    own = zip(image.tolist(), category.tolist(), boxes.tolist(), strict=True)
    return [{"image_id": i, "category_id": c, "bbox": box} for i, c, box in own]


def coverage(simulated: Simulate, parts: Parts, seeds: int, halves: Doubles, comparisons: int) -> Doubles:
    """Return how often the interval for seeds only, and that for seeds and images, contain the truth; and half widths.

    Args:
        simulated: the simulation.
        parts: the parts.
        seeds: number of seeds.
        halves: [1 + R, I] weights of the images.
        comparisons: number of simulated comparisons.
    """
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(comparisons):
        own = simulated(parts, seeds, halves, rng)
        assert own.seeds_only is not None
        assert own.interval is not None
        both = (own.seeds_only, own.interval)
        rows.append([*(i.low <= 0 <= i.high for i in both), *((i.high - i.low) / 2 for i in both)])
    return np.asarray(np.mean(rows, axis=0))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detections", action="store_true", help="compute AP from random detections")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5], help="numbers of seeds")
    parser.add_argument("--images", type=int, default=80, help="number of images")
    parser.add_argument("--comparisons", type=int, default=2000, help="number of simulated comparisons of each row")
    parser.add_argument("--resamples", type=int, default=1000, help="number of random halves of the images")
    options = parser.parse_args()
    halves = half_weights(options.images, options.resamples).astype(np.float64)
    simulated, rows = (simulate_detections, DETECTION_PARTS) if options.detections else (simulate, PARTS)
    print("| seeds | seed | images | both | seeds only: contains | ± | seeds and images: contains | ± |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for seeds in options.seeds:
        for parts in rows:
            only, both, *widths = coverage(simulated, parts, seeds, halves, options.comparisons).tolist()
            cells = [f"{seeds}", *(f"{part:g}" for part in parts)]
            cells += [f"{100 * only:.1f} %", f"{widths[0]:.4f}", f"{100 * both:.1f} %", f"{widths[1]:.4f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
