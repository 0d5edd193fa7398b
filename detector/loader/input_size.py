"""Input size of the network: choice from the data, smaller sizes early in a run, and random sizes (multi-scale)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.annotation import Annotation
from detector.config import PLANNING_STEPS, Config, InputSizeConfig
from detector.errors import ConfigError
from detector.letterbox import SIZE_DIVISOR, input_hw_for_aspect

log = logging.getLogger(__name__)

_LONG_SIDES = (320, 480, 640)
"""Long sides in pixels from which "auto" chooses."""

_SMALL_IMAGE, _LARGEST_ENLARGEMENT = 160, 2.0
"""Images whose long side is shorter than the first number of pixels are enlarged at most this many times."""

_SMALL_FRACTION = 0.25
"""Largest fraction of the objects that may be smaller than `_SMALL_OBJECT` in the input."""

_SMALL_OBJECT = 10.0
"""Size of a small object in input pixels, as the square root of its area: a little more than the smallest stride."""

_GROWTH = ((0.0, 0.0), (0.35, 0.5), (0.6, 1.0))
"""Pairs (fraction of the run, progress): from this fraction on, the input size has made this progress from the first
size (0) to the full size (1)."""

_LAST_PLANNING_STEPS = 6
"""Number of steps at the end of the planning steps that have the full input size, so that the time of a step is
measured for both sizes."""

_LARGEST_PLANNING_STEPS = 3
"""With multi-scale training, so many of these steps have the largest input size of the run instead. So the run fails
early if the memory is too small for it, and the time of a step is known."""

_SCALES = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Multi-scale training multiplies the input size by 1 plus one of these numbers times the setting `multi_scale`. Five
sizes, not any: for each new size, the libraries of torch prepare kernels, which takes longer than a step."""

_SCALE_SEED = 4
"""First number of the seed of the scale of a step; the dataset uses 1 and 2."""


@dataclass(frozen=True)
class InputStage:
    """A part of a run in which the input size is the same.

    Attributes:
        start: fraction of the run at which the stage starts.
        input_hw: input size (height, width).
        scaled: with multi-scale training, the sizes from which each step draws its own, from small to large, equally
            often; a size may occur twice. Empty without it.
    """

    start: float
    input_hw: tuple[int, int]
    scaled: tuple[tuple[int, int], ...] = ()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The input sizes of the steps of this stage."""
        return self.scaled or (self.input_hw,)


def choose_input_size(config: InputSizeConfig, annotations: Sequence[Annotation]) -> tuple[int, int]:
    """Return the full input size (height, width) for a dataset.

    If `config.input_size` is a single number, it is the long side. The short side follows from the median aspect ratio
    of the images. "auto" chooses the smallest long side of 320, 480 and 640 at which three quarters of the objects have
    a size (square root of the area) of at least 10 input pixels. A long side that is not
    smaller than the median long side of the images is also large enough. Images of less than 160 pixels get a smaller
    input, in which they are enlarged at most twice.

    Args:
        config: the setting `input_size`.
        annotations: annotations of the training images.
    """
    if isinstance(config.input_size, tuple):
        return config.input_size
    sizes = np.array([annotation.image_hw for annotation in annotations], dtype=np.float64)
    aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
    return input_hw_for_aspect(_long_side(annotations) if config.input_size == "auto" else config.input_size, aspect)


def _long_side(annotations: Sequence[Annotation]) -> int:
    """Return the long side of the input that `input_size: auto` chooses for the training images."""
    relative_sizes = [np.zeros(0)]  # of each object, as a fraction of the long side of its image
    for annotation in annotations:
        boxes = annotation.boxes[~annotation.is_crowd]
        sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64))
        relative_sizes.append(sides / max(annotation.image_hw))
    relative_size = np.concatenate(relative_sizes)
    median_long_side = float(np.median([max(annotation.image_hw) for annotation in annotations]))
    for_objects = _SMALL_OBJECT / float(np.quantile(relative_size, _SMALL_FRACTION)) if len(relative_size) else np.inf
    if median_long_side < _SMALL_IMAGE:
        # Not smaller than the images, so that no detail is lost.
        needed = max(median_long_side, min(for_objects, _LARGEST_ENLARGEMENT * median_long_side))
        return int(np.ceil(needed / SIZE_DIVISOR)) * SIZE_DIVISOR
    if not len(relative_size):
        return _LONG_SIDES[0]
    needed = min(for_objects, median_long_side)
    return next((side for side in _LONG_SIDES if side >= needed), _LONG_SIDES[-1])


def without_resizing(config: Config) -> Config:
    """Return the settings without progressive resizing if their network accepts only one input size; log the change.

    Raises:
        ConfigError: the network accepts only one input size, and `multi_scale` is set.
    """
    if config.has_fixed_input and config.multi_scale:
        raise ConfigError(
            f"multi_scale: {config.multi_scale:g} needs a network for any input size, and with cell_output=dense it "
            "accepts only one; set multi_scale=0, or cell_output=conv"
        )
    if not config.has_fixed_input or config.first_input_size == 1:
        return config
    log.info("progressive resizing is off (first_input_size=1): with cell_output=dense, the input size is fixed")
    return replace(config, first_input_size=1.0)


def input_stages(input_hw: tuple[int, int], config: InputSizeConfig) -> tuple[InputStage, ...]:
    """Return the stages of a run: the input size grows from the first to the full size.

    Args:
        input_hw: full input size (height, width).
        config: the setting `first_input_size`.
    """
    scales = _SCALES if config.multi_scale else ()
    return tuple(
        InputStage(
            start,
            _grown(input_hw, progress, config),
            tuple(_grown(input_hw, progress, config, scale) for scale in scales),
        )
        for start, progress in _GROWTH
    )


def check_multi_scale(input_hw: tuple[int, int], config: InputSizeConfig) -> None:
    """Log the input sizes of multi-scale training; raise ConfigError if the setting changes no input size."""
    if not config.multi_scale:
        return
    sizes = sorted(set(input_stages(input_hw, config)[-1].sizes))
    if len(sizes) == 1:
        raise ConfigError(
            f"multi_scale: {config.multi_scale:g} does not change the input size of {input_hw[1]}x{input_hw[0]} pixels "
            f"(width x height), because sizes are multiples of {SIZE_DIVISOR}; use a larger number, or 0"
        )
    log.info("multi-scale training with input sizes %s", ", ".join(f"{width}x{height}" for height, width in sizes))


def input_size_at(
    input_hw: tuple[int, int], step: int, steps: float, config: InputSizeConfig, seed: int = 0
) -> tuple[int, int]:
    """Return the input size (height, width) of a training step: that of its stage, or with multi-scale another one.

    Args:
        input_hw: full input size (height, width).
        step: number of the training step, from 0.
        steps: length of the run in steps; see `StepPlan.length_at`.
        config: the settings `first_input_size` and `multi_scale`.
        seed: seed of the run; only multi-scale training depends on it.

    Source: Redmon and Farhadi, YOLO9000, 2017, section 2 (multi-scale training).
    """
    if not config.multi_scale or step < PLANNING_STEPS - _LARGEST_PLANNING_STEPS:
        return stage_size_at(input_hw, step, steps, config)
    if step < PLANNING_STEPS:
        return _grown(input_hw, 1.0, config, _SCALES[-1])
    scale = _SCALES[int(np.random.default_rng([_SCALE_SEED, seed, step]).integers(len(_SCALES)))]
    return _grown(input_hw, _progress_at(step, steps), config, scale)


def stage_size_at(input_hw: tuple[int, int], step: int, steps: float, config: InputSizeConfig) -> tuple[int, int]:
    """Return the input size (height, width) of the stage of a training step, without multi-scale training.

    A run starts with small inputs: they need less time, and early in a run the network learns as much from small inputs
    as from large inputs. In the first `PLANNING_STEPS` steps, the result does not depend on the length of the run.

    Args:
        input_hw: full input size (height, width).
        step: number of the training step, from 0.
        steps: length of the run in steps; see `StepPlan.length_at`.
        config: the setting `first_input_size`.

    Source: Tan and Le, EfficientNetV2, 2021, section 4 (progressive learning).
    """
    return _grown(input_hw, _progress_at(step, steps), config)


def _progress_at(step: int, steps: float) -> float:
    """Return the progress of the input size at a step, from 0 (the first size) to 1 (the full size)."""
    done = step / steps
    if step < PLANNING_STEPS:
        done = 0.0 if step < PLANNING_STEPS - _LAST_PLANNING_STEPS else 1.0
    return next(progress for start, progress in reversed(_GROWTH) if done >= start)


def _grown(input_hw: tuple[int, int], progress: float, config: InputSizeConfig, scale: float = 0.0) -> tuple[int, int]:
    """Return the input size (height, width) that has made a progress from 0 (the first size) to 1 (the full size).

    `scale` is one of `_SCALES`.
    """
    fraction = config.first_input_size + (1 - config.first_input_size) * progress
    fraction *= 1 + scale * config.multi_scale
    height, width = (max(32, round(side * fraction / 32) * 32) for side in input_hw)
    return height, width
