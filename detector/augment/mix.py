"""Images that take something from another one: its objects, half of its light, or its look."""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from detector.arrays import Doubles, Floats, ImageArray
from detector.augment.affine import letterbox_matrix, transform
from detector.augment.color import change_colors
from detector.boxes import area
from detector.config import Config
from detector.sample import Sample

_MOST_PASTED = 3

_MOST_COVERED = 0.3
"""Largest share of an object that pasted ones may cover, all together."""

_PLACES = 10
"""Places tried for an object before it is left out."""

_FEATHER = 2
"""ImageArray at the rim of what is pasted that run into what is below, so that no hard edge tells what was pasted."""

_LOOK_CELLS = (8, 8)
"""What is coarser than a cell of this grid over the image is its look, what is finer its content."""

_LOOK_GAIN = (0.5, 2.0)
"""Bounds of the factor on the content, so that an image of one color neither empties nor drowns another."""


def copy_paste(
    sample: Sample,
    donor: Sample,
    class_weights: Doubles,
    config: Config,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Sample:
    """Paste one to three objects of another image where they hide little of what is there.

    Objects are cut out as boxes and keep their size on the donor's letterbox. Whatever else of the donor is in a cut
    comes with it, boxes and crowd regions by the rule of `transform`, since it is seen and is no background. A crowd
    region is never cut out for its own sake, and may be covered. Other objects lose at most 30 %, and never so much
    that less than `min_visible` of one is left, so no box has to go; what finds no such place is not pasted.

    Args:
        sample: on its canvas.
        donor: another image, of any size.
        class_weights: [C] how much rather an object of each class is taken.
        config: min_visible, and the ranges of color.
        rng: source of every random choice.
        strength: share of the ranges of color that is used, 0..1.

    Source: Dwibedi et al., Cut, paste and learn, 2017; Ghiasi et al., Simple copy-paste, 2021 (with masks).
    """
    input_hw = (sample.image.shape[0], sample.image.shape[1])
    donor = transform(donor, letterbox_matrix(donor.image.shape, input_hw), input_hw, config)
    candidates = np.flatnonzero(~donor.is_crowd)
    if not len(candidates):
        return sample
    donor = change_colors(donor, config, rng, strength)
    weights = class_weights[donor.class_ids[candidates]]
    count = min(int(rng.integers(1, _MOST_PASTED + 1)), len(candidates))
    hidden = np.zeros(len(sample.boxes), dtype=np.float32)
    for box in donor.boxes[rng.choice(candidates, count, replace=False, p=weights / weights.sum())]:
        patch = _cut(donor, box, config)
        h, w = patch.image.shape[:2]
        corners = rng.integers(0, (input_hw[1] - w + 1, input_hw[0] - h + 1), size=(_PLACES, 2))
        places = np.concatenate([corners, corners + np.array([w, h])], axis=1).astype(np.float32)
        hidden_then = hidden + _cover(places, sample.boxes)
        limit = min(_MOST_COVERED, 1 - config.min_visible)
        fits = np.flatnonzero(((hidden_then <= limit) | sample.is_crowd).all(axis=1))
        if len(fits):
            sample = _paste(sample, patch, int(corners[fits[0], 0]), int(corners[fits[0], 1]))
            hidden = np.concatenate([hidden_then[fits[0]], np.zeros(len(patch.boxes), dtype=np.float32)])
    return sample


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Lay an image half transparent over another of the same size; the share of each is drawn from Beta(8, 8).

    The objects of both are kept and count in full, however faint: the losses are not weighted by the share, as they are
    in the first paper and are not in the second.

    Source: Zhang et al., mixup, 2018; for detection Ge et al., YOLOX, 2021.
    """
    fraction = rng.beta(8, 8)
    return _with_objects(sample, cv2.addWeighted(sample.image, fraction, other.image, 1 - fraction, 0), other)


def style_shift(sample: Sample, style: ImageArray) -> Sample:
    """Keep the content of an image and give it the look of another one, of any size.

    In each channel the low frequencies become the other image's, and what remains is scaled to the std of what
    remains there. The other image is stretched to the same size for this.

    Source: the idea of Yang and Soatto, FDA: Fourier domain adaptation, 2020, with cells in place of amplitudes.
    """
    h, w = sample.image.shape[:2]
    stretched = cv2.resize(style, (w, h), interpolation=cv2.INTER_AREA)
    content, _ = _split_look(sample.image)
    other_content, look = _split_look(np.asarray(stretched, dtype=np.uint8))
    # An image without content has no std to scale; an eighth of a level is nothing.
    gain = _channel_std(other_content) / np.maximum(_channel_std(content), 0.125)
    # OpenCV's sum is rounded and cut to 0..255 at once.
    levels = cv2.add(look, content * np.clip(gain, *_LOOK_GAIN), dtype=cv2.CV_8U)
    return replace(sample, image=np.asarray(levels, dtype=np.uint8))


def _split_look(image: ImageArray) -> tuple[Floats, Floats]:
    """Return an image's high and low frequencies, each [H, W, 3]; their sum is the image."""
    h, w = image.shape[:2]
    content = image.astype(np.float32)
    cells = cv2.resize(content, _LOOK_CELLS, interpolation=cv2.INTER_AREA)
    look = np.asarray(cv2.resize(cells, (w, h), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    content -= look
    return content, look


def _channel_std(levels: Floats) -> Floats:
    """Return the std [3] of each channel; NumPy's `std` says the same thirty times slower."""
    return np.asarray(cv2.meanStdDev(levels)[1][:, 0], dtype=np.float32)


def _cut(sample: Sample, box: Floats, config: Config) -> Sample:
    """Return the part of a sample in the whole pixels that a box touches."""
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    return transform(sample, np.array([[1.0, 0, -left], [0, 1, -top]]), (bottom - top, right - left), config)


def _cover(places: Floats, boxes: Floats) -> Floats:
    """Return the share [T, N] of each of the boxes [N, 4] that each of the places [T, 4] covers."""
    top_left = np.maximum(places[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    return area(np.concatenate([top_left, bottom_right], axis=-1)) / area(boxes)


def _paste(sample: Sample, patch: Sample, left: int, top: int) -> Sample:
    h, w = patch.image.shape[:2]
    image = sample.image.copy()
    below = image[top : top + h, left : left + w]
    below[:] = np.rint(below + _opacity((h, w)) * (patch.image.astype(np.float32) - below))
    offset = np.array([left, top, left, top], dtype=np.float32)
    return _with_objects(sample, image, replace(patch, boxes=patch.boxes + offset))


def _opacity(hw: tuple[int, int]) -> Floats:
    """Return [H, W, 1]: 1 inside, less towards the rim, and 1 in the middle of even the smallest patch."""
    from_rim = [np.minimum(np.arange(side), np.arange(side)[::-1]) for side in hw]
    ramps = [np.minimum(1, (1 + steps) / (1 + _FEATHER)) for steps in from_rim]
    opacity = np.outer(*ramps)[:, :, None]
    return np.asarray(opacity / opacity.max(), dtype=np.float32)


def _with_objects(sample: Sample, image: npt.ArrayLike, other: Sample) -> Sample:
    """Return a sample with another image, and the other's objects behind its own."""
    return Sample(
        image=np.asarray(image, dtype=np.uint8),
        boxes=np.concatenate([sample.boxes, other.boxes]),
        class_ids=np.concatenate([sample.class_ids, other.class_ids]),
        is_crowd=np.concatenate([sample.is_crowd, other.is_crowd]),
        image_id=sample.image_id,
    )
