"""The number of scans of a JPEG file, which determines how long decoding takes, independent of the size of the file.

A progressive JPEG file contains the image in several scans, from coarse to fine: about 10, and fewer than 30 from any
encoder. Each scan makes the decoder pass over all pixels again, even if the scan is empty. A file of 0.4 MB can contain
thousands of empty scans of a large image, which take minutes.
"""

import re

MAX_SCANS = 100
"""Largest number of scans of an image that is decoded. libtiff has the same limit for JPEG data in TIFF files."""

_SOI, _SOS, _EOI = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_MAX_SEGMENTS = 100_000
"""Largest number of marker segments that are counted; only a file made to waste time has more."""

_NEXT_MARKER = re.compile(rb"\xff+[^\x00\x01\xd0-\xd7\xff]")
"""The next marker of a segment. In the data of a scan, a byte 0xFF is followed by 0, or is part of a restart marker.
Restart markers and the marker 0x01 have no segment.

Source: ITU-T T.81, section B.1.1.
"""


def count_scans(data: bytes) -> int:
    """Return the number of scans of the first image in a JPEG file; counting stops above `MAX_SCANS`.

    The file may be truncated or damaged; scans after the damage are not counted.

    Args:
        data: the bytes of a JPEG file.
    """
    # Data of a scan cannot contain the marker of a scan, so this number is at least the number of scans.
    if (at_most := data.count(_SOS)) <= 1:
        return at_most
    scans, position = 0, len(_SOI)
    for _ in range(_MAX_SEGMENTS):
        found = _NEXT_MARKER.search(data, position)  # like a decoder, skips bytes that belong to no segment
        if found is None or scans > MAX_SCANS:
            return scans
        marker = found[0][-2:]
        if marker == _EOI:
            return scans
        scans += marker == _SOS
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return MAX_SCANS + 1
