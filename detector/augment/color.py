"""Random changes of color: no pixel moves, so boxes stay as they are."""

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np

from detector.arrays import Doubles, Floats, ImageArray
from detector.config import Config
from detector.sample import Sample

_LEVELS = np.arange(256, dtype=np.float64)[:, None]

_HUES = 180
"""OpenCV's uint8 hue counts steps of two degrees, 0..179."""


def change_colors(sample: Sample, config: Config, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Make every color change that needs the image alone, each as far as its setting asks."""
    return hsv_shift(color_shift(sample, config, rng, strength), config, rng, strength)


def color_shift(sample: Sample, config: Config, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Multiply each channel by its own random gain and add one random brightness."""
    gain = 1 + strength * rng.uniform(-config.color_gain, config.color_gain, size=3)
    offset = strength * rng.uniform(-config.brightness, config.brightness)
    return replace(sample, image=_look_up(sample.image, _LEVELS * gain + offset))


def hsv_shift(sample: Sample, config: Config, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Turn the hue and multiply saturation and value at random; with all three settings 0 nothing is drawn."""
    ranges = np.array([config.hue, config.saturation, config.value])
    # The way through HSV and back is not exact, so it is not taken for nothing.
    if not ranges.any():
        return sample
    turn, *gains = strength * ranges * rng.uniform(-1, 1, size=3)
    hues = (_LEVELS + round(turn * _HUES)) % _HUES
    hsv = _look_up(
        np.asarray(cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV), dtype=np.uint8),
        np.concatenate([hues, _LEVELS * (1 + np.array(gains))], axis=1),
    )
    return replace(sample, image=np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8))


def pca_shift(
    sample: Sample, principal: Floats, config: Config, rng: np.random.Generator, strength: float = 1.0
) -> Sample:
    """Add one random color to all pixels, along the training images' principal colors.

    The color is `sum_k alpha_k * sqrt(lambda_k) * p_k` in levels of 0..255, alpha_k ~ N(0, pca_color). The paper has
    lambda_k in place of its root: a variance, so that the shift depends on the unit of the levels, and on 0..255 would
    be past all bounds. The root is the images' std along p_k: 0.1 is a tenth of it in any unit. That is more
    than the paper's shift on levels of 0..1, where stds are below 1: about twice as much along the first color.

    Args:
        sample: any image.
        principal: [3, 3] from `principal_colors`.
        config: the std.
        rng: source of every random choice.
        strength: share of the std that is used, 0..1.

    Source: Krizhevsky et al., ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    alpha = strength * rng.normal(0, config.pca_color, size=3)
    return replace(sample, image=_look_up(sample.image, _LEVELS + principal @ alpha))


def principal_colors(covariance: Floats) -> Floats:
    """Return the principal colors: column k of [3, 3] is direction p_k in RGB, as long as the std along it.

    >>> principal_colors(np.diag(np.array([4, 9, 25], dtype=np.float32))).max(axis=0).tolist()
    [2.0, 3.0, 5.0]
    """
    variances, directions = np.linalg.eigh(covariance.astype(np.float64))
    return np.asarray(directions * np.sqrt(np.maximum(variances, 0)), dtype=np.float32)


def color_statistics(images: Iterable[ImageArray]) -> tuple[Floats, Floats]:
    """Return mean [3] and covariance [3, 3] of the RGB levels (0..255) of images; no variance is below 1."""
    total, total_products, count = np.zeros(3), np.zeros((3, 3)), 0
    for image in images:
        # Every 4th pixel each way tells the same, sixteen times faster.
        pixels = image[::4, ::4].reshape(-1, 3).astype(np.float64)
        total += pixels.sum(axis=0)
        total_products += pixels.T @ pixels
        count += len(pixels)
    mean = total / count
    covariance = total_products / count - np.outer(mean, mean)
    # Images of one color must not make the network's input a division by nothing.
    np.fill_diagonal(covariance, np.maximum(np.diag(covariance), 1))
    return mean.astype(np.float32), covariance.astype(np.float32)


def _look_up(image: ImageArray, levels: Doubles) -> ImageArray:
    """Replace level l of channel c by `levels` [256, 3] at (l, c), rounded and cut to 0..255."""
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), dtype=np.uint8)
