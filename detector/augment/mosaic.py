"""Four images on one canvas: more objects, more sizes and new neighbors for each step of a long run."""

from collections.abc import Sequence

import numpy as np

from detector.augment.affine import transform
from detector.augment.color import change_colors
from detector.augment.pipeline import random_placement
from detector.config import Config
from detector.sample import Sample


def mosaic(samples: Sequence[Sample], input_hw: tuple[int, int], config: Config, rng: np.random.Generator) -> Sample:
    """Return four samples in the four corners of one canvas, each placed at random in its part.

    Args:
        samples: four images of any size; the result bears the first one's id.
        input_hw: size of the result.
        config: the ranges of placement and color.
        rng: source of every random choice.

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
    boxes, parts = [], []
    for sample, (top, left, bottom, right) in zip(samples, corners, strict=True):
        part_hw = (bottom - top, right - left)
        part = transform(sample, random_placement(sample.image.shape, part_hw, config, rng), part_hw, config)
        image[top:bottom, left:right] = part.image
        boxes.append(part.boxes + np.array([left, top, left, top], dtype=np.float32))
        parts.append(part)
    merged = Sample(
        image=image,
        boxes=np.concatenate(boxes),
        class_ids=np.concatenate([part.class_ids for part in parts]),
        is_crowd=np.concatenate([part.is_crowd for part in parts]),
        image_id=samples[0].image_id,
    )
    return change_colors(merged, config, rng)
