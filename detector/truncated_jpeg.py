"""JPEG files that lack their last bytes, such as interrupted downloads: makes them decodable if little is missing.

Other programs show such files whole, with a gray part at the bottom. Pillow refuses them, except with a switch that is
global to the process. Here the missing end marker is appended, so that the decoder fills the missing part with gray.
"""

import re
from typing import NamedTuple

import numpy as np

from detector.arrays import ImageArray

LARGEST_MISSING_FRACTION = 0.2
"""Largest fraction of the rows of pixels that may be missing at the bottom of an image."""

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_SOS = 0xDA
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker after the data of a scan. In these data, a byte 0xFF is followed by 0, or is part of a restart marker.

Source: ITU-T T.81, section B.1.1.
"""

_GRAY = 128
"""Value that libjpeg writes where data are missing."""


class _Structure(NamedTuple):
    """The marker segments of a JPEG file.

    Attributes:
        frame: the marker of the frame header, which says how the image is coded; None: there is no frame header.
        component_ids: ids of the color components.
        scans: the scan headers, each from the number of components on.
        end: position after the last complete segment, or the end of the file if it ends in the data of a scan.
        is_complete: True if the end marker was found.
    """

    frame: int | None
    component_ids: tuple[int, ...]
    scans: tuple[bytes, ...]
    end: int
    is_complete: bool


def close_jpeg(data: bytes) -> bytes | None:
    """Return a JPEG file with an end marker in place of its missing end, or None if it is not such a file.

    The result is None if the data are not JPEG, or have an end marker, or if an image decoded from them would not have
    its right colors: in a sequential JPEG, all components must be in one scan; in a progressive JPEG, the complete
    scans must contain all but the last bit of each coefficient.

    Args:
        data: the bytes of a file.
    """
    if not data.startswith(_SOI):
        return None
    structure = _parse(data)
    if structure.is_complete or not structure.scans:
        return None
    if structure.frame in _SEQUENTIAL:
        usable = len(structure.scans) == 1 and structure.scans[0][0] == len(structure.component_ids)
    elif structure.frame == _PROGRESSIVE:
        usable = _has_all_but_last_bits(structure)
    else:
        usable = False
    return data[: structure.end].removesuffix(b"\xff") + _EOI if usable else None


def missing_rows(image: ImageArray) -> int:
    """Return the number of rows at the bottom of a decoded image that are filled with the gray of missing data.

    Args:
        image: [H, W] or [H, W, 3], in the orientation in which the image is stored.
    """
    has_data = (image.reshape(len(image), -1) != _GRAY).any(axis=1)
    return len(image) if not has_data.any() else int(np.argmax(has_data[::-1]))


def _parse(data: bytes) -> _Structure:
    """Return the structure of a JPEG file, which may be truncated."""
    frame: int | None = None
    component_ids: tuple[int, ...] = ()
    scans: list[bytes] = []
    position = len(_SOI)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _EOI[1]:
            return _Structure(frame, component_ids, tuple(scans), position, True)
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if end > len(data):
            break
        content = data[position + 4 : end]
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            frame, component_ids = marker, tuple(content[6::3])
        position = end
        if marker == _SOS:
            scans.append(content)
            found = _NEXT_MARKER.search(data, end)
            if found is None:
                return _Structure(frame, component_ids, tuple(scans), len(data), False)
            position = found.start()
    is_complete = data[position : position + 2] == _EOI
    return _Structure(frame, component_ids, tuple(scans), position, is_complete)


def _has_all_but_last_bits(structure: _Structure) -> bool:
    """Return True if the complete scans of a progressive JPEG contain all but the last bit of every coefficient.

    The last scan counts as incomplete. Source: ITU-T T.81, section G.1.1.1.
    """
    lowest_bit = {(component, k): 99 for component in structure.component_ids for k in range(64)}
    for scan in structure.scans[:-1]:
        first, last, bits = scan[-3:]
        for component in scan[1:-3:2]:
            for k in range(first, min(last, 63) + 1):
                lowest_bit[component, k] = bits & 15
    return max(lowest_bit.values()) <= 1
