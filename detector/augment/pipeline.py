"""Random changes of a picture that keep its labels true: functions of a sample and a random generator."""

import numpy as np

from detector.augment.affine import Affine, letterbox_affine, mirror_affine, transform, turn_affine
from detector.augment.color import change_colours
from detector.config import Config
from detector.sample import Sample

_LARGEST_CUT = 0.5
"""Largest share of each side of a picture that a random window leaves out."""


def augment(
    sample: Sample, canvas_hw: tuple[int, int], config: Config, rng: np.random.Generator, strength: float = 1.0
) -> Sample:
    """Place a picture on the canvas at random and change its colours.

    Args:
        sample: picture of any size.
        canvas_hw: size of the result.
        config: the ranges.
        rng: source of every random choice.
        strength: share of the ranges that is used, 0..1; mirroring is all or nothing.
    """
    matrix = random_placement(sample.image.shape[:2], canvas_hw, config, rng, strength)
    return change_colours(transform(sample, matrix, canvas_hw, config), config, rng, strength)


def random_placement(
    image_hw: tuple[int, ...],
    canvas_hw: tuple[int, int],
    config: Config,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Affine:
    """Draw the map from picture to canvas: enlarged and shifted, or a window of it; then turned; then mirrored."""
    if config.crop and rng.random() < config.crop:
        matrix = random_window(image_hw, canvas_hw, rng, strength)
    else:
        matrix = random_zoom(image_hw, canvas_hw, config, rng, strength)
    if config.rotate:
        matrix = turn_affine(matrix, canvas_hw, strength * rng.uniform(-config.rotate, config.rotate))
    mirrored = rng.random(2) < (config.mirror, config.mirror_vertical)
    return mirror_affine(matrix, canvas_hw, (bool(mirrored[0]), bool(mirrored[1])))


def random_zoom(
    image_hw: tuple[int, ...], canvas_hw: tuple[int, int], config: Config, rng: np.random.Generator, strength: float
) -> Affine:
    """Draw a map that letterboxes a picture, then enlarges it about the canvas centre and shifts it."""
    matrix = letterbox_affine(image_hw, canvas_hw)
    canvas_wh = np.array(canvas_hw[::-1], dtype=np.float64)
    scale = 1 + strength * (rng.uniform(*config.scale) - 1)
    shift = strength * rng.uniform(-config.shift, config.shift, size=2) * canvas_wh
    matrix *= scale
    matrix[:, 2] += canvas_wh * (1 - scale) / 2 + shift
    return matrix


def random_window(
    image_hw: tuple[int, ...], canvas_hw: tuple[int, int], rng: np.random.Generator, strength: float
) -> Affine:
    """Draw a map that stretches a window of a picture over the whole canvas; each side is drawn on its own."""
    image_wh, canvas_wh = (np.array(hw[1::-1], dtype=np.float64) for hw in (image_hw, canvas_hw))
    window_wh = image_wh * (1 - strength * rng.uniform(0, _LARGEST_CUT, size=2))
    corner = (image_wh - window_wh) * rng.random(2)
    scale = canvas_wh / window_wh
    return np.column_stack([np.diag(scale), -corner * scale])
