"""How large the network's images are: chosen from the data, and smaller in the first part of a run."""

from collections.abc import Sequence

import numpy as np

from detector.annotation import Annotation
from detector.config import PLANNING_STEPS, Config
from detector.letterbox import input_hw_for_aspect

_LONG_SIDES = (320, 480, 640)

_SMALL_FRACTION = 0.25
"""This share of the objects may be smaller than `_SMALL_OBJECT` on the canvas."""

_SMALL_OBJECT = 10.0
"""ImageArray (square root of the area): a little more than the finest stride."""

_GROWTH = ((0.0, 0.0), (0.35, 0.5), (0.6, 1.0))
"""From this share of the run on, the canvas has grown by this share of the way to full size."""

_LAST_PLANNING_STEPS = 6
"""Of the planning steps these see the full canvas already, so that a plan knows what both sizes cost."""


def choose_input_size(config: Config, annotations: Sequence[Annotation]) -> tuple[int, int]:
    """Return the canvas (height, width): as set, or a long side with the other after the images' median aspect.

    The long side on "auto" is the shortest of 320, 480 and 640 on which three quarters of the objects are at least
    ten pixels wide, and no longer than it takes to show the images at full size.
    """
    if isinstance(config.input_size, tuple):
        return config.input_size
    sizes = np.array([annotation.image_hw for annotation in annotations], dtype=np.float64)
    aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
    return input_hw_for_aspect(_long_side(annotations) if config.input_size == "auto" else config.input_size, aspect)


def _long_side(annotations: Sequence[Annotation]) -> int:
    fractions = [np.zeros(0)]  # of the long side of its image, for each object
    for annotation in annotations:
        boxes = annotation.boxes[~annotation.is_crowd]
        sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64))
        fractions.append(sides / max(annotation.image_hw))
    fraction = np.concatenate(fractions)
    if not len(fraction):
        return _LONG_SIDES[0]
    full = np.median([max(annotation.image_hw) for annotation in annotations])
    wanted = min(_SMALL_OBJECT / float(np.quantile(fraction, _SMALL_FRACTION)), full)
    return next((side for side in _LONG_SIDES if side >= wanted), _LONG_SIDES[-1])


def input_size_at(input_hw: tuple[int, int], step: int, steps: int, config: Config) -> tuple[int, int]:
    """Return the canvas of a training step: small ones first, which cost less and teach the same for a while.

    A pure function of the step; the length of the run does not matter in the first `PLANNING_STEPS`.

    Source: Tan and Le, EfficientNetV2, 2021, section 4 (progressive learning).
    """
    done = step / steps
    if step < PLANNING_STEPS:
        done = 0.0 if step < PLANNING_STEPS - _LAST_PLANNING_STEPS else 1.0
    grown = next(growth for start, growth in reversed(_GROWTH) if done >= start)
    fraction = config.first_input_size + (1 - config.first_input_size) * grown
    height, width = (max(32, round(side * fraction / 32) * 32) for side in input_hw)
    return height, width
