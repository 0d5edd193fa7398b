"""Pictures from and to files: the only place that knows file formats, EXIF turns, 16 bits and alpha.

Inside the package a picture is always RGB, uint8, [H, W, 3], the way up a viewer shows it.
The rules: EXIF orientation is applied; 16-bit grey is divided by 256 (12-bit by 16); transparency is laid on white;
of an animation the first frame is taken; pictures of floats are refused, since their range is unknown.
The content counts, not the ending: a PNG called .jpg is read as a PNG.
"""

import io
import logging
import stat
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
from detector.errors import InputError

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""File endings (lower case) that count as pictures when a folder is searched."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")
"""What is decoded, whatever a file is called. Not all that Pillow can: its EPS reader would start another program."""

_ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats whose further frames are worth a word; those in a camera's JPEG are previews of the first."""

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
"""Orientation → what turns the picture upright; from 5 on it lies on its side. Source: EXIF 2.32, tag 0x0112."""

_TIFF_BITS = 258
_MORE_PIXELS = "make it smaller, or allow more with --max-pixels"


def set_max_pixels(limit: int) -> None:
    """Let pictures of up to `limit` pixels be decoded, in this process; as it stands, some 89 million.

    Raises:
        InputError: `limit` is below 1.
    """
    if limit < 1:
        raise InputError(f"max_pixels: must be at least 1, got {limit}")
    Image.MAX_IMAGE_PIXELS = limit


def get_max_pixels() -> int | None:
    """Return the size of the largest picture that is decoded in this process; None where any is."""
    return Image.MAX_IMAGE_PIXELS


def read_image(source: Path | str | bytes, name: str | None = None) -> ImageArray:
    """Decode one picture.

    Args:
        source: a path, or the bytes of a picture file.
        name: what messages call it; None: its path.

    Returns:
        [H, W, 3] RGB.

    Raises:
        InputError: the file is missing, is no picture, is cut off or too large to be sane.
    """
    name = name or _name_of(source)
    with _open(source, name) as file:
        if file.format in _ANIMATED and getattr(file, "is_animated", False):
            _say_animated(name)
        return to_rgb(file)


def read_image_size(path: Path | str) -> tuple[int, int]:
    """Return (height, width) as a viewer shows the picture, from the file's head alone where the format allows.

    Raises:
        InputError: as `read`, but for damage behind the head.
    """
    with _open(path) as file:
        width, height = file.size
        if file.format == "TIFF":  # whether `size` is turned already depends on Pillow's version
            height, width = to_rgb(file).shape[:2]
            return height, width
        # Asking a PNG for EXIF data that its head does not have decodes all of it.
        has_exif = file.format != "PNG" or any("exif" in str(key) or "xmp" in str(key) for key in file.info)
        turned = has_exif and _orientation(file) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def read_thumbnail(path: Path | str, side: int) -> ImageArray:
    """Decode a picture as a square [side, side, 3] RGB, its aspect lost; quick for a large JPEG.

    Raises:
        InputError: as `read`.
    """
    with _open(path) as file:
        # A JPEG decodes at a half, a quarter or an eighth as fast; twice the side is left, so that pixels weigh alike.
        file.draft(None, (2 * side, 2 * side))
        return np.array(Image.fromarray(to_rgb(file)).resize((side, side), Image.Resampling.BOX))


def to_rgb(image: Image.Image) -> ImageArray:
    """Convert an opened PIL picture of any mode to RGB [H, W, 3] by this module's rules.

    Raises:
        InputError: a picture of floats or of 32-bit integers, or of a mode without a way to RGB.
    """
    image.load()
    bits = image.tag_v2.get(_TIFF_BITS, (16,)) if isinstance(image, TiffImageFile) else (16,)
    clear = image.info.get("transparency")
    if (turn := _UPRIGHT.get(_orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        grey = (deep >> (4 if bits == (12,) else 8)).astype(np.uint8)
        if isinstance(clear, int):
            grey[deep == clear] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("F", "I"):
        raise InputError(f"a picture of mode {image.mode} has no known range: save it with 8 or 16 bits")
    try:
        if image.mode in ("LA", "PA", "RGBA", "RGBa") or clear is not None:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise InputError(f"a picture of mode {image.mode} cannot be turned into RGB: save it as RGB") from None


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation; 1, as it stands, where there is none that can be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged in any way; a viewer shows the picture all the same
        return 1
    return value if isinstance(value, int) else 1


@lru_cache(maxsize=4096)
def _say_animated(name: str) -> None:
    """Say, once in a process, that of this picture the first frame is taken."""
    _LOG.warning("%s: has several frames; the first is taken", name)


def _name_of(source: Path | str | bytes) -> str:
    return "<bytes>" if isinstance(source, bytes) else str(source)


def _content(source: Path | str | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(Path(source).stat().st_mode):
        raise InputError("not a file with content of its own")  # a folder; a pipe, which would wait for ever
    return Path(source).open("rb")


@contextmanager
def _open(source: Path | str | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """Open a picture; whatever goes wrong with it, then or while it is used, is an InputError that names it."""
    name = name or _name_of(source)
    try:
        # Pillow never gets the path itself: it would map the file to memory, and garble a turned TIFF in doing so.
        with _content(source) as content:
            if not content.read(1):
                raise InputError("is empty")
            content.seek(0)
            with Image.open(content, formats=_FORMATS) as file:
                _check_pixels(file)
                yield file
    except FileNotFoundError:
        raise InputError(f"{name}: no such picture") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: too large a picture ({error}): {_MORE_PIXELS}") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a picture in a format that can be read ({', '.join(_FORMATS)})") from None
    except Exception as error:  # a decoder may trip over damage in any way
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name}: cannot be read ({error.strerror})") from None
        raise InputError(f"{name}: the picture does not decode ({error or type(error).__name__})") from None


def _check_pixels(file: Image.Image) -> None:
    # Pillow only warns up to twice its limit; one clear limit is better than two.
    limit = Image.MAX_IMAGE_PIXELS
    if limit and file.width * file.height > limit:
        raise InputError(f"too large a picture ({file.width} x {file.height}, at most {limit} pixels): {_MORE_PIXELS}")


def check_array(image: npt.NDArray[Any]) -> ImageArray:
    """Return `image` if it is an RGB uint8 array [H, W, 3] with at least one pixel.

    Raises:
        InputError: any other shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"expected an RGB picture as uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image


def write_image(path: Path, image: ImageArray) -> None:
    """Write RGB [H, W, 3] to `path`; its ending chooses the format."""
    options: dict[str, Any] = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(image).save(path, **options)


def find_images(folder: Path) -> list[Path]:
    """Return the pictures directly in `folder`, sorted by name; a link to nowhere too, for its reader to complain of.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from None
