"""Measure how often the intervals of `detector compare` contain the true difference of two settings, by simulation.

    python tools/seed_coverage.py --seeds 2 3 5 --images 80 --comparisons 2000

The difference of a run of each setting on one image is: a part of the seed, a part of the image that is common to all
seeds, and a part of both. The true difference is 0. In the table, the parts are standard deviations of what they
contribute to the difference of one seed on all images; "contains" should be 95 %.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.arrays import Doubles
from detector.metrics.bootstrap import half_weights
from detector.metrics.seeds import ApHalves, SeedsDifference, seeds_difference

PARTS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (1, 0.5, 1), (1, 1, 1), (0.5, 1, 0.5), (1, 0.3, 0.3))
"""Standard deviations of the parts: seed, images, both."""

SCALE = 0.01
"""A part of 1 is this difference of AP."""


def simulate(
    parts: tuple[float, float, float], seeds: int, halves: Doubles, rng: np.random.Generator
) -> SeedsDifference:
    """Return the comparison of two settings without a true difference.

    Args:
        parts: standard deviations of the parts, as in `PARTS`.
        seeds: number of seeds.
        halves: [1 + R, I] weights of the images.
        rng: random numbers.
    """
    images = halves.shape[1]
    of_seed, of_images, of_both = (SCALE * part for part in parts)
    values = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_images * images**0.5, images)
    values = values + rng.normal(0, of_both * images**0.5, (seeds, images))
    ap = values @ halves.T / halves.sum(axis=1)
    nothing = ApHalves("", images, np.zeros(len(halves)))
    return seeds_difference(ap[:, 0].tolist(), [(ApHalves("", images, own), nothing) for own in ap])


def coverage(parts: tuple[float, float, float], seeds: int, images: int, comparisons: int, resamples: int) -> Doubles:
    """Return how often the interval for seeds only, and that for seeds and images, contain the truth; and their widths.

    Args:
        parts: as in `PARTS`.
        seeds: number of seeds.
        images: number of images.
        comparisons: number of simulated comparisons.
        resamples: number of random halves of the images.
    """
    rng, halves = np.random.default_rng(0), half_weights(images, resamples).astype(np.float64)
    rows = []
    for _ in range(comparisons):
        own = simulate(parts, seeds, halves, rng)
        assert own.seeds_only is not None
        assert own.interval is not None
        both = (own.seeds_only, own.interval)
        rows.append([*(i.low <= 0 <= i.high for i in both), *((i.high - i.low) / 2 / SCALE for i in both)])
    return np.asarray(np.mean(rows, axis=0))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5], help="numbers of seeds")
    parser.add_argument("--images", type=int, default=80, help="number of images")
    parser.add_argument("--comparisons", type=int, default=2000, help="number of simulated comparisons of each row")
    parser.add_argument("--resamples", type=int, default=1000, help="number of random halves of the images")
    options = parser.parse_args()
    print("| seeds | seed | images | both | seeds only: contains | ± | seeds and images: contains | ± |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for seeds in options.seeds:
        for parts in PARTS:
            own = coverage(parts, seeds, options.images, options.comparisons, options.resamples)
            only, both, only_width, both_width = own.tolist()
            cells = (f"{part:g}" for part in parts)
            print(
                f"| {seeds} | {' | '.join(cells)} | {100 * only:.1f} % | {only_width:.2f} | {100 * both:.1f} % | "
                f"{both_width:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
