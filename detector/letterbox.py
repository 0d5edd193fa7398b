"""The map between a picture and the network's canvas: scaled to fit, centred, the rest filled with grey.

One object holds both directions, so that the way in and the way back cannot disagree.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from detector.arrays import Floats, ImageArray
from detector.boxes import clip
from detector.errors import InputError

CANVAS_STEP = 32
"""Both sides of a canvas are multiples of the network's coarsest stride."""

FILL = 114
"""Grey level outside the picture: near the mean of natural pictures, and what most detectors use."""


def check_side(side: int) -> int:
    """Return a side of a canvas if it is one.

    Raises:
        InputError: it is not a positive multiple of 32; names the nearest that are.
    """
    if side < CANVAS_STEP or side % CANVAS_STEP:
        below = max(1, side // CANVAS_STEP) * CANVAS_STEP
        raise InputError(
            f"canvas: a side of {side} does not divide by {CANVAS_STEP}; {below} and {below + CANVAS_STEP} do"
        )
    return side


def canvas_of_aspect(long_side: int, aspect: float) -> tuple[int, int]:
    """Return the canvas (height, width) with this long side that is nearest to an aspect of width / height.

    >>> canvas_of_aspect(320, 640 / 480), canvas_of_aspect(320, 480 / 640)
    ((256, 320), (320, 256))
    """
    share = min(aspect, 1 / aspect)
    short_side = max(1, int(check_side(long_side) * share / CANVAS_STEP + 0.5)) * CANVAS_STEP
    return (short_side, long_side) if aspect >= 1 else (long_side, short_side)


def lay_on_canvas(image: ImageArray, canvas_hw: tuple[int, int]) -> tuple["Letterbox", ImageArray]:
    """Return how a picture [H, W, 3] comes onto a canvas, and the canvas [canvas height, canvas width, 3]."""
    letterbox = Letterbox.fit((image.shape[0], image.shape[1]), canvas_hw)
    return letterbox, letterbox.apply(image)


@dataclass(frozen=True)
class Letterbox:
    """Picture pixels → canvas pixels: `canvas = picture * scale + offset`, per axis.

    Attributes:
        image_hw: height and width of the picture.
        canvas_hw: height and width of the canvas.
        inner_hw: height and width of the scaled picture on the canvas, whole pixels.
        offset_xy: left and top edge of the scaled picture on the canvas, whole pixels.
    """

    image_hw: tuple[int, int]
    canvas_hw: tuple[int, int]
    inner_hw: tuple[int, int]
    offset_xy: tuple[int, int]

    @classmethod
    def fit(cls, image_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> "Letterbox":
        """Make the largest centred placement that keeps the aspect (to the rounding of one pixel).

        >>> Letterbox.fit((480, 640), (256, 320)).inner_hw
        (240, 320)
        """
        (h, w), (canvas_h, canvas_w) = image_hw, canvas_hw
        scale = min(canvas_h / h, canvas_w / w)
        inner_h = min(canvas_h, max(1, round(h * scale)))
        inner_w = min(canvas_w, max(1, round(w * scale)))
        return cls(image_hw, canvas_hw, (inner_h, inner_w), ((canvas_w - inner_w) // 2, (canvas_h - inner_h) // 2))

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Canvas pixels per picture pixel along x and y; they differ by the rounding of `inner_hw` only."""
        return self.inner_hw[1] / self.image_hw[1], self.inner_hw[0] / self.image_hw[0]

    def apply(self, image: ImageArray) -> ImageArray:
        """Return the picture [H, W, 3] on its canvas [canvas height, canvas width, 3]."""
        inner_h, inner_w = self.inner_hw
        if (inner_h, inner_w) != image.shape[:2]:
            # AREA averages what a shrunk pixel covers; going up, it would only repeat pixels.
            shrinks = inner_h < image.shape[0]
            mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = cv2.resize(image, (inner_w, inner_h), interpolation=mode).astype(np.uint8, copy=False)
        if self.inner_hw == self.canvas_hw:
            return image
        canvas = np.full((*self.canvas_hw, 3), FILL, dtype=np.uint8)
        left, top = self.offset_xy
        canvas[top : top + inner_h, left : left + inner_w] = image
        return canvas

    def to_canvas(self, boxes: Floats) -> Floats:
        """Map boxes [N, 4] from pixels of the picture to canvas pixels."""
        return boxes * self._scale4 + self._offset4

    def to_image(self, boxes: Floats) -> Floats:
        """Map boxes [N, 4] from canvas pixels to pixels of the picture, clipped to it."""
        return clip((boxes - self._offset4) / self._scale4, self.image_hw)

    @property
    def _scale4(self) -> Floats:
        return np.array(self.scale_xy * 2, dtype=np.float32)

    @property
    def _offset4(self) -> Floats:
        return np.array(self.offset_xy * 2, dtype=np.float32)
