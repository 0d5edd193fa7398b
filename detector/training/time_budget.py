"""How much a run does per step, and how long a step takes on the average."""

import numpy as np

from detector.config import Config
from detector.loader.input_size import input_size_at

_MANY = 1000
"""Steps by which the mean over a run is taken."""


def choose_batch(config: Config, image_count: int) -> int:
    """Return the images per step: few for few images, since a short run needs many steps more than smooth ones."""
    if config.batch != "auto":
        return config.batch
    return 8 if image_count < 1000 else 16 if image_count < 5000 else 32


def mean_step_seconds(small: float, large: float, input_hw: tuple[int, int], config: Config) -> float:
    """Return the mean seconds of a step over a whole run, whose canvas grows.

    Args:
        small: seconds of a step on the first canvas.
        large: seconds of a step on the full one.
        input_hw: the full canvas.
        config: says how it grows.
    """
    areas = np.array([float(np.prod(input_size_at(input_hw, step, _MANY, config))) for step in range(_MANY)])
    first, full = areas[0], areas[-1]
    return small if first == full else small + (large - small) * float(np.mean(areas) - first) / (full - first)
