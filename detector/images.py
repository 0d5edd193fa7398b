"""Reading and writing image files: the only module that knows file formats, EXIF orientation, 16 bits and alpha.

Inside the package an image is always RGB, uint8, [H, W, 3], oriented the way a viewer shows it.
The rules: EXIF orientation is applied; 16-bit gray is divided by 256 (12-bit by 16); transparency is composited on
white; of an animation the first frame is used; floating-point images are refused, since their range is unknown.
The format is detected from the content: a PNG named .jpg is read as a PNG.
"""

import io
import logging
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from detector.arrays import ImageArray
from detector.errors import FileError, ImageError, ImageTooLargeError, InputError
from detector.options import MAX_PIXELS

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""File suffixes (lower case) that count as images when a folder is searched."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")
"""Formats that are decoded, whatever the file name. Not all of Pillow's: its EPS reader starts another program."""

_ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats that get a warning when they have more frames; those in a JPEG of a camera are previews of the first."""

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation → the transpose that makes the image upright; from 5 on it is rotated by 90 degrees.

Source: EXIF 2.32, tag 0x0112.
"""

_TIFF_BITS = 258
_PILLOW_LOCK = threading.Lock()
_MORE_PIXELS = "shrink the image, or allow more pixels with --max-pixels"


def read_image(source: Path | str | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Decode an image file.

    Args:
        source: a path, or the bytes of an image file.
        name: name of the image in error messages; None: its path.
        max_pixels: pixels of the largest image that is decoded.

    Returns:
        [H, W, 3] RGB.

    Raises:
        FileError: the file is missing or cannot be read.
        ImageTooLargeError: the image has more than `max_pixels` pixels.
        ImageError: not an image, truncated, or of an unsupported mode.
    """
    name = name or _name_of(source)
    with _open(source, max_pixels, name) as file:
        if file.format in _ANIMATED and getattr(file, "is_animated", False):
            _warn_animated(name)
        return to_rgb(file)


def read_image_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) of an image as a viewer shows it, reading only the file header where the format allows.

    Raises:
        InputError: as `read_image`, except for damage after the header.
    """
    with _open(path, max_pixels) as file:
        width, height = file.size
        if file.format == "TIFF":  # whether `size` is already oriented depends on Pillow's version
            height, width = to_rgb(file).shape[:2]
            return height, width
        # Asking a PNG for EXIF data that its header does not have decodes all of it.
        has_exif = file.format != "PNG" or any("exif" in str(key) or "xmp" in str(key) for key in file.info)
        rotated = has_exif and _orientation(file) in (5, 6, 7, 8)
    return (width, height) if rotated else (height, width)


def read_thumbnail(path: Path | str, side: int, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Decode an image as a square thumbnail [side, side, 3] RGB, not keeping the aspect; fast for a large JPEG.

    Raises:
        InputError: as `read_image`.
    """
    with _open(path, max_pixels) as file:
        # A JPEG decodes faster at 1/2, 1/4 or 1/8 scale; twice the side is kept, so that all pixels have equal weight.
        file.draft(None, (2 * side, 2 * side))
        return np.array(Image.fromarray(to_rgb(file)).resize((side, side), Image.Resampling.BOX))


def to_rgb(image: Image.Image) -> ImageArray:
    """Convert a PIL image of any mode to RGB [H, W, 3] by the rules of this module.

    Raises:
        ImageError: an image of floats or of 32-bit integers, or of a mode that cannot be converted to RGB.
    """
    image.load()
    bits = image.tag_v2.get(_TIFF_BITS, (16,)) if isinstance(image, TiffImageFile) else (16,)
    transparent = image.info.get("transparency")
    if (transpose := _UPRIGHT.get(_orientation(image))) is not None:
        image = image.transpose(transpose)
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        gray = (deep >> (4 if bits == (12,) else 8)).astype(np.uint8)
        if isinstance(transparent, int):
            gray[deep == transparent] = 255
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("F", "I"):
        raise ImageError(f"the value range of images of mode {image.mode} is unknown: save it with 8 or 16 bits")
    try:
        if image.mode in ("LA", "PA", "RGBA", "RGBa") or transparent is not None:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise ImageError(f"an image of mode {image.mode} cannot be converted to RGB: save it as RGB") from None


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation; 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged in any way; a viewer shows the image anyway
        return 1
    return value if isinstance(value, int) else 1


@lru_cache(maxsize=4096)
def _warn_animated(name: str) -> None:
    """Warn, once per process and image, that only the first frame is used."""
    _LOG.warning("%s: has several frames; only the first is used", name)


def _name_of(source: Path | str | bytes) -> str:
    return "<bytes>" if isinstance(source, bytes) else str(source)


def _content(source: Path | str | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(Path(source).stat().st_mode):
        raise FileError("not a regular file")  # a folder; a pipe, which would block
    return Path(source).open("rb")


@contextmanager
def _open(source: Path | str | bytes, max_pixels: int, name: str | None = None) -> Iterator[Image.Image]:
    """Open an image; errors while opening and while using it become an InputError that names it."""
    name = name or _name_of(source)
    try:
        # Pillow is not given the path: it would memory-map the file and corrupt a rotated TIFF.
        with _content(source) as content:
            if not content.read(1):
                raise ImageError("the file is empty")
            content.seek(0)
            with _pillow_limit(max_pixels):
                file = Image.open(content, formats=_FORMATS)
            with file:
                _check_pixels(file, max_pixels)
                yield file
    except FileNotFoundError:
        raise FileError(f"{name}: no such image") from None
    except InputError as error:
        raise type(error)(f"{name}: {error}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageTooLargeError(f"{name}: the image is too large ({error}): {_MORE_PIXELS}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in a supported format ({', '.join(_FORMATS)})") from None
    except Exception as error:  # decoders raise many kinds of errors on damaged data
        if isinstance(error, OSError) and error.strerror:
            raise FileError(f"{name}: cannot be read ({error.strerror})") from None
        raise ImageError(f"{name}: the image cannot be decoded ({error or type(error).__name__})") from None


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Raise Pillow's own limit, which is global to the process, while an image that may exceed it is opened."""
    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _PILLOW_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_pixels(file: Image.Image, max_pixels: int) -> None:
    if file.width * file.height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {file.width} x {file.height} pixels, more than {max_pixels}: {_MORE_PIXELS}"
        )


def check_array(image: npt.NDArray[Any]) -> ImageArray:
    """Return `image` if it is an RGB uint8 array [H, W, 3] with at least one pixel.

    Raises:
        ImageError: any other shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"expected an RGB image as uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image


def write_image(path: Path, image: ImageArray) -> None:
    """Write an RGB image [H, W, 3]; the suffix of `path` selects the format."""
    options: dict[str, Any] = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(image).save(path, **options)


def find_images(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name; broken links too, so that reading them fails.

    Raises:
        FileError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())
    except OSError as error:
        raise FileError(f"{folder}: the folder cannot be read ({error.strerror})") from None
