"""Random placement and color of a single sample: its image and its boxes."""

import numpy as np

from detector.augment.affine import AffineMatrix, flip_affine, letterbox_matrix, rotate_affine, transform_sample
from detector.augment.color import color_jitter
from detector.config import AugmentConfig
from detector.sample import Sample

_MAX_CROP = 0.5
"""Largest fraction of the width, and of the height, that a random crop removes."""


def augment(
    sample: Sample, input_hw: tuple[int, int], config: AugmentConfig, rng: np.random.Generator, strength: float = 1.0
) -> Sample:
    """Place the image of a sample at random in the input, change its colors, and return the new sample.

    Args:
        sample: a sample with an image of any size.
        input_hw: height and width of the new image.
        config: ranges of the random changes.
        rng: random generator.
        strength: factor on the ranges, 0..1. It does not change how often images are flipped or cropped.
    """
    matrix = random_placement(sample.image.shape[:2], input_hw, config, rng, strength)
    placed = transform_sample(sample, matrix, input_hw, config.min_visible)
    return color_jitter(placed, config, rng, strength)


def random_placement(
    image_hw: tuple[int, ...],
    input_hw: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> AffineMatrix:
    """Return a random transform from image to input: crop, or scale and shift; then rotation; then flips.

    Args:
        image_hw: height and width of the image.
        input_hw: height and width of the input.
        config: ranges of the random changes.
        rng: random generator.
        strength: factor on the ranges, 0..1.
    """
    if config.crop and rng.random() < config.crop:
        matrix = random_crop(image_hw, input_hw, rng, strength)
    else:
        matrix = random_scale_and_shift(image_hw, input_hw, config, rng, strength)
    if config.rotate:
        matrix = rotate_affine(matrix, input_hw, strength * rng.uniform(-config.rotate, config.rotate))
    flips = rng.random(2) < (config.flip, config.flip_vertical)
    return flip_affine(matrix, input_hw, (bool(flips[0]), bool(flips[1])))


def random_scale_and_shift(
    image_hw: tuple[int, ...],
    input_hw: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
    strength: float,
) -> AffineMatrix:
    """Return a random transform that letterboxes an image, scales it about the center of the input, and shifts it."""
    matrix = letterbox_matrix(image_hw, input_hw)
    input_wh = np.array(input_hw[::-1], dtype=np.float64)
    scale = 1 + strength * (rng.uniform(*config.scale) - 1)
    shift = strength * rng.uniform(-config.shift, config.shift, size=2) * input_wh
    matrix *= scale
    matrix[:, 2] += input_wh * (1 - scale) / 2 + shift
    return matrix


def random_crop(
    image_hw: tuple[int, ...], input_hw: tuple[int, int], rng: np.random.Generator, strength: float
) -> AffineMatrix:
    """Return a random transform that stretches a crop to the input. Width and height of the crop are independent."""
    image_wh, input_wh = (np.array(hw[1::-1], dtype=np.float64) for hw in (image_hw, input_hw))
    crop_wh = image_wh * (1 - strength * rng.uniform(0, _MAX_CROP, size=2))
    corner = (image_wh - crop_wh) * rng.random(2)
    scale = input_wh / crop_wh
    return np.column_stack([np.diag(scale), -corner * scale])
