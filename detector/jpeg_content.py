"""Images kept in memory as the content of their JPEG files: a tenth to a twentieth of the memory of their pixels."""

from pathlib import Path

import cv2
import numpy as np

from detector.arrays import ImageArray
from detector.mirror import read_file

SMALL_IMAGES_BYTES = 32_000_000
"""Small JPEG images are kept decoded only up to this number of bytes in total. Of the others, the content of the file
is kept, and decoded at each use in less than a millisecond."""


class SmallImages:
    """Chooses what to keep in memory of each image of a split, in order."""

    def __init__(self) -> None:
        self._bytes = 0

    def keep(self, pixels: ImageArray, jpeg: bytes | None) -> ImageArray | bytes:
        """Return what to keep of the next image: its pixels, or the content of its file.

        Args:
            pixels: the image as it is used.
            jpeg: the result of `small_jpeg` for the image that was read.
        """
        if jpeg is None:
            return pixels
        self._bytes += pixels.nbytes
        return pixels if self._bytes <= SMALL_IMAGES_BYTES else jpeg


def small_jpeg(path: Path, image: ImageArray, scaled_hw: tuple[int, int]) -> bytes | None:
    """Return the content of the file of an image if `decode_jpeg` makes exactly this image of it; else None.

    Returns None for images that are larger than their letterboxed size, which are slower to decode.

    Args:
        path: the file.
        image: [H, W, 3] RGB the image that was read from the file.
        scaled_hw: height and width of the image in the network input.
    """
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if not is_jpeg or image.shape[0] > scaled_hw[0] or image.shape[1] > scaled_hw[1]:
        return None
    try:
        content = read_file(path)
    except OSError:  # the image is rendered, not read from this file
        return None
    decoded = _decode(content)
    return None if decoded is None or not np.array_equal(decoded, image) else content


def decode_jpeg(content: bytes) -> ImageArray:
    """Return the image [H, W, 3] RGB in a content that `small_jpeg` returned."""
    image = _decode(content)
    assert image is not None  # `small_jpeg` has decoded the same bytes
    return image


def _decode(content: bytes) -> ImageArray | None:
    """Return the image [H, W, 3] RGB in the content of a file; None if OpenCV cannot decode it.

    OpenCV is twice as fast as `images.read_image`, but has other rules for damaged and unusual files.
    """
    if not content:  # OpenCV raises an error of its own
        return None
    image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
