"""Augmentations that combine two images: copy-paste, mixup and style shift."""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from detector.arrays import Doubles, Floats, ImageArray
from detector.augment.affine import letterbox_matrix, transform_sample
from detector.augment.color import color_jitter
from detector.boxes import area
from detector.config import AugmentConfig
from detector.sample import Sample

_MAX_PASTED = 3
"""Largest number of objects pasted into an image."""

_MAX_COVERED = 0.3
"""Largest fraction of an object that all pasted objects together may cover."""

_MAX_TRIES = 10
"""Number of random positions tried for an object before it is skipped."""

_FEATHER = 2
"""Width in pixels of the border of a patch that is blended with the image: hard edges would reveal pasted objects."""

_STYLE_CELLS = (8, 8)
"""Grid over the image: what is coarser than one cell counts as style, what is finer as content."""

_CONTENT_GAIN = (0.5, 2.0)
"""Range of the factor on the content: a style image of a single color must not erase it, one with strong contrast must
not exaggerate it."""


def copy_paste(
    sample: Sample,
    donor: Sample,
    class_weights: Doubles,
    config: AugmentConfig,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Sample:
    """Paste one to three objects of another image at positions where they cover little of the existing objects.

    Objects are cut out as boxes, in the size they have in the donor's letterbox. Other objects and crowd regions inside
    the cut are pasted with it, by the rule of `transform_sample`, since they are visible and are not background. A
    crowd region is never cut out for its own sake, and may be covered. Any other object is covered by at most 30 %, and
    at least `min_visible` of it stays visible, so no existing box is removed. An object is skipped if none of the
    positions tried fulfills this.

    Args:
        sample: image of the input size.
        donor: another image, of any size.
        class_weights: [C] relative probability of choosing an object of each class.
        config: min_visible and the ranges of color.
        rng: random generator.
        strength: factor on the ranges of color, 0..1.

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
    """Blend two images of the same size; the weight of the first is drawn from Beta(8, 8).

    The objects of both are kept. The loss does not weight them by the blending weights: the first paper does, the
    second does not.

    Source: Zhang et al., mixup, 2018; for detection Ge et al., YOLOX, 2021.
    """
    fraction = rng.beta(8, 8)
    return _with_objects(sample, cv2.addWeighted(sample.image, fraction, other.image, 1 - fraction, 0), other)


def style_shift(sample: Sample, style: ImageArray) -> Sample:
    """Keep the content of an image and give it the style of another one.

    In each channel, the low frequencies are replaced by those of the style image. The high frequencies are scaled to
    the standard deviation of the high frequencies of the style image.

    Args:
        sample: any image.
        style: [H, W, 3] of any size; it is stretched to the size of the sample.

    Source: the idea of Yang and Soatto, FDA: Fourier domain adaptation, 2020, with cells in place of amplitudes.
    """
    h, w = sample.image.shape[:2]
    stretched = cv2.resize(style, (w, h), interpolation=cv2.INTER_AREA)
    content, _ = _split_frequencies(sample.image)
    style_high, style_low = _split_frequencies(np.asarray(stretched, dtype=np.uint8))
    # An image of one color has no standard deviation to divide by; an eighth of a level is negligible.
    gain = _channel_std(style_high) / np.maximum(_channel_std(content), 0.125)
    # OpenCV's addition also rounds and clips to 0..255.
    levels = cv2.add(style_low, content * np.clip(gain, *_CONTENT_GAIN), dtype=cv2.CV_8U)
    return replace(sample, image=np.asarray(levels, dtype=np.uint8))


def _split_frequencies(image: ImageArray) -> tuple[Floats, Floats]:
    """Return the high and the low frequencies of an image [H, W, 3], each [H, W, 3]; their sum is the image."""
    h, w = image.shape[:2]
    high = image.astype(np.float32)
    cells = cv2.resize(high, _STYLE_CELLS, interpolation=cv2.INTER_AREA)
    low = np.asarray(cv2.resize(cells, (w, h), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    high -= low
    return high, low


def _channel_std(levels: Floats) -> Floats:
    """Return the standard deviation [3] of each channel of [H, W, 3]; 30 times faster than NumPy's `std`."""
    return np.asarray(cv2.meanStdDev(levels)[1][:, 0], dtype=np.float32)


def _cut(sample: Sample, box: Floats, min_visible: float) -> Sample:
    """Cut out of a sample all pixels that a box [4] touches."""
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    matrix = np.array([[1.0, 0, -left], [0, 1, -top]])
    return transform_sample(sample, matrix, (bottom - top, right - left), min_visible)


def _covered_fraction(targets: Floats, boxes: Floats) -> Floats:
    """Return the fraction [T, N] of each box of `boxes` [N, 4] that each box of `targets` [T, 4] covers."""
    top_left = np.maximum(targets[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(targets[:, None, 2:], boxes[None, :, 2:])
    return area(np.concatenate([top_left, bottom_right], axis=-1)) / area(boxes)


def _paste(sample: Sample, patch: Sample, left: int, top: int) -> Sample:
    """Paste an image and its objects into a sample, with its top left corner at (left, top)."""
    h, w = patch.image.shape[:2]
    image = sample.image.copy()
    below = image[top : top + h, left : left + w]
    below[:] = np.rint(below + _opacity((h, w)) * (patch.image.astype(np.float32) - below))
    offset = np.array([left, top, left, top], dtype=np.float32)
    return _with_objects(sample, image, replace(patch, boxes=patch.boxes + offset))


def _opacity(hw: tuple[int, int]) -> Floats:
    """Return the opacity [H, W, 1] of a patch: 1 inside and less near the border, but always 1 in the middle."""
    to_border = [np.minimum(np.arange(side), np.arange(side)[::-1]) for side in hw]
    ramps = [np.minimum(1, (1 + steps) / (1 + _FEATHER)) for steps in to_border]
    opacity = np.outer(*ramps)[:, :, None]
    return np.asarray(opacity / opacity.max(), dtype=np.float32)


def _with_objects(sample: Sample, image: npt.ArrayLike, other: Sample) -> Sample:
    """Return a sample with a new image, and the objects of `other` appended to its own."""
    return Sample(
        image=np.asarray(image, dtype=np.uint8),
        boxes=np.concatenate([sample.boxes, other.boxes]),
        class_ids=np.concatenate([sample.class_ids, other.class_ids]),
        is_crowd=np.concatenate([sample.is_crowd, other.is_crowd]),
        image_id=sample.image_id,
    )
