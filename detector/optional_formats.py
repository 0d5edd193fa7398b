"""HEIC and AVIF: image formats that need an optional package, or a Pillow that was built with them.

HEIC is read with the package pillow-heif. It is imported when the first HEIC file is opened, and it applies the
orientation itself: the image that it returns is upright, with an EXIF orientation of 1. AVIF is read by Pillow from
version 11.3 on, which returns the orientation of the file as EXIF orientation.
"""

from functools import cache
from importlib.util import find_spec

from detector.errors import MissingPackageError

HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
AVIF_SUFFIXES = frozenset({".avif"})

HEAD_BYTES = 64
"""Number of bytes at the start of a file that `optional_format` needs."""

HEIC_HINT = "HEIC images need the package pillow-heif: pip install 'grid-detector[heif]'"
"""What a message about a HEIC image that is not read advises."""

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
"""Brands of a file in the ISO base media file format. AVIF files have the brand mif1 too.

Source: ISO/IEC 23008-12, annex B; AV1 Image File Format, section 6.
"""


def optional_suffixes() -> frozenset[str]:
    """Return the file suffixes (lower case) of the optional formats that can be read here. Nothing is imported."""
    heic = HEIC_SUFFIXES if find_spec("pillow_heif") is not None else frozenset()
    return heic | (AVIF_SUFFIXES if find_spec("PIL._avif") is not None else frozenset())


def optional_format(head: bytes) -> str | None:
    """Return Pillow's name of the optional format of a file, and make Pillow able to read it; None: another format.

    Args:
        head: the first `HEAD_BYTES` bytes of the file.

    Raises:
        MissingPackageError: the format cannot be read here; the message says what to install.
    """
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))}
    if brands & _AVIF_BRANDS:
        if find_spec("PIL._avif") is None:
            raise MissingPackageError(
                "AVIF images need Pillow 11.3 or newer: pip install --upgrade pillow; or convert the image to JPEG"
            )
        return "AVIF"
    if brands & _HEIC_BRANDS:
        _register_heic()
        return "HEIF"
    return None


@cache
def _register_heic() -> None:
    """Make Pillow able to read HEIC files; raise MissingPackageError if pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError:
        raise MissingPackageError(f"{HEIC_HINT}; or convert the image to JPEG") from None
    pillow_heif.register_heif_opener()
