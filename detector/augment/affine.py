"""Affine maps from an image to the network input, applied to pixels and boxes."""

import cv2
import numpy as np

from detector.arrays import Doubles, Floats, ImageArray
from detector.boxes import area, clip
from detector.config import Config
from detector.geometry import rotation_matrix
from detector.letterbox import FILL, Letterbox
from detector.sample import Sample

Affine = Doubles
"""[2, 3] times (x, y, 1), continuous pixel coordinates, is (x, y) on the canvas: scaled, shifted, mirrored, turned."""


def letterbox_matrix(image_hw: tuple[int, ...], input_hw: tuple[int, int]) -> Affine:
    """Return the affine map of the letterbox, the placement without chance."""
    box = Letterbox.fit((image_hw[0], image_hw[1]), input_hw)
    (scale_x, scale_y), (left, top) = box.scale_xy, box.offset_xy
    return np.array([[scale_x, 0, left], [0, scale_y, top]], dtype=np.float64)


def turn_affine(matrix: Affine, input_hw: tuple[int, int], degrees: float) -> Affine:
    """Return the map followed by turning the canvas about its center, clockwise on the screen."""
    turn, center = rotation_matrix(degrees), np.array(input_hw[::-1]) / 2
    turned: Affine = turn @ matrix
    turned[:, 2] += center - turn @ center
    return turned


def mirror_affine(matrix: Affine, input_hw: tuple[int, int], flipped: tuple[bool, bool]) -> Affine:
    """Return the map followed by flipping the canvas left-right and/or up-down."""
    matrix = matrix.copy()
    for axis, size in ((0, input_hw[1]), (1, input_hw[0])):
        if flipped[axis]:
            matrix[axis] *= -1
            matrix[axis, 2] += size
    return matrix


def transform(sample: Sample, matrix: Affine, input_hw: tuple[int, int], config: Config) -> Sample:
    """Map a sample to the canvas; a box stays if enough of it is in view, cut to the canvas."""
    image = warp(sample.image, matrix, input_hw)
    whole = transform_boxes(sample.boxes, matrix)
    cut = clip(whole, input_hw)
    # A box thinner than a pixel shows nothing to learn from.
    stays = (area(cut) >= config.min_visible * area(whole)) & (cut[:, 2:] - cut[:, :2] >= 1).all(axis=1)
    # A crowd region cut short still marks its part as not to be judged.
    stays |= sample.is_crowd & (area(cut) > 0)
    return Sample(image, cut[stays], sample.class_ids[stays], sample.is_crowd[stays], sample.image_id)


def transform_boxes(boxes: Floats, matrix: Affine) -> Floats:
    """Map boxes [N, 4]: the result is the axis-parallel boxes around their mapped corners."""
    # Of a turned box the corners are known, not what it holds. Objects that do not reach their corners get boxes too
    # large: a disc's grow with |cos| + |sin| of the angle, by 16 % at 10 degrees and by 41 % at 45.
    # A sum is least where each of its terms is: no need to look at all four corners.
    terms = boxes.reshape(-1, 2, 1, 2) * matrix[:, :2]
    corners = np.stack([terms.min(axis=1), terms.max(axis=1)], axis=1).sum(axis=-1) + matrix[:, 2]
    return np.asarray(corners.reshape(-1, 4), dtype=np.float32)


def warp(image: ImageArray, matrix: Affine, input_hw: tuple[int, int]) -> ImageArray:
    """Return the image [H, W, 3] mapped to the canvas, gray outside of it."""
    # OpenCV's coordinates name pixel centers: x there is x + 1/2 here.
    centered = matrix.copy()
    centered[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    size = (input_hw[1], input_hw[0])
    warped = cv2.warpAffine(
        image, centered, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(FILL, FILL, FILL)
    )
    return np.asarray(warped, dtype=np.uint8)
