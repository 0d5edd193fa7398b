"""A finding about label shift: are all boxes shifted in the same direction, away from the edges of the objects?"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from detector.annotation import Annotation
from detector.arrays import Floats, ImageArray
from detector.data.split import Split
from detector.diagnose.finding import Finding
from detector.diagnose.objects import sample_with_objects
from detector.errors import InputError
from detector.mirror import read_threads

_MAX_SHIFT = 24
"""Largest shift that the check can measure, in pixels of an image that is scaled to `_LONG_SIDE`."""

_LONG_SIDE = 640
"""Every image is scaled so that its longer side has this many pixels."""

_MAX_IMAGES = 150
"""Largest number of images that are decoded."""

_MAX_PIXELS = 4e8
"""Largest number of pixels that are decoded, in all images together."""

_MIN_SHIFT = 4.0
"""Boxes count as shifted from this shift on, in pixels of an image that is scaled to `_LONG_SIDE`.

Measured shift of correct boxes: 0 to 1.5; up to 2.5 if only half of the objects are used.
"""

_MIN_CONTRAST = 0.4
"""Smallest contrast between the image edges at the sides of boxes and the image edges beside the sides.

Measured: 0.97 to 3.6 for correct boxes; mostly 0.1 to 0.6 for boxes of other images.
"""

_SAMPLES = 100
"""Number of random samples of the images, drawn with replacement."""

_MIN_OBJECTS = 80
"""Smallest number of objects away from the image border; with fewer objects, the measurement is unreliable."""

_EXPECTED = f"a shift below {_MIN_SHIFT:g} pixels, in images that are scaled to {_LONG_SIDE} pixels"


@dataclass(frozen=True)
class _AxisShift:
    """The common shift of all boxes along one axis.

    Attributes:
        shift: shift of the boxes relative to the image edges around them, in pixels of the scaled image; positive to
            the right or down.
        confirmed: the absolute shift that 95% of the random samples of the images exceed, or 0 if fewer of them have
            the same direction. Random errors differ between samples, a common shift does not.
        contrast: contrast of the mean edge profile; see `_MIN_CONTRAST`.
    """

    shift: float
    confirmed: float
    contrast: float


def diagnose_label_shift(split: Split) -> Finding:
    """Check that the sides of boxes lie on image edges and are not all shifted in one direction; return a finding.

    In pixels of the scaled image, the check measures shifts of 5 to 16 pixels correctly. It finds shifts of up to 24
    pixels, possibly with a wrong size. `diagnose_label_fit` finds larger shifts.
    """
    axes = _measure_axes(split)
    if len(axes) < 2:
        measured = "not measured: there are too few objects away from the image border"
        return Finding("data: label shift", "ok", measured, _EXPECTED)
    x, y = axes
    contrast = min(x.contrast, y.contrast)
    if contrast < _MIN_CONTRAST:
        # No evidence of a fault: many objects have no clear edges. `label_fit` finds boxes that are elsewhere.
        measured = f"not measured: the sides of boxes have no clear image edges (contrast {contrast:.2f})"
        return Finding("data: label shift", "ok", measured, _EXPECTED)
    measured = (
        f"boxes are shifted from the image edges by {x.shift:+.1f} pixels to the right and {y.shift:+.1f} pixels down"
    )
    if max(x.confirmed, y.confirmed) >= _MIN_SHIFT:
        advice = (
            "Possible causes: images were cropped or padded after labeling, or corners were written as box centers. "
            "Check the drawn examples."
        )
        return Finding("data: label shift", "look", measured, _EXPECTED, advice)
    return Finding("data: label shift", "ok", measured, _EXPECTED)


def _measure_axes(split: Split) -> list[_AxisShift]:
    """Return the shifts along x and y; an axis with fewer than `_MIN_OBJECTS` objects is omitted."""
    chosen = sample_with_objects(split, _MAX_IMAGES, _MAX_PIXELS)
    with ThreadPoolExecutor(max_workers=read_threads()) as pool:
        by_image = [profiles for profiles in pool.map(partial(_image_profiles, split), chosen) if profiles]
    axes: list[Sequence[Floats]] = list(zip(*by_image, strict=True))
    return [_measure_axis(profiles) for profiles in axes if sum(map(len, profiles)) >= _MIN_OBJECTS]


def _measure_axis(by_image: Sequence[Floats]) -> _AxisShift:
    """Return the common shift along one axis, from the edge profiles [K, 2, 49] of each image; see `edge_profiles`."""
    sums = np.stack([profiles.sum(axis=0) for profiles in by_image])
    counts = np.array([len(profiles) for profiles in by_image])
    rng = np.random.default_rng(0)
    shifts = []
    for _ in range(_SAMPLES):
        chosen = rng.integers(len(sums), size=len(sums))
        shifts.append(symmetry_center(sums[chosen].sum(axis=0)[None] / max(1, counts[chosen].sum())))
    low, high = np.quantile(shifts, (0.05, 0.95))
    mean = sums.sum(axis=0) / counts.sum()
    return _AxisShift(
        shift=0.0 - symmetry_center(mean[None]),
        confirmed=float(max(low, -high, 0.0)),
        contrast=float(np.ptp(mean, axis=1).sum()),
    )


def _image_profiles(split: Split, annotation: Annotation) -> tuple[Floats, Floats] | None:
    """Return the edge profiles along x and along y of the objects of an image; None if the image cannot be decoded."""
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
    """Return edge profiles [K, 2, 49]: the strength of vertical image edges at and beside the left and right box sides.

    A box is skipped if a side is shorter than 8 pixels, or if the box is at most 24 pixels from the left or right image
    border. K boxes remain.

    Args:
        gray: [H, W] uint8 gray image.
        boxes: [N, 4] as (x1, y1, x2, y2), in pixels.

    Returns:
        For each remaining box, for its left and its right side, at each offset from -24 to +24 pixels from the side:
        the mean brightness difference across the vertical line at this offset, over the height of the box, divided by
        the mean of all these values of the box.
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
    """Return the offset at which the mean profile of left sides is the mirror image of the mean profile of right sides.

    The offset is in pixels, a multiple of 0.5. It stays 0 if all boxes are too wide, or if objects have more edges
    inside than outside: the errors of the left and right side are then symmetric. Only a common shift of
    the boxes changes the offset.

    Args:
        profiles: [K, 2, 49] edge profiles; see `edge_profiles`.
    """
    left, right = profiles.mean(axis=0)
    last = 2 * _MAX_SHIFT

    def error(twice: int) -> float:
        i = np.arange(max(0, twice), min(last, last + twice) + 1)
        a, b = left[i], right[last + twice - i]
        return float(np.mean((a - b) ** 2) / max(np.var(np.concatenate([a, b])), 1e-9))

    # At least a third of the profile must overlap its mirror image.
    return min(range(-last * 2 // 3, last * 2 // 3 + 1), key=error) / 2
