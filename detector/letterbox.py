"""Letterbox: scale an image to fit the network input, center it and pad it with gray; map boxes in both directions.

One object maps in both directions, so that the two directions cannot disagree.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from detector.arrays import Floats, ImageArray
from detector.boxes import clip
from detector.errors import ConfigError

SIZE_DIVISOR = 32
"""Height and width of the network input are multiples of this number of pixels, the largest stride."""

LARGEST_SIDE = 16384
"""Largest height or width of the network input in pixels."""

FILL = 114
"""Gray level of the padding, 0..255: near the mean of natural images, and used by most detectors."""


def check_side(side: int) -> int:
    """Return `side` if it is a positive multiple of 32 up to `LARGEST_SIDE`, else raise ConfigError.

    Raises:
        ConfigError: the message names the nearest multiples of 32, or the largest side.
    """
    if side > LARGEST_SIDE:
        raise ConfigError(f"input_size: expected at most {LARGEST_SIDE}, got {side!s:.20}")
    if side < SIZE_DIVISOR or side % SIZE_DIVISOR:
        below = max(1, side // SIZE_DIVISOR) * SIZE_DIVISOR
        raise ConfigError(
            f"input_size: {side} is not a multiple of {SIZE_DIVISOR}; use {below} or {below + SIZE_DIVISOR}"
        )
    return side


def input_hw_for_aspect(long_side: int, aspect: float) -> tuple[int, int]:
    """Return the input size (height, width) with a given long side and the aspect ratio nearest to `aspect`.

    Args:
        long_side: long side of the input in pixels, a multiple of 32.
        aspect: width / height of the images.

    Raises:
        ConfigError: the long side is not a positive multiple of 32, or is too large.

    >>> input_hw_for_aspect(320, 640 / 480), input_hw_for_aspect(320, 480 / 640)
    ((256, 320), (320, 256))
    """
    ratio = min(aspect, 1 / aspect)
    short_side = max(1, int(check_side(long_side) * ratio / SIZE_DIVISOR + 0.5)) * SIZE_DIVISOR
    return (short_side, long_side) if aspect >= 1 else (long_side, short_side)


def letterbox_image(image: ImageArray, input_hw: tuple[int, int]) -> tuple["Letterbox", ImageArray]:
    """Letterbox an image [H, W, 3]; return the letterbox and the letterboxed image [input height, input width, 3]."""
    letterbox = Letterbox.fit((image.shape[0], image.shape[1]), input_hw)
    return letterbox, letterbox.apply(image)


@dataclass(frozen=True)
class Letterbox:
    """Placement of an image in the network input. Per axis: `input_pixel = image_pixel * scale + offset`.

    Attributes:
        image_hw: height and width of the image.
        input_hw: height and width of the network input.
        scaled_hw: height and width of the scaled image inside the input, in whole pixels.
        offset_xy: left and top edge of the scaled image inside the input, in whole pixels.
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scaled_hw: tuple[int, int]
    offset_xy: tuple[int, int]

    @classmethod
    def fit(cls, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> "Letterbox":
        """Return the letterbox that shows the whole image as large as possible in the center of the input.

        The aspect ratio of the image is kept, except for rounding to whole pixels.

        >>> Letterbox.fit((480, 640), (256, 320)).scaled_hw
        (240, 320)
        """
        (h, w), (input_h, input_w) = image_hw, input_hw
        scale = min(input_h / h, input_w / w)
        scaled_h = min(input_h, max(1, round(h * scale)))
        scaled_w = min(input_w, max(1, round(w * scale)))
        return cls(image_hw, input_hw, (scaled_h, scaled_w), ((input_w - scaled_w) // 2, (input_h - scaled_h) // 2))

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels per image pixel, along x and along y. The two differ only because `scaled_hw` is rounded."""
        return self.scaled_hw[1] / self.image_hw[1], self.scaled_hw[0] / self.image_hw[0]

    def apply(self, image: ImageArray) -> ImageArray:
        """Scale and pad an image [H, W, 3], and return the letterboxed image [input height, input width, 3]."""
        scaled_h, scaled_w = self.scaled_hw
        if (scaled_h, scaled_w) != image.shape[:2]:
            # INTER_AREA averages the pixels that one output pixel covers; used for enlarging, it would repeat pixels.
            shrinks = scaled_h < image.shape[0]
            mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = cv2.resize(image, (scaled_w, scaled_h), interpolation=mode).astype(np.uint8, copy=False)
        if self.scaled_hw == self.input_hw:
            return image
        padded = np.full((*self.input_hw, 3), FILL, dtype=np.uint8)
        left, top = self.offset_xy
        padded[top : top + scaled_h, left : left + scaled_w] = image
        return padded

    def to_input(self, boxes: Floats) -> Floats:
        """Map boxes [N, 4] from image pixels to input pixels; return the mapped boxes [N, 4]."""
        return boxes * self._scale4 + self._offset4

    def to_image(self, boxes: Floats) -> Floats:
        """Map boxes [N, 4] from input pixels to image pixels; return the mapped boxes [N, 4], clipped to the image."""
        return clip((boxes - self._offset4) / self._scale4, self.image_hw)

    @property
    def _scale4(self) -> Floats:
        return np.array(self.scale_xy * 2, dtype=np.float32)

    @property
    def _offset4(self) -> Floats:
        return np.array(self.offset_xy * 2, dtype=np.float32)
