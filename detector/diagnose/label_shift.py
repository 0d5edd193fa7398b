"""A finding about boxes that are all shifted in one direction, measured from the image edges around them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from detector.annotation import Annotation, pixel_count
from detector.arrays import Floats, ImageArray
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding
from detector.errors import InputError

_MAX_SHIFT = 24
"""Largest shift that is searched for, in pixels of an image scaled to `_LONG_SIDE`."""

_LONG_SIDE = 640
"""Images are scaled so that their longer side has this many pixels."""

_MOST_IMAGES = 150
_MOST_PIXELS = 4e8
"""Largest number of images, and of pixels in their files, that are decoded."""

_SHIFTED = 4.0
"""Shift, in pixels of an image scaled to `_LONG_SIDE`, from which boxes count as shifted.

Measured on correct boxes: 0 to 1.5; up to 2.5 with half of the objects.
"""

_MIN_CONTRAST = 0.4
"""Smallest contrast between edges at the sides of boxes and beside them.

Measured: correct boxes 0.97 to 3.6; boxes of other images mostly 0.1 to 0.6.
"""

_FEW_OBJECTS = 80
"""With fewer objects away from the image border, the measurement is unreliable."""

_EXPECTED = f"on average within {_SHIFTED:g} pixels of an image {_LONG_SIDE} pixels long"


@dataclass(frozen=True)
class _AxisShift:
    """The common shift of boxes along one axis.

    Attributes:
        shift: of the boxes relative to the edges around them, positive to the right or down, in scaled pixels.
        agreed: the smaller of the absolute shifts of two halves of the objects; 0 if their directions differ. Random
            errors differ between the halves, a common shift does not.
        contrast: of the mean edge profile, see `_MIN_CONTRAST`.
    """

    shift: float
    agreed: float
    contrast: float


def diagnose_label_shift(split: Split) -> Finding:
    """Check that boxes lie on edges of the image, and not all beside them in one direction.

    Finds shifts of 5 to 16 pixels with their size, and of up to 24 pixels at all. Larger shifts show, if at all, only
    as boxes without edges.
    """
    axes = _measure_axes(split)
    if len(axes) < 2:
        measured = "too few objects away from the border of their images to measure"
        return Finding("data: label shift", "ok", measured, _EXPECTED)
    x, y = axes
    contrast = min(x.contrast, y.contrast)
    if contrast < _MIN_CONTRAST:
        measured = f"hardly more edges at the sides of boxes than beside them (contrast {contrast:.2f})"
        advice = (
            "Labels of other images, boxes far off, swapped coordinates, or objects without edges: check the drawn "
            "examples."
        )
        return Finding("data: label shift", "look", measured, f"contrast at least {_MIN_CONTRAST:g}", advice)
    measured = f"boxes are {x.shift:+.1f} pixels right of and {y.shift:+.1f} below the edges around them"
    if max(x.agreed, y.agreed) >= _SHIFTED:
        advice = (
            "Were images cropped or padded after labeling, or corners written as centers? Check the drawn examples."
        )
        return Finding("data: label shift", "look", measured, _EXPECTED, advice)
    return Finding("data: label shift", "ok", measured, _EXPECTED)


def _measure_axes(split: Split) -> list[_AxisShift]:
    """Return the shift along x and along y, without the axes that have too few objects."""
    with_objects = [annotation for annotation in split.annotations if not annotation.is_crowd.all()]
    affordable = _MOST_PIXELS / max(1, pixel_count(with_objects)) * len(with_objects)
    chosen = evenly_spaced(with_objects, min(_MOST_IMAGES, int(affordable)))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        by_image = [profiles for profiles in pool.map(partial(_image_profiles, split), chosen) if profiles]
    axes = (np.concatenate(axis_profiles) for axis_profiles in zip(*by_image, strict=True))
    return [_measure_axis(profiles) for profiles in axes if len(profiles) >= _FEW_OBJECTS]


def _measure_axis(profiles: Floats) -> _AxisShift:
    """Return the shift along one axis from the edge profiles of all objects; see `edge_profiles`."""
    halves: Sequence[float] = [symmetry_center(profiles[half::2]) for half in (0, 1)]
    return _AxisShift(
        shift=0.0 - symmetry_center(profiles),
        agreed=min(map(abs, halves)) if halves[0] * halves[1] > 0 else 0.0,
        contrast=float(np.ptp(profiles.mean(axis=0), axis=1).sum()),
    )


def _image_profiles(split: Split, annotation: Annotation) -> tuple[Floats, Floats] | None:
    """Return the edge profiles of an image's objects along x and along y; None if it cannot be decoded."""
    try:
        image = split.read_image(annotation)
    except InputError:
        return None
    scale = _LONG_SIDE / max(image.shape[:2])
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=mode)
    gray = np.asarray(scaled, dtype=np.uint8)
    boxes = annotation.boxes[~annotation.is_crowd] * np.float32(scale)
    return edge_profiles(gray, boxes), edge_profiles(gray.T, boxes[:, [1, 0, 3, 2]])


def edge_profiles(gray: ImageArray, boxes: Floats) -> Floats:
    """Return the strength of vertical edges at and beside the left and right sides of boxes.

    Args:
        gray: [H, W] image.
        boxes: [N, 4] in its pixels. Boxes smaller than 8 pixels or near the left or right border are skipped.

    Returns:
        [K, 2, 2 * 24 + 1] for the K boxes that are not skipped and their left and right sides: mean brightness
        difference across the vertical line at -24 to +24 pixels from the side, over the height of the box, divided by
        the mean of the box.
    """
    height, width = gray.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.float32)
    sums[1:, 1:-1] = np.cumsum(np.abs(np.diff(gray.astype(np.float32), axis=1)), axis=0)
    x1, y1, x2, y2 = np.clip(np.rint(boxes), 0, (width, height, width, height)).astype(np.int64).T
    fits = (np.minimum(x2 - x1, y2 - y1) >= 8) & (x1 > _MAX_SHIFT) & (x2 < width - _MAX_SHIFT)
    x1, y1, x2, y2 = x1[fits], y1[fits], x2[fits], y2[fits]
    lines = (sums[y2] - sums[y1]) / (y2 - y1)[:, None]
    columns = np.stack([x1, x2], axis=1)[:, :, None] + np.arange(-_MAX_SHIFT, _MAX_SHIFT + 1)
    profiles = np.take_along_axis(lines[:, None], columns, axis=2)
    return np.asarray(profiles / np.maximum(profiles.mean(axis=(1, 2), keepdims=True), 0.5), dtype=np.float32)


def symmetry_center(profiles: Floats) -> float:
    """Return the offset at which the mean profile of left sides is the mirror image of that of right sides.

    Boxes that are too wide, or objects with more edges inside than outside, do not move it from 0: their two sides are
    off symmetrically. Only a common shift moves it.

    Args:
        profiles: [K, 2, 2 * 24 + 1], see `edge_profiles`.

    Returns:
        The offset in pixels, a multiple of 0.5.
    """
    left, right = profiles.mean(axis=0)
    last = 2 * _MAX_SHIFT

    def error(twice: int) -> float:
        i = np.arange(max(0, twice), min(last, last + twice) + 1)
        a, b = left[i], right[last + twice - i]
        return float(np.mean((a - b) ** 2) / max(np.var(np.concatenate([a, b])), 1e-9))

    # At least a third of the profile must overlap its mirror image.
    return min(range(-last * 2 // 3, last * 2 // 3 + 1), key=error) / 2
