"""A finding about the bit depth: do 16-bit images use enough gray levels after they are converted to 8 bits?"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from detector.annotation import Annotation
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding, Verdict
from detector.errors import InputError
from detector.mirror import open_file

_MAX_IMAGES = 16
"""Largest number of images that are decoded."""

_FEW_LEVELS, _TOO_FEW_LEVELS = 64, 8
"""With fewer gray levels than this, the verdict is "look" or "stop"."""

_BLOCK_PIXELS = 4_000_000
"""Largest number of pixels of an image that is compared."""

_EXPECTED = f"8-bit images, or 16-bit images that use at least {_FEW_LEVELS} of 256 gray levels after conversion"


class _Levels(NamedTuple):
    """Different gray values of an image.

    Attributes:
        stored: number of different 16-bit values in the file.
        used: number of different 8-bit values after conversion.
        low: smallest 16-bit value.
        high: largest 16-bit value.
    """

    stored: int
    used: int
    low: int
    high: int


def diagnose_bit_depth(split: Split) -> Finding:
    """Check that conversion to 8 bits leaves 16-bit images enough gray levels, and return a finding.

    Cameras with 10 to 14 bits often store their values in 16 bits. Then most of the range is unused, and conversion to
    8 bits merges almost all values. Images that have few different values in the file, such as masks, lose nothing.
    """
    sample = evenly_spaced(split.annotations, _MAX_IMAGES) if split.from_files else []
    deep = [levels for annotation in sample if (levels := _measure(split, annotation))]
    poor = [levels for levels in deep if levels.used < _FEW_LEVELS and levels.stored > 4 * levels.used]
    if len(poor) * 2 <= len(deep):
        measured = f"{len(deep)} of {len(sample)} images of a sample have 16 bits"
        return Finding("data: bit depth", "ok", measured, _EXPECTED)
    used = int(np.median([levels.used for levels in poor]))
    low, high = min(levels.low for levels in poor), max(levels.high for levels in poor)
    verdict: Verdict = "stop" if used < _TOO_FEW_LEVELS else "look"
    return Finding(
        "data: bit depth",
        verdict,
        f"16-bit images use only {used} of 256 gray levels after conversion to 8 bits: their values are {low} to "
        f"{high} of 0 to 65535",
        _EXPECTED,
        f"Most of the contrast is lost. Stretch the values before training and before detection in the same way: save "
        f"8-bit images with (value - {low}) * 255 / {max(1, high - low)}.",
    )


def _measure(split: Split, annotation: Annotation) -> _Levels | None:
    """Return the gray levels of an image; None if the image does not have 16 bits or cannot be decoded."""
    try:
        with open_file(annotation.image_path) as content, Image.open(content) as file:
            if not file.mode.startswith("I;16") or file.width * file.height > split.max_pixels:
                return None
            stored = np.asarray(file)
        used = split.read_image(annotation)
    except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    step = 1 + stored.size // _BLOCK_PIXELS
    values = np.unique(stored.ravel()[::step])
    levels = np.unique(used[:, :, 0].ravel()[::step])
    return _Levels(len(values), len(levels), int(values[0]), int(values[-1]))
