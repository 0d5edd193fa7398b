"""Pictures from and to files: the only place that knows file formats, EXIF turns, 16 bits and alpha.

Inside the package a picture is always RGB, uint8, [H, W, 3], the way up a viewer shows it.
The rules: EXIF orientation is applied; 16-bit grey is divided by 256; transparency is laid on white;
of an animation the first frame is taken; pictures of floats are refused, since their range is unknown.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from detector.errors import InputError

Pixels = npt.NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""File endings (lower case) that count as pictures when a folder is searched."""

_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""Orientations that lay a picture on its side. Source: EXIF 2.32, tag 0x0112."""


def read(source: Path | str | bytes) -> Pixels:
    """Decode one picture.

    Args:
        source: a path, or the bytes of a picture file.

    Returns:
        [H, W, 3] RGB.

    Raises:
        InputError: the file is missing, is no picture, is cut off or too large to be sane.
    """
    with (
        _naming("<bytes>" if isinstance(source, bytes) else str(source)),
        Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file,
    ):
        _check_pixels(file)
        return to_rgb(file)


def read_size(path: Path | str) -> tuple[int, int]:
    """Return (height, width) as a viewer shows the picture, from the file's head alone where the format allows.

    Raises:
        InputError: as `read`, but for damage behind the head.
    """
    with _naming(str(path)), Image.open(path) as file:
        _check_pixels(file)
        width, height = file.size
        if file.format == "TIFF":  # whether `size` is turned already depends on Pillow's version
            height, width = to_rgb(file).shape[:2]
            return height, width
        # Asking a PNG for EXIF data that its head does not have decodes all of it.
        has_exif = file.format != "PNG" or any("exif" in str(key) or "xmp" in str(key) for key in file.info)
        turned = has_exif and file.getexif().get(_EXIF_ORIENTATION) in _TURNED
    return (width, height) if turned else (height, width)


def read_thumbnail(path: Path | str, side: int) -> Pixels:
    """Decode a picture as a square [side, side, 3] RGB, its aspect lost; quick for a large JPEG.

    Raises:
        InputError: as `read`.
    """
    with _naming(str(path)), Image.open(path) as file:
        _check_pixels(file)
        # A JPEG decodes at a half, a quarter or an eighth as fast; twice the side is left, so that pixels weigh alike.
        file.draft(None, (2 * side, 2 * side))
        return np.array(Image.fromarray(to_rgb(file)).resize((side, side), Image.Resampling.BOX))


def to_rgb(image: Image.Image) -> Pixels:
    """Convert an opened PIL picture of any mode to RGB [H, W, 3] by this module's rules.

    Raises:
        InputError: a picture of floats or of 32-bit integers.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("F", "I"):
        raise InputError(f"a picture of mode {image.mode} has no known range: save it with 8 or 16 bits")
    if "A" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn what can go wrong while a picture is opened into an InputError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: no such picture") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: too large a picture ({error})") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a picture in a format that can be read") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{name}: the picture does not decode ({error})") from None


def _check_pixels(file: Image.Image) -> None:
    # Pillow only warns up to twice its limit; one clear limit is better than two.
    limit = Image.MAX_IMAGE_PIXELS
    if limit and file.width * file.height > limit:
        raise InputError(f"too large a picture ({file.width} x {file.height}, at most {limit} pixels)")


def check_array(image: npt.NDArray[Any]) -> Pixels:
    """Return `image` if it is an RGB uint8 array [H, W, 3] with at least one pixel.

    Raises:
        InputError: any other shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"expected an RGB picture as uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image


def write(path: Path, image: Pixels) -> None:
    """Write RGB [H, W, 3] to `path`; its ending chooses the format."""
    options: dict[str, Any] = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(image).save(path, **options)


def find(folder: Path) -> list[Path]:
    """Return the pictures directly in `folder`, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
