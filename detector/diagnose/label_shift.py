"""Whether all boxes stand beside their objects: a common shift, seen by the edges around them."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np

from detector.annotation import Annotation, pixel_count
from detector.arrays import Floats, ImageArray
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding
from detector.errors import InputError

_EDGE_REACH = 24
_EDGE_WIDTH = 640
_EDGE_IMAGES = 150
_EDGE_PIXELS = 4e8
"""A common shift of boxes is sought up to so far, in pixels of images made so long, on at most so many of them."""

_SHIFTED = 4.0
"""ImageArray of `_EDGE_WIDTH` from which a shift is a fault. Measured: true boxes 0 to 1.5, 2.5 of half of them."""

_EDGE_CONTRAST = 0.4
"""How much more edge there must be under boxes than around. Measured: true boxes 0.97 to 3.6, those of other images
mostly 0.1 to 0.6."""

_FEW_EDGES = 80
"""With fewer objects away from the image's border edges tell nothing."""


def check_label_shift(split: Split) -> Finding:
    """Boxes should stand on edges of the image, and not beside them all in one direction.

    Finds shifts of 5 to 16 pixels with their size, and of up to 24; larger ones only as boxes without edges, if at all.
    """
    with_objects = [annotation for annotation in split.annotations if not annotation.is_crowd.all()]
    affordable = _EDGE_PIXELS / max(1, pixel_count(with_objects)) * len(with_objects)
    chosen = evenly_spaced(with_objects, min(_EDGE_IMAGES, int(affordable)))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        of_images = [found for found in pool.map(partial(_profiles_along_axes, split), chosen) if found]
    expected = f"on average within {_SHIFTED:g} pixels of an image {_EDGE_WIDTH} long"
    shifts, contrasts = [], []
    for along_axis in zip(*of_images, strict=True):
        profiles = np.concatenate(along_axis)
        if len(profiles) >= _FEW_EDGES:
            # What both halves of the objects agree on: chance would move them differently.
            halves = [symmetry_center(profiles[half::2]) for half in (0, 1)]
            agreed = min(map(abs, halves)) if halves[0] * halves[1] > 0 else 0.0
            shifts.append((0.0 - symmetry_center(profiles), agreed))
            contrasts.append(float(np.ptp(profiles.mean(axis=0), axis=1).sum()))
    if len(shifts) < 2:
        measured = "too few objects away from the border of their images to tell"
        return Finding("data: label shift", "ok", measured, expected)
    (right, _), (down, _) = shifts
    measured = f"boxes stand {right:+.1f} right of and {down:+.1f} below the edges around them"
    if min(contrasts) < _EDGE_CONTRAST:
        measured = f"hardly more edge under the boxes than beside them (contrast {min(contrasts):.2f})"
        advice = "Labels of other images, far off or swapped, or objects without edges: look at drawn examples."
        return Finding("data: label shift", "look", measured, f"contrast at least {_EDGE_CONTRAST:g}", advice)
    if max(agreed for _, agreed in shifts) >= _SHIFTED:
        advice = "Were images cut or padded after labeling, or corners written as centers? Look at drawn examples."
        return Finding("data: label shift", "look", measured, expected, advice)
    return Finding("data: label shift", "ok", measured, expected)


def _profiles_along_axes(split: Split, annotation: Annotation) -> tuple[Floats, Floats] | None:
    """Return the edge profiles of an image's objects along x and along y; None if it does not decode."""
    try:
        image = split.read_image(annotation)
    except InputError:
        return None
    scale = _EDGE_WIDTH / max(image.shape[:2])
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    sized = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=mode)
    gray = np.asarray(sized, dtype=np.uint8)
    boxes = annotation.boxes[~annotation.is_crowd] * np.float32(scale)
    return edge_profiles(gray, boxes), edge_profiles(gray.T, boxes[:, [1, 0, 3, 2]])


def edge_profiles(gray: ImageArray, boxes: Floats) -> Floats:
    """Return how much edge there is at and beside the left and right sides of boxes.

    Args:
        gray: [H, W].
        boxes: [N, 4]; those smaller than 8 pixels or near the left and right border of the image are left out.

    Returns:
        [K, 2, 2 * reach + 1] mean brightness step, over the height of the box, across the lines from `reach` pixels
        left to `reach` right of its left side, and of its right side; divided by their mean.
    """
    height, width = gray.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.float32)
    sums[1:, 1:-1] = np.cumsum(np.abs(np.diff(gray.astype(np.float32), axis=1)), axis=0)
    x1, y1, x2, y2 = np.clip(np.rint(boxes), 0, (width, height, width, height)).astype(np.int64).T
    fits = (np.minimum(x2 - x1, y2 - y1) >= 8) & (x1 > _EDGE_REACH) & (x2 < width - _EDGE_REACH)
    x1, y1, x2, y2 = x1[fits], y1[fits], x2[fits], y2[fits]
    lines = (sums[y2] - sums[y1]) / (y2 - y1)[:, None]
    places = np.stack([x1, x2], axis=1)[:, :, None] + np.arange(-_EDGE_REACH, _EDGE_REACH + 1)
    profiles = np.take_along_axis(lines[:, None], places, axis=2)
    return np.asarray(profiles / np.maximum(profiles.mean(axis=(1, 2), keepdims=True), 0.5), dtype=np.float32)


def symmetry_center(profiles: Floats) -> float:
    """Return the offset, in half pixels, about which the mean profile of left sides mirrors that of right sides.

    Boxes too wide, or objects with more edges inside than around, leave it at 0: both sides are off alike, mirrored.
    Only a common shift moves it.

    Args:
        profiles: [K, 2, 2 * reach + 1], see `edge_profiles`.
    """
    left, right = profiles.mean(axis=0)
    last = 2 * _EDGE_REACH

    def error(twice: int) -> float:
        i = np.arange(max(0, twice), min(last, last + twice) + 1)
        a, b = left[i], right[last + twice - i]
        return float(np.mean((a - b) ** 2) / max(np.var(np.concatenate([a, b])), 1e-9))

    # A third of the profile at least must overlap its mirror image.
    return min(range(-last * 2 // 3, last * 2 // 3 + 1), key=error) / 2
