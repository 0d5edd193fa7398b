"""Limits of the server and their defaults."""

from dataclasses import dataclass

MAX_BYTES = 20_000_000
"""Default largest size of an uploaded file, in bytes."""

MAX_PIXELS = 50_000_000
"""Default largest number of pixels of an image. Decoding two such images at the same time takes about 700 MB."""

CONCURRENCY = 32
"""Default largest number of images that are processed or queued at the same time; more requests are refused."""

SECONDS = 30.0
"""Default time limit in seconds: for each upload, and separately for the detection in the uploaded image."""

DECODE_SECONDS = 10.0
"""Default limit in seconds of CPU time for decoding an image."""

MAX_TILES = 256
"""Largest number of tiles of an image."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Limits of the server: size of an upload, pixels of an image, number of concurrent images, and time.

    Attributes:
        max_bytes: largest size of an uploaded file, in bytes.
        max_pixels: largest number of pixels of an image that is decoded.
        concurrency: largest number of images that are processed or queued at the same time; more requests are refused.
        seconds: time limit for each upload, and separately for the detection in the uploaded image.
        decode_seconds: limit of CPU time for decoding an image; then decoding is stopped.
    """

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    concurrency: int = CONCURRENCY
    seconds: float = SECONDS
    decode_seconds: float = DECODE_SECONDS
