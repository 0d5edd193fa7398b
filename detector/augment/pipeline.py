"""Random changes of an image that keep its labels true: functions of a sample and a random generator."""

import numpy as np

from detector.augment.affine import Affine, letterbox_matrix, mirror_affine, transform, turn_affine
from detector.augment.color import change_colors
from detector.config import Config
from detector.sample import Sample

_MAX_CROP = 0.5
"""Largest share of each side of an image that a random window leaves out."""


def augment(
    sample: Sample, input_hw: tuple[int, int], config: Config, rng: np.random.Generator, strength: float = 1.0
) -> Sample:
    """Place an image on the canvas at random and change its colors.

    Args:
        sample: image of any size.
        input_hw: size of the result.
        config: the ranges.
        rng: source of every random choice.
        strength: share of the ranges that is used, 0..1; flipping is all or nothing.
    """
    matrix = random_placement(sample.image.shape[:2], input_hw, config, rng, strength)
    return change_colors(transform(sample, matrix, input_hw, config), config, rng, strength)


def random_placement(
    image_hw: tuple[int, ...],
    input_hw: tuple[int, int],
    config: Config,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Affine:
    """Draw the map from image to canvas: enlarged and shifted, or a window of it; then turned; then mirrored."""
    if config.crop and rng.random() < config.crop:
        matrix = random_window(image_hw, input_hw, rng, strength)
    else:
        matrix = random_zoom(image_hw, input_hw, config, rng, strength)
    if config.rotate:
        matrix = turn_affine(matrix, input_hw, strength * rng.uniform(-config.rotate, config.rotate))
    flipped = rng.random(2) < (config.flip, config.flip_vertical)
    return mirror_affine(matrix, input_hw, (bool(flipped[0]), bool(flipped[1])))


def random_zoom(
    image_hw: tuple[int, ...], input_hw: tuple[int, int], config: Config, rng: np.random.Generator, strength: float
) -> Affine:
    """Draw a map that letterboxes an image, then enlarges it about the canvas center and shifts it."""
    matrix = letterbox_matrix(image_hw, input_hw)
    input_wh = np.array(input_hw[::-1], dtype=np.float64)
    scale = 1 + strength * (rng.uniform(*config.scale) - 1)
    shift = strength * rng.uniform(-config.shift, config.shift, size=2) * input_wh
    matrix *= scale
    matrix[:, 2] += input_wh * (1 - scale) / 2 + shift
    return matrix


def random_window(
    image_hw: tuple[int, ...], input_hw: tuple[int, int], rng: np.random.Generator, strength: float
) -> Affine:
    """Draw a map that stretches a window of an image over the whole canvas; each side is drawn on its own."""
    image_wh, input_wh = (np.array(hw[1::-1], dtype=np.float64) for hw in (image_hw, input_hw))
    window_wh = image_wh * (1 - strength * rng.uniform(0, _MAX_CROP, size=2))
    corner = (image_wh - window_wh) * rng.random(2)
    scale = input_wh / window_wh
    return np.column_stack([np.diag(scale), -corner * scale])
