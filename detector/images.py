"""Read and write image files. Only this module handles file formats, EXIF orientation, 16 bits and transparency.

Inside the package, an image is always RGB, uint8, [H, W, 3], in the orientation in which an image viewer shows it.
The rules: EXIF orientation is applied; 16-bit gray is divided by 256 (12-bit by 16); transparent images are composited
on white; only the first frame of an animation is used; a JPEG file that lacks its last bytes is read if
at least 80 % of its rows are there, the rest is gray; a JPEG file with more than 100 scans is an error, because it
would take minutes; images of floating-point numbers are errors, because the range of their values is unknown. The
format is detected from the content: a PNG file named .jpg is read as a PNG. HEIC and AVIF are read where
`optional_formats` finds what they need.
"""

import io
import logging
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from detector.arrays import ImageArray
from detector.errors import FileError, ImageError, ImageTooLargeError, InputError, StorageError
from detector.files import local_path
from detector.image_files import ImageFile, path_or_bytes
from detector.jpeg_scans import MAX_SCANS, count_scans
from detector.mirror import is_at_url, open_file, read_file
from detector.optional_formats import (
    AVIF_SUFFIXES,
    HEAD_BYTES,
    HEIC_HINT,
    HEIC_SUFFIXES,
    optional_format,
    optional_suffixes,
)
from detector.options import MAX_PIXELS
from detector.truncated_jpeg import LARGEST_MISSING_FRACTION, close_jpeg, missing_rows

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
        *optional_suffixes(),
    }
)
"""File suffixes (lower case) that count as images when a folder is searched. Each belongs to a decoded format."""

UNREAD_SUFFIXES = (
    frozenset({".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw", ".psd"}) | HEIC_SUFFIXES | AVIF_SUFFIXES
) - IMAGE_SUFFIXES
"""File suffixes (lower case) of images in formats that are not decoded."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")
"""Formats that are decoded, independent of the file name, besides those of `optional_formats`. Pillow reads more, but
EPS files start another program."""

_ANIMATED = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
"""Formats for which several frames cause a warning. In a JPEG of a camera, the other frames are previews."""

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
"""EXIF orientation → the transpose that makes the image upright. From 5 on, width and height are exchanged.

Source: EXIF 2.32, tag 0x0112.
"""

_FEW_LEVELS = 64
"""A 16-bit image with at most this many of 256 gray levels uses at most a quarter of its range."""

_truncated: dict[str, bool] = {}
"""Path of each file that `read_image` found truncated. Several threads read images, so this is a dictionary whose
single operations are atomic."""

_LONGEST_PATH = 1000
"""Largest number of characters of a path that a message contains completely."""

_APPLE_DOUBLE = b"\0\5\x16\7"
"""First bytes of an AppleDouble file. Source: RFC 1740, appendix B."""

_TIFF_BITS = 258
_PILLOW_LOCK = threading.Lock()
_warned_few_levels = threading.Event()
_MORE_PIXELS = "shrink the image, or allow more pixels with --max-pixels"


def read_image(
    source: ImageFile, *, name: str | None = None, max_pixels: int = MAX_PIXELS, accept_truncated: bool = False
) -> ImageArray:
    """Decode an image file and return an RGB array [H, W, 3].

    Args:
        source: a path, the bytes of an image file, or an open binary file.
        name: name of the image in error messages; None: the path.
        max_pixels: largest number of pixels of an image that is decoded.
        accept_truncated: whether bytes of a JPEG file that lacks its end are accepted, as they always are from a path.

    Raises:
        FileError: the file is missing or cannot be read.
        ImageTooLargeError: the image has more than `max_pixels` pixels.
        ImageError: the file is not an image in a supported format, is damaged, or has an unsupported mode.
    """
    source, file_name = path_or_bytes(source)
    name = name or file_name or _name_of(source)
    try:
        with _open(source, max_pixels, name) as file:
            if file.format in _ANIMATED and getattr(file, "is_animated", False):
                _warn_animated(name)
            image = to_rgb(file, name)
    except ImageError as error:
        if isinstance(source, bytes) and not accept_truncated:  # whoever sent it can send it again
            raise
        return _read_truncated(source, name, max_pixels, error)
    if _truncated and not isinstance(source, bytes):  # the file may have been repaired
        _truncated.pop(str(source), None)
    return image


def read_reduced(
    path: Path | str, min_hw: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> tuple[ImageArray, tuple[int, int]]:
    """Decode an image file for a reduction to at least `min_hw`; return the image [h, w, 3] RGB and its full size.

    A JPEG is decoded at 1/8, 1/4 or 1/2 of its size, if this is a whole number of pixels and not smaller than `min_hw`:
    each pixel is then about the mean of a square of pixels. That is up to 14 times as fast. All other images are
    decoded as by `read_image`.

    Args:
        path: the file.
        min_hw: smallest height and width of the decoded image, in the orientation in which it is returned.
        max_pixels: as for `read_image`.

    Returns:
        The image, and the height and width of the whole image, of which it shows all.

    Raises:
        InputError: as for `read_image`.
    """
    try:
        with _open(path, max_pixels) as file:
            width, height = file.size
            is_rotated = _orientation(file) in (5, 6, 7, 8)
            min_height, min_width = reversed(min_hw) if is_rotated else min_hw
            for scale in (8, 4, 2) if file.format == "JPEG" else ():
                small = (width // scale, height // scale)
                if width % scale == height % scale == 0 and small[0] >= min_width and small[1] >= min_height:
                    file.draft(None, small)
                    image = to_rgb(file, str(path))
                    _truncated.pop(str(path), None)  # as in `read_image`
                    return image, (width, height) if is_rotated else (height, width)
    except ImageError:
        pass  # `read_image` also reads truncated files
    image = read_image(path, max_pixels=max_pixels)
    return image, (image.shape[0], image.shape[1])


def is_truncated(path: Path | str) -> bool:
    """Return True if the file at `path` lacked its last bytes when `read_image` read it last in this process."""
    return str(path) in _truncated


def _read_truncated(source: Path | str | bytes, name: str, max_pixels: int, error: ImageError) -> ImageArray:
    """Decode a JPEG file that lacks its last bytes; the missing part is gray. Log a warning that names the file.

    Args:
        source: the image, as for `read_image`.
        name: name of the image in messages.
        max_pixels: as for `read_image`.
        error: the error that is raised if the file is not a truncated JPEG, or if too much is missing.
    """
    if isinstance(error, ImageTooLargeError):
        raise error
    try:
        if (data := close_jpeg(source if isinstance(source, bytes) else read_file(source))) is None:
            raise error
        with _open(data, max_pixels, name) as file:
            image = to_rgb(file)
            if file.mode not in ("L", "RGB"):
                raise error
            rows = missing_rows(np.asarray(file))
            if rows > LARGEST_MISSING_FRACTION * file.height:
                raise error
            part = f"the last {rows} of {file.height} rows of pixels are gray" if rows else "less than a row is damaged"
    except (OSError, ValueError):  # ValueError: also an InputError, or a path with a null character
        raise error from None
    if not isinstance(source, bytes):
        _truncated[str(source)] = True
    _warn_truncated(name, part)
    return image


def read_image_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) of an image after its EXIF orientation is applied.

    Only the file header is read, except for TIFF, which is decoded completely.

    Raises:
        InputError: the image cannot be read. Damage after the file header is not detected.
    """
    with _open(path, max_pixels) as file:
        width, height = file.size
        if file.format == "TIFF":  # whether the orientation is applied to `size` depends on Pillow's version
            height, width = to_rgb(file, str(path)).shape[:2]
            return height, width
        # If the header of a PNG has no EXIF data, `getexif` decodes the whole file to search for it.
        has_exif = file.format != "PNG" or any("exif" in str(key) or "xmp" in str(key) for key in file.info)
        rotated = has_exif and _orientation(file) in (5, 6, 7, 8)
    return (width, height) if rotated else (height, width)


def read_stored_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], int]:
    """Return (height, width) of an image as it is stored, and its EXIF orientation, 1 to 8.

    For TIFF, the orientation may already be applied, depending on the version of Pillow; it is then 1.

    Raises:
        InputError: the image cannot be read.
    """
    with _open(path, max_pixels) as file:
        return (file.height, file.width), _orientation(file)


def read_thumbnail(path: Path | str, side: int, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Decode an image and return a thumbnail [side, side, 3] RGB, stretched to a square. Fast for large JPEG files.

    Raises:
        InputError: the image cannot be read.
    """
    try:
        return _read_thumbnail(path, side, max_pixels)
    except ImageError:  # `read_image` also reads truncated files
        image = Image.fromarray(read_image(path, max_pixels=max_pixels))
        return np.array(image.resize((side, side), Image.Resampling.BOX))


def _read_thumbnail(path: Path | str, side: int, max_pixels: int) -> ImageArray:
    with _open(path, max_pixels) as file:
        # A JPEG is decoded faster at 1/2, 1/4 or 1/8 scale: at least twice `side`, so that all pixels count equally.
        file.draft(None, (2 * side, 2 * side))
        return np.array(Image.fromarray(to_rgb(file, str(path))).resize((side, side), Image.Resampling.BOX))


def to_rgb(image: Image.Image, name: str = "an image") -> ImageArray:
    """Convert a PIL image of any mode to RGB, by the rules of this module, and return the array [H, W, 3].

    The first 16-bit image of a process that uses less than a quarter of its range causes a warning.

    Args:
        image: the image.
        name: name of the image in the warning.

    Raises:
        ImageError: the image is damaged, has too many scans, consists of floats or 32-bit integers, or cannot be
            converted to RGB.
        FileError: the image is read from its file only now, and the file cannot be read.
    """
    try:
        _check_scans(image)
        image.load()  # `Image.open` reads only the header: damage is detected here
    except InputError:
        raise
    except Exception as error:  # decoders raise many types of errors on damaged data
        raise _read_error(error) from None
    bits = image.tag_v2.get(_TIFF_BITS, (16,)) if isinstance(image, TiffImageFile) else (16,)
    transparent = image.info.get("transparency")
    if (transpose := _UPRIGHT.get(_orientation(image))) is not None:
        image = image.transpose(transpose)
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        gray = (deep >> (4 if bits == (12,) else 8)).astype(np.uint8)
        if bits != (12,) and (levels := int(gray.max(initial=0)) + 1) <= _FEW_LEVELS:
            _warn_few_levels(levels, name)
        if isinstance(transparent, int):
            gray[deep == transparent] = 255
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("F", "I"):
        raise ImageError(f"the value range of images of mode {image.mode} is unknown: save the image with 8 or 16 bits")
    try:
        if image.mode in ("LA", "PA", "RGBA", "RGBa") or transparent is not None:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise ImageError(f"an image of mode {image.mode} cannot be converted to RGB: save the image as RGB") from None


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation of an image; 1 (upright) if it is missing or cannot be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF data causes many types of errors; an image viewer ignores them
        return 1
    return value if isinstance(value, int) else 1


def _warn_few_levels(levels: int, name: str) -> None:
    """Log a warning that a 16-bit image is nearly black after the division by 256, once per process."""
    if _warned_few_levels.is_set():
        return
    _warned_few_levels.set()
    _LOG.warning(
        "%s: this 16-bit image uses only the lowest %d of 256 gray levels after the division by 256, so it is nearly "
        "black for the network; if its values have 10 to 14 bits, scale them to the full range of 16 bits first "
        "(12-bit values times 16), for training and for detection. Other such images are not reported",
        name,
        levels,
    )


@lru_cache(maxsize=4096)
def _warn_truncated(name: str, part: str) -> None:
    """Log a warning that the last bytes of an image file are missing, once per process and image."""
    _LOG.warning("%s: the file lacks its last bytes; it is read all the same, but %s", name, part)


@lru_cache(maxsize=4096)
def _warn_animated(name: str) -> None:
    """Log a warning that only the first frame of an image is used, once per process and image."""
    _LOG.warning("%s: has several frames; only the first is used", name)


def _name_of(source: Path | str | bytes) -> str:
    """Return the name of an image in messages; a text that is too long to be a path loses its middle."""
    name = "<bytes>" if isinstance(source, bytes) else str(source)
    return name if len(name) <= _LONGEST_PATH else f"{name[:100]}...{name[-100:]}"


def _content(source: Path | str | bytes) -> IO[bytes]:
    """Open an image file and return the binary file object; raise FileError if it is not a regular file."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(local_path(source).stat().st_mode):
        raise FileError("not a regular file")  # a folder, or a pipe, which would block
    return open_file(source)


@contextmanager
def _open(source: Path | str | bytes, max_pixels: int, name: str | None = None) -> Iterator[Image.Image]:
    """Context manager that opens an image. All errors, also inside the context, become an InputError with its name."""
    name = name or _name_of(source)
    try:
        # Pillow gets the open file, not the path: with a path it would memory-map the file and corrupt a rotated TIFF.
        with _content(source) as content:
            if not (head := content.read(HEAD_BYTES)):
                raise ImageError("the file is empty")
            content.seek(0)
            other = optional_format(head)
            with _pillow_limit(max_pixels):
                file = Image.open(content, formats=_FORMATS if other is None else [other])
            with file:
                _check_pixels(file, max_pixels)
                yield file
    except FileNotFoundError:
        raise FileError(f"{name}: no such image") from None
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ")
        raise type(error)(f"{name}: {reason}") from None
    except StorageError:
        raise
    except Exception as error:  # decoders raise many types of errors on damaged data
        input_error = _read_error(error)
        raise type(input_error)(f"{name}: {input_error}") from None


def _read_error(error: Exception) -> InputError:
    """Return the InputError for an error that Pillow raised while opening or decoding an image."""
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return ImageTooLargeError(f"the image is too large ({error}): {_MORE_PIXELS}")
    if isinstance(error, UnidentifiedImageError):
        return ImageError(f"not an image in a supported format ({', '.join(_FORMATS)})")
    if isinstance(error, OSError) and error.strerror:
        return FileError(f"cannot be read ({error.strerror})")
    return ImageError(f"the image cannot be decoded ({error or type(error).__name__})")


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Context manager that raises Pillow's pixel limit to `max_pixels`. The limit is global to the process."""
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
    """Raise ImageTooLargeError if an image has more than `max_pixels` pixels."""
    if file.width * file.height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {file.width} x {file.height} pixels, more than {max_pixels}: {_MORE_PIXELS}"
        )


def _check_scans(image: Image.Image) -> None:
    """Raise ImageError if an image is a JPEG file that is not decoded yet and has too many scans."""
    if not isinstance(image, JpegImageFile) or not image.tile or image.fp is None:
        return
    position = image.fp.tell()
    image.fp.seek(0)
    scans = count_scans(image.fp.read())
    image.fp.seek(position)
    if scans > MAX_SCANS:
        raise ImageError(
            f"the JPEG file has more than {MAX_SCANS} scans, and each takes as long as a whole image; image programs "
            "write about 10, so the file is damaged or made to waste time: save the image again"
        )


def check_array(image: npt.NDArray[Any]) -> ImageArray:
    """Return `image` if it is an RGB uint8 array [H, W, 3] with at least one pixel, else raise ImageError."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"expected an RGB image as uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image


def write_image(path: str | Path, image: ImageArray) -> None:
    """Write an image to a file.

    Args:
        path: the file; its suffix determines the format.
        image: [H, W, 3] RGB uint8.

    Raises:
        ImageError: not an RGB image, or no format has this suffix.
        OSError: the file cannot be written.
    """
    suffix = local_path(path).suffix.lower()
    options: dict[str, Any] = {"quality": 92} if suffix in (".jpg", ".jpeg") else {}
    file = Image.fromarray(check_array(image))
    try:
        file.save(path, **options)
    except (ValueError, KeyError):
        raise ImageError(f"{path}: no image format has the suffix '{suffix}'; use .png or .jpg") from None


def unread_images_note(paths: Iterable[Path]) -> str | None:
    """Return a text that says how many files are images in formats that are not read; None if there is none.

    >>> unread_images_note([Path("a.DNG"), Path("b.psd"), Path("c.jpg")])
    '2 files are images in formats that are not read (.dng, .psd): convert them to JPEG or PNG first'
    """
    found = [suffix for path in paths if (suffix := path.suffix.lower()) in UNREAD_SUFFIXES]
    if not found:
        return None
    suffixes = ", ".join(sorted(set(found)))
    hint = f"; {HEIC_HINT}" if HEIC_SUFFIXES & set(found) else ""
    if len(found) == 1:
        return f"1 file is an image in a format that is not read ({suffixes}): convert it to JPEG or PNG first{hint}"
    note = f"{len(found)} files are images in formats that are not read ({suffixes})"
    return f"{note}: convert them to JPEG or PNG first{hint}"


def find_images(folder: Path) -> list[Path]:
    """Return the paths of the image files directly in `folder`, sorted by name.

    Broken links are included, so that reading them raises an error. The files `._NAME` with metadata, which macOS
    writes beside each file on other drives, are left out.

    Raises:
        FileError: the folder cannot be read.
    """
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir() and not _is_apple_double(path)
        )
    except OSError as error:
        raise FileError(f"{folder}: the folder cannot be read ({error.strerror})") from None


def _is_apple_double(path: Path) -> bool:
    """Return whether a file contains the metadata of another file, in the format AppleDouble."""
    if not path.name.startswith("._") or is_at_url(path):
        return path.name.startswith("._")
    try:
        with path.open("rb") as file:
            return file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE
    except OSError:  # reading the image will give a message
        return False
