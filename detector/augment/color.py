"""Random color changes. They do not move pixels, so the boxes stay the same."""

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np

from detector.arrays import Doubles, Floats, ImageArray
from detector.config import ColorConfig
from detector.sample import Sample

_LEVELS = np.arange(256, dtype=np.float64)[:, None]

_HUES = 180
"""Number of hues of a uint8 image in OpenCV: 0..179, in steps of two degrees."""


def color_jitter(sample: Sample, config: ColorConfig, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Change gain, brightness, hue, saturation and value at random, and return the new sample.

    `strength` is a factor on the random ranges, 0..1.
    """
    return hsv_jitter(gain_jitter(sample, config, rng, strength), config, rng, strength)


def gain_jitter(sample: Sample, config: ColorConfig, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Multiply each channel by a random gain, add one random brightness to all channels, and return the new sample."""
    gain = 1 + strength * rng.uniform(-config.color_gain, config.color_gain, size=3)
    offset = strength * rng.uniform(-config.brightness, config.brightness)
    return replace(sample, image=_map_levels(sample.image, _LEVELS * gain + offset))


def hsv_jitter(sample: Sample, config: ColorConfig, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Shift the hue, multiply saturation and value by random gains, and return the new sample.

    If the settings hue, saturation and value are all 0, the same sample is returned and no random number is drawn.
    """
    ranges = np.array([config.hue, config.saturation, config.value])
    # The conversion to HSV and back changes some levels, so it is skipped if all ranges are 0.
    if not ranges.any():
        return sample
    hue_shift, *gains = strength * ranges * rng.uniform(-1, 1, size=3)
    hues = (_LEVELS + round(hue_shift * _HUES)) % _HUES
    hsv = _map_levels(
        np.asarray(cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV), dtype=np.uint8),
        np.concatenate([hues, _LEVELS * (1 + np.array(gains))], axis=1),
    )
    return replace(sample, image=np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8))


def pca_color_jitter(
    sample: Sample, principal: Floats, config: ColorConfig, rng: np.random.Generator, strength: float = 1.0
) -> Sample:
    """Add a random combination of the principal colors of the training images to all pixels; return the new sample.

    The added color is `sum_k alpha_k * sqrt(lambda_k) * p_k` in levels 0..255, with alpha_k ~ N(0, pca_color).

    The paper multiplies by lambda_k instead of its square root. But lambda_k is a variance: the shift in the paper
    depends on the unit of the levels, and would be far too large for levels 0..255. sqrt(lambda_k) is the standard
    deviation of the images along p_k, so pca_color = 0.1 means a tenth of the standard deviation in any unit. For
    levels 0..1, where sqrt(lambda_k) is below 1, the shift is larger than in the paper: about twice as large along the
    first color.

    Args:
        sample: any sample.
        principal: [3, 3] from `principal_colors`.
        config: `pca_color` is the standard deviation of alpha_k.
        rng: random generator.
        strength: factor on the standard deviation, 0..1.

    Source: Krizhevsky et al., ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    alpha = strength * rng.normal(0, config.pca_color, size=3)
    return replace(sample, image=_map_levels(sample.image, _LEVELS + principal @ alpha))


def principal_colors(covariance: Floats) -> Floats:
    """Return the principal colors [3, 3] of a covariance matrix [3, 3] of RGB levels.

    Returns:
        [3, 3]: column k is the eigenvector p_k in RGB, multiplied by the standard deviation along p_k.

    >>> principal_colors(np.diag(np.array([4, 9, 25], dtype=np.float32))).max(axis=0).tolist()
    [2.0, 3.0, 5.0]
    """
    variances, directions = np.linalg.eigh(covariance.astype(np.float64))
    return np.asarray(directions * np.sqrt(np.maximum(variances, 0)), dtype=np.float32)


def color_statistics(images: Iterable[ImageArray]) -> tuple[Floats, Floats]:
    """Return the mean [3] and the covariance [3, 3] of the RGB levels (0..255) of images.

    Each variance is at least 1, so that the input normalization never divides by zero.
    """
    total, total_products, count = np.zeros(3), np.zeros((3, 3)), 0
    for image in images:
        # Every 4th pixel in both directions gives nearly the same statistics, 16 times faster.
        pixels = image[::4, ::4].reshape(-1, 3).astype(np.float64)
        total += pixels.sum(axis=0)
        total_products += pixels.T @ pixels
        count += len(pixels)
    mean = total / count
    covariance = total_products / count - np.outer(mean, mean)
    # The variance is 0 if all images have the same color.
    np.fill_diagonal(covariance, np.maximum(np.diag(covariance), 1))
    return mean.astype(np.float32), covariance.astype(np.float32)


def _map_levels(image: ImageArray, levels: Doubles) -> ImageArray:
    """Replace each level l of channel c by `levels[l, c]`, rounded and clipped to 0..255, and return the new image.

    Args:
        image: [H, W, 3].
        levels: [256, 3], or [256, 1] for all channels.
    """
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), dtype=np.uint8)
