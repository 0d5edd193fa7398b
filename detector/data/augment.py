"""Random changes of a picture that keep its labels true: functions of a sample and a random generator."""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from detector.boxes import Floats, area, clip
from detector.config import Config
from detector.data.sample import Sample
from detector.images import Pixels
from detector.letterbox import FILL, Letterbox

Affine = npt.NDArray[np.float64]
"""[2, 3]: (scale x, 0, shift x), (0, scale y, shift y), on continuous pixel coordinates. A negative scale mirrors."""


def augment(
    sample: Sample, canvas_hw: tuple[int, int], config: Config, rng: np.random.Generator, strength: float = 1.0
) -> Sample:
    """Place a picture on the canvas at random and shift its colours.

    Args:
        sample: picture of any size.
        canvas_hw: size of the result.
        config: the ranges.
        rng: source of every random choice.
        strength: share of the ranges that is used, 0..1; mirroring is all or nothing.
    """
    matrix = random_placement(sample.image.shape[:2], canvas_hw, config, rng, strength)
    return colour_shift(transform(sample, matrix, canvas_hw, config), config, rng, strength)


def letterbox_affine(image_hw: tuple[int, ...], canvas_hw: tuple[int, int]) -> Affine:
    """Return the affine map of the letterbox, the placement without chance."""
    box = Letterbox.fit((image_hw[0], image_hw[1]), canvas_hw)
    (scale_x, scale_y), (left, top) = box.scale_xy, box.offset_xy
    return np.array([[scale_x, 0, left], [0, scale_y, top]], dtype=np.float64)


def random_placement(
    image_hw: tuple[int, ...],
    canvas_hw: tuple[int, int],
    config: Config,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Affine:
    """Draw the map from picture to canvas: letterboxed, then enlarged, shifted and mirrored at random."""
    matrix = letterbox_affine(image_hw, canvas_hw)
    canvas_wh = np.array(canvas_hw[::-1], dtype=np.float64)
    scale = 1 + strength * (rng.uniform(*config.scale) - 1)
    shift = strength * rng.uniform(-config.shift, config.shift, size=2) * canvas_wh
    mirrored = rng.random(2) < (config.mirror, config.mirror_vertical)
    matrix *= scale
    matrix[:, 2] += canvas_wh * (1 - scale) / 2 + shift
    return mirror_affine(matrix, canvas_hw, (bool(mirrored[0]), bool(mirrored[1])))


def mirror_affine(matrix: Affine, canvas_hw: tuple[int, int], mirrored: tuple[bool, bool]) -> Affine:
    """Return the map followed by mirroring the canvas left-right and/or up-down."""
    matrix = matrix.copy()
    for axis, size in ((0, canvas_hw[1]), (1, canvas_hw[0])):
        if mirrored[axis]:
            matrix[axis] *= -1
            matrix[axis, 2] += size
    return matrix


def transform(sample: Sample, matrix: Affine, canvas_hw: tuple[int, int], config: Config) -> Sample:
    """Map a sample to the canvas; a box stays if enough of it is in view, cut to the canvas."""
    image = warp(sample.image, matrix, canvas_hw)
    whole = transform_boxes(sample.boxes, matrix)
    cut = clip(whole, canvas_hw)
    # A box thinner than a pixel shows nothing to learn from.
    stays = (area(cut) >= config.min_visible * area(whole)) & (cut[:, 2:] - cut[:, :2] >= 1).all(axis=1)
    # A crowd region cut short still marks its part as not to be judged.
    stays |= sample.is_crowd & (area(cut) > 0)
    return Sample(image, cut[stays], sample.class_ids[stays], sample.is_crowd[stays], sample.image_id)


def transform_boxes(boxes: Floats, matrix: Affine) -> Floats:
    """Map boxes [N, 4] by an affine map without rotation; mirrored corners are put in order again."""
    corners = boxes.reshape(-1, 2, 2) * np.diag(matrix[:, :2]) + matrix[:, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def warp(image: Pixels, matrix: Affine, canvas_hw: tuple[int, int]) -> Pixels:
    """Return the picture [H, W, 3] mapped to the canvas, grey outside of it."""
    # OpenCV's coordinates name pixel centres: x there is x + 1/2 here.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    size = (canvas_hw[1], canvas_hw[0])
    warped = cv2.warpAffine(
        image, centred, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(FILL, FILL, FILL)
    )
    return np.asarray(warped, dtype=np.uint8)


def colour_shift(sample: Sample, config: Config, rng: np.random.Generator, strength: float = 1.0) -> Sample:
    """Multiply each channel by its own random gain and add one random brightness."""
    gain = 1 + strength * rng.uniform(-config.colour_gain, config.colour_gain, size=3)
    offset = strength * rng.uniform(-config.brightness, config.brightness)
    levels = np.arange(256, dtype=np.float64)[:, None] * gain + offset
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return replace(sample, image=np.asarray(cv2.LUT(sample.image, table[None]), dtype=np.uint8))
