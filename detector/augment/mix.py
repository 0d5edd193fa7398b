"""Augmentations that combine two images: copy-paste, mixup and style shift."""

from dataclasses import replace

import cv2
import numpy as np

from detector.arrays import Doubles, Floats, ImageArray
from detector.augment.affine import letterbox_matrix, transform_sample
from detector.augment.color import color_jitter
from detector.boxes import area
from detector.config import AugmentConfig
from detector.sample import Sample, merge, shift

_MAX_PASTED = 3
"""Largest number of objects that are pasted into an image."""

_MAX_COVERED = 0.3
"""Largest fraction of an object that all pasted objects together may cover."""

_MAX_TRIES = 10
"""Number of random positions that are tried for an object. If none is allowed, the object is not pasted."""

_FEATHER = 2
"""Width in pixels of the border in which a patch is blended with the image: hard edges would reveal pasted objects."""

_STYLE_CELLS = (8, 8)
"""Rows and columns of a grid over the image: structure larger than a cell is style, smaller structure is content."""

_CONTENT_GAIN = (0.5, 2.0)
"""Range of the factor on the content: a style image of one color must not erase the content, and a style image with
strong contrast must not exaggerate the content."""


def copy_paste(
    sample: Sample,
    donor: Sample,
    class_weights: Doubles,
    config: AugmentConfig,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Sample:
    """Paste one to three objects of a donor image into a sample, and return the new sample.

    The donor is letterboxed to the input size, and each chosen object is cut out as the rectangle of its box. Other
    objects and crowd regions that are visible in the rectangle are pasted with it (`transform_sample` decides which),
    because they are not background. Crowd regions are not chosen themselves.

    Of each object of the sample, pasted rectangles cover at most 30 %, and at least `min_visible` stays visible, so no
    box of the sample is removed. Crowd regions may be covered. If none of ten random positions fulfills this, the
    chosen object is not pasted.

    Args:
        sample: a sample with an image of the input size.
        donor: a sample with an image of any size.
        class_weights: [C] relative probability of choosing an object of each class.
        config: `min_visible` and the ranges of the color changes.
        rng: random generator.
        strength: factor on the ranges of the color changes, 0..1.

    Source: Dwibedi et al., Cut, paste and learn, 2017; Ghiasi et al., Simple copy-paste, 2021 (with masks).
    """
    input_hw = (sample.image.shape[0], sample.image.shape[1])
    donor = transform_sample(donor, letterbox_matrix(donor.image.shape, input_hw), input_hw, config.min_visible)
    candidates = np.flatnonzero(~donor.is_crowd)
    if not len(candidates):
        return sample
    donor = color_jitter(donor, config, rng, strength)
    weights = class_weights[donor.class_ids[candidates]]
    count = min(int(rng.integers(1, _MAX_PASTED + 1)), len(candidates))
    max_covered = min(_MAX_COVERED, 1 - config.min_visible)
    covered = np.zeros(len(sample.boxes), dtype=np.float32)
    for box in donor.boxes[rng.choice(candidates, count, replace=False, p=weights / weights.sum())]:
        patch = _cut(donor, box, config.min_visible)
        h, w = patch.image.shape[:2]
        corners = rng.integers(0, (input_hw[1] - w + 1, input_hw[0] - h + 1), size=(_MAX_TRIES, 2))
        targets = np.concatenate([corners, corners + np.array([w, h])], axis=1).astype(np.float32)
        covered_after = covered + _covered_fraction(targets, sample.boxes)
        allowed = np.flatnonzero(((covered_after <= max_covered) | sample.is_crowd).all(axis=1))
        if len(allowed):
            first = allowed[0]
            sample = _paste(sample, patch, int(corners[first, 0]), int(corners[first, 1]))
            covered = np.concatenate([covered_after[first], np.zeros(len(patch.boxes), dtype=np.float32)])
    return sample


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Blend two samples with images of the same size, and return the new sample with the objects of both.

    The weight of the first image is drawn from Beta(8, 8). The loss does not weight the objects with the weights of
    their images: the first paper does, the second paper does not.

    Source: Zhang et al., mixup, 2018; for detection Ge et al., YOLOX, 2021.
    """
    fraction = rng.beta(8, 8)
    image = cv2.addWeighted(sample.image, fraction, other.image, 1 - fraction, 0)
    return merge(np.asarray(image, dtype=np.uint8), [sample, other])


def style_shift(sample: Sample, style: ImageArray) -> Sample:
    """Return a sample with the content of its image and the style (colors and low frequencies) of a style image.

    In each channel, the low frequencies are replaced by the low frequencies of the style image. The high frequencies
    are scaled to the standard deviation of the high frequencies of the style image.

    Args:
        sample: any sample.
        style: image [H, W, 3] of any size; it is stretched to the size of the sample.

    Source: the idea of Yang and Soatto, FDA: Fourier domain adaptation, 2020, with cells in place of amplitudes.
    """
    h, w = sample.image.shape[:2]
    stretched = cv2.resize(style, (w, h), interpolation=cv2.INTER_AREA)
    content, _ = _split_frequencies(sample.image)
    style_high, style_low = _split_frequencies(np.asarray(stretched, dtype=np.uint8))
    # The standard deviation of an image of one color is 0: an eighth of a level prevents a division by zero.
    gain = _channel_std(style_high) / np.maximum(_channel_std(content), 0.125)
    # OpenCV's addition also rounds and clips to 0..255.
    levels = cv2.add(style_low, content * np.clip(gain, *_CONTENT_GAIN), dtype=cv2.CV_8U)
    return replace(sample, image=np.asarray(levels, dtype=np.uint8))


def _split_frequencies(image: ImageArray) -> tuple[Floats, Floats]:
    """Return the high and the low frequencies of an image [H, W, 3], both [H, W, 3]; their sum is the image."""
    h, w = image.shape[:2]
    high = image.astype(np.float32)
    cells = cv2.resize(high, _STYLE_CELLS, interpolation=cv2.INTER_AREA)
    low = np.asarray(cv2.resize(cells, (w, h), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    high -= low
    return high, low


def _channel_std(levels: Floats) -> Floats:
    """Return the standard deviations [3] of the channels of `levels` [H, W, 3]; 30 times faster than NumPy's `std`."""
    return np.asarray(cv2.meanStdDev(levels)[1][:, 0], dtype=np.float32)


def _cut(sample: Sample, box: Floats, min_visible: float) -> Sample:
    """Cut all pixels that a box [4] touches out of a sample, and return them as a new sample."""
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    matrix = np.array([[1.0, 0, -left], [0, 1, -top]])
    return transform_sample(sample, matrix, (bottom - top, right - left), min_visible)


def _covered_fraction(targets: Floats, boxes: Floats) -> Floats:
    """Return fractions [T, N]: at (i, j), the fraction of box j of `boxes` [N, 4] that target i of `targets` covers."""
    top_left = np.maximum(targets[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(targets[:, None, 2:], boxes[None, :, 2:])
    return area(np.concatenate([top_left, bottom_right], axis=-1)) / area(boxes)


def _paste(sample: Sample, patch: Sample, left: int, top: int) -> Sample:
    """Paste the image and the objects of a patch into a sample at (left, top), and return the new sample."""
    h, w = patch.image.shape[:2]
    image = sample.image.copy()
    below = image[top : top + h, left : left + w]
    below[:] = np.rint(below + _opacity((h, w)) * (patch.image.astype(np.float32) - below))
    return merge(image, [sample, shift(patch, left, top)])


def _opacity(hw: tuple[int, int]) -> Floats:
    """Return the opacity [H, W, 1] of a patch: below 1 near the border, and 1 elsewhere, at least in the middle."""
    to_border = [np.minimum(np.arange(side), np.arange(side)[::-1]) for side in hw]
    ramps = [np.minimum(1, (1 + steps) / (1 + _FEATHER)) for steps in to_border]
    opacity = np.outer(*ramps)[:, :, None]
    return np.asarray(opacity / opacity.max(), dtype=np.float32)
