"""Affine transforms from an image to the network input, applied to pixels and boxes."""

import cv2
import numpy as np

from detector.arrays import Doubles, Floats, ImageArray
from detector.boxes import area, clip
from detector.geometry import rotation_matrix
from detector.letterbox import FILL, Letterbox
from detector.sample import Sample, UnlabeledRegions

AffineMatrix = Doubles
"""Affine transform [2, 3]: `matrix @ (x, y, 1)` maps image pixels to input pixels, in continuous coordinates."""


def letterbox_matrix(image_hw: tuple[int, ...], input_hw: tuple[int, int]) -> AffineMatrix:
    """Return the affine matrix that letterboxes an image of size `image_hw` to an input of size `input_hw`."""
    box = Letterbox.fit((image_hw[0], image_hw[1]), input_hw)
    (scale_x, scale_y), (left, top) = box.scale_xy, box.offset_xy
    return np.array([[scale_x, 0, left], [0, scale_y, top]], dtype=np.float64)


def rotate_affine(matrix: AffineMatrix, input_hw: tuple[int, int], degrees: float) -> AffineMatrix:
    """Return the affine matrix that applies `matrix` and then rotates about the center of the input.

    Args:
        matrix: the transform before the rotation; it is not changed.
        input_hw: height and width of the input.
        degrees: angle, clockwise in the displayed image.
    """
    rotation, center = rotation_matrix(degrees), np.array(input_hw[::-1]) / 2
    rotated: AffineMatrix = rotation @ matrix
    rotated[:, 2] += center - rotation @ center
    return rotated


def flip_affine(matrix: AffineMatrix, input_hw: tuple[int, int], flips: tuple[bool, bool]) -> AffineMatrix:
    """Return the affine matrix that applies `matrix` and then flips the input.

    Args:
        matrix: the transform before the flips; it is not changed.
        input_hw: height and width of the input.
        flips: whether to flip left-right, and whether to flip up-down.
    """
    matrix = matrix.copy()
    for axis, size in ((0, input_hw[1]), (1, input_hw[0])):
        if flips[axis]:
            matrix[axis] *= -1
            matrix[axis, 2] += size
    return matrix


def transform_sample(sample: Sample, matrix: AffineMatrix, input_hw: tuple[int, int], min_visible: float) -> Sample:
    """Warp the image of a sample, map and clip its boxes and regions, and return the new sample.

    A box is removed if too little of its area is visible, or if its visible part is less than one pixel wide or high. A
    crowd region is kept if any part of it is visible.

    Args:
        sample: a sample with an image of any size.
        matrix: transform from pixels of `sample.image` to input pixels.
        input_hw: height and width of the new image.
        min_visible: a box is removed if less than this fraction of its area is visible, 0..1.
    """
    image = warp_image(sample.image, matrix, input_hw)
    boxes = transform_boxes(sample.boxes, matrix)
    clipped = clip(boxes, input_hw)
    # The network cannot learn anything from a box that is thinner than a pixel.
    keep = (area(clipped) >= min_visible * area(boxes)) & (clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)
    # The visible part of a crowd region must still be excluded from the loss.
    keep |= sample.is_crowd & (area(clipped) > 0)
    return Sample(
        image,
        clipped[keep],
        sample.class_ids[keep],
        sample.is_crowd[keep],
        sample.image_id,
        _transform_regions(sample.unlabeled, matrix, input_hw),
    )


def _transform_regions(
    regions: UnlabeledRegions | None, matrix: AffineMatrix, input_hw: tuple[int, int]
) -> UnlabeledRegions | None:
    """Map and clip the boxes of regions, and return the regions that are visible."""
    if regions is None:
        return None
    boxes = clip(transform_boxes(regions.boxes, matrix), input_hw)
    visible = area(boxes) > 0
    return UnlabeledRegions(boxes[visible], regions.classes[visible])


def transform_boxes(boxes: Floats, matrix: AffineMatrix) -> Floats:
    """Map the corners of boxes [N, 4], and return the axis-aligned bounding boxes [N, 4] of the mapped corners."""
    # Only the corners of a rotated box are known, not the outline of the object. If the object does not fill the
    # corners, the new box is too large: for a disc, its sides grow by the factor |cos| + |sin| of the angle, so by 16 %
    # at 10 degrees and by 41 % at 45 degrees.
    # A sum of independent terms is smallest where each term is smallest, so the four corners need not be computed.
    terms = boxes.reshape(-1, 2, 1, 2) * matrix[:, :2]
    corners = np.stack([terms.min(axis=1), terms.max(axis=1)], axis=1).sum(axis=-1) + matrix[:, 2]
    return np.asarray(corners.reshape(-1, 4), dtype=np.float32)


def warp_image(image: ImageArray, matrix: AffineMatrix, input_hw: tuple[int, int]) -> ImageArray:
    """Warp an image [H, W, 3] to the input [input height, input width, 3]; pixels outside the image become gray."""
    # The center of pixel column c is at x = c for OpenCV, and at x = c + 1/2 in this package.
    centered = matrix.copy()
    centered[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    size = (input_hw[1], input_hw[0])
    warped = cv2.warpAffine(
        image, centered, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(FILL, FILL, FILL)
    )
    return np.asarray(warped, dtype=np.uint8)
