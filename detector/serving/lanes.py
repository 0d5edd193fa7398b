"""Decides from the first bytes of an image file whether decoding it is certain to take less than about half a second.

The server decodes such images in another process than all other images, so that an image that takes long, by accident
or on purpose, does not delay them. The rules are for common files from cameras and image programs. A file that they do
not know, such as a TIFF, counts as slow; this never causes an error.
"""

from typing import Literal

from detector.jpeg_scans import count_scans

_JPEG_PIXELS, _JPEG_PIXELS_IN_SCANS = 24_000_000, 250_000_000
"""Largest number of pixels of a quick JPEG file, and of the pixels of all of its scans together."""

_OTHER_PIXELS = 9_000_000
"""Largest number of pixels of a quick PNG or WebP file, which take longer than a JPEG file."""

_MAX_PARTS = 64
"""Largest number of parts of a quick file that contain no pixels, such as text and metadata."""

_MAX_PART_BYTES = 300_000
"""Largest size of the parts of a quick file that contain no pixels, together."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_JPEG_SIZES = frozenset({0xC0, 0xC1, 0xC2})
"""Frame headers of JPEG files with Huffman coding: they contain the size of the image."""


def is_quick(content: bytes) -> bool:
    """Return True if decoding an image file is certain to take less than about half a second on one CPU core.

    Args:
        content: the bytes of the file, of any kind.
    """
    if content.startswith(_JPEG):
        return _is_quick_jpeg(content)
    if content.startswith(_PNG):
        return _is_quick_png(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _is_quick_webp(content)
    return False


def _is_quick_jpeg(content: bytes) -> bool:
    pixels, position = 0, 2
    for _ in range(_MAX_PARTS):
        marker, size = content[position + 1 : position + 2], _number(content, position + 2, 2)
        if content[position : position + 1] != b"\xff" or size < 2:
            return False
        if marker[0] in _JPEG_SIZES:
            pixels = _number(content, position + 5, 2) * _number(content, position + 7, 2)
        position += 2 + size
        if position > _MAX_PART_BYTES:
            return False
        if marker == b"\xda":
            return 0 < pixels <= _JPEG_PIXELS and pixels * count_scans(content) <= _JPEG_PIXELS_IN_SCANS
    return False


def _is_quick_png(content: bytes) -> bool:
    if content[12:16] != b"IHDR" or _number(content, 16, 4) * _number(content, 20, 4) > _OTHER_PIXELS:
        return False
    parts, position = 0, len(_PNG)
    part_bytes = 0
    for _ in range(50_000):
        size, kind = _number(content, position, 4), content[position + 4 : position + 8]
        if kind in (b"IEND", b""):
            return True
        if kind != b"IDAT":
            parts, part_bytes = parts + 1, part_bytes + size
            if kind == b"acTL" or parts > _MAX_PARTS or part_bytes > _MAX_PART_BYTES:
                return False
        position += 12 + size
    return False


def _is_quick_webp(content: bytes) -> bool:
    kind = content[12:16]
    if kind == b"VP8 ":
        width, height = _number(content, 26, 2, "little") & 0x3FFF, _number(content, 28, 2, "little") & 0x3FFF
    elif kind == b"VP8L":
        bits = _number(content, 21, 4, "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:  # with an animation, transparency or metadata
        return False
    return width * height <= _OTHER_PIXELS


def _number(content: bytes, start: int, size: int, order: Literal["big", "little"] = "big") -> int:
    """Return an unsigned integer in a file; bytes after the end of the file are missing digits."""
    return int.from_bytes(content[start : start + size], order)
