"""Mosaic: four images in one, so that each step of a long run shows more objects, sizes and backgrounds."""

from collections.abc import Sequence

import numpy as np

from detector.augment.affine import transform_sample
from detector.augment.color import color_jitter
from detector.augment.pipeline import random_placement
from detector.config import AugmentConfig
from detector.sample import Sample, merge, shift


def mosaic(
    samples: Sequence[Sample], input_hw: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> Sample:
    """Return a mosaic of four samples: each sample fills one corner of the new image, with a random placement there.

    Args:
        samples: four samples with images of any size. The new sample has the image id of the first.
        input_hw: height and width of the new image.
        config: ranges of the random placement and color.
        rng: random generator.

    Source: Bochkovskiy et al., YOLOv4, 2020, section 3.3.
    """
    height, width = input_hw
    split_y, split_x = (round(side * rng.uniform(0.35, 0.65)) for side in input_hw)
    corners = [
        (0, 0, split_y, split_x),
        (0, split_x, split_y, width),
        (split_y, 0, height, split_x),
        (split_y, split_x, height, width),
    ]
    image = np.empty((height, width, 3), dtype=np.uint8)
    parts = []
    for sample, (top, left, bottom, right) in zip(samples, corners, strict=True):
        part_hw = (bottom - top, right - left)
        matrix = random_placement(sample.image.shape, part_hw, config, rng)
        part = transform_sample(sample, matrix, part_hw, config.min_visible)
        image[top:bottom, left:right] = part.image
        parts.append(shift(part, left, top))
    return color_jitter(merge(image, parts), config, rng)
