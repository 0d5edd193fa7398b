"""Finds near-duplicate images: compares thumbnails of the images of splits by their brightness gradients."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from detector.annotation import Annotation, pixel_count
from detector.arrays import Bools, Floats, ImageArray
from detector.data.split import Split, evenly_spaced
from detector.errors import InputError
from detector.images import read_thumbnail

_THUMBNAIL = 32
"""Side of a thumbnail in pixels; a JPEG of 256 pixels or more is decoded at 1/8 scale for it."""

_MAX_FILES = 5000
_MAX_RENDERED = 600
_MAX_PIXELS = 1.5e9
"""At most this many images, and this many pixels in them, are decoded to thumbnails, which takes about five seconds.
Images that are not files have a lower limit, since they have to be decoded at full size."""

_UNIFORM_STD = 2.0
"""In gray levels of 0..255: a thumbnail whose standard deviation is smaller is of one color."""

_NEAR_CORRELATION = 0.97
"""Correlation of the brightness gradients from which two images count as near duplicates.

Measured: darkened, shrunk, compressed or noisy copies 0.98 to 1 (0.87 on bare floor), different images of a microscope
at most 0.38, different objects on the same floor under the same lamp at most 0.969.
"""

_BLOCK = 256
"""Number of thumbnails that are compared with all others at once."""


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Thumbnails of a split, or of an evenly spaced sample of it.

    Attributes:
        split: the split that they are from.
        paths: paths of the K images.
        pixels: [K, side, side, 3] RGB, without the aspect of the images.
        unreadable: images of the sample that cannot be decoded.
    """

    split: Split
    paths: tuple[Path, ...]
    pixels: ImageArray
    unreadable: tuple[Path, ...]


class Duplicates(NamedTuple):
    """Pairs of images that look the same.

    Attributes:
        exact: index of a thumbnail → index of an identical one.
        near: index of a thumbnail → index of the most similar one, for those without an identical one.
    """

    exact: dict[int, int]
    near: dict[int, int]


def read_thumbnails(splits: Sequence[Split]) -> list[Thumbnails]:
    """Read thumbnails of the images of each split, or of an evenly spaced sample if there are too many images."""
    total = sum(len(split.annotations) for split in splits)
    pixels = sum(pixel_count(split.annotations) for split in splits)
    max_images = _MAX_FILES if all(split.from_files for split in splits) else _MAX_RENDERED
    fraction = min(1.0, max_images / total, _MAX_PIXELS / pixels)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return [_read_thumbnails(split, fraction, pool) for split in splits]


def _read_thumbnails(split: Split, fraction: float, pool: ThreadPoolExecutor) -> Thumbnails:
    def read(annotation: Annotation) -> ImageArray | None:
        try:
            if split.from_files:
                return read_thumbnail(annotation.image_path, _THUMBNAIL, max_pixels=split.max_pixels)
            size = (_THUMBNAIL, _THUMBNAIL)
            return np.asarray(cv2.resize(split.read_image(annotation), size, interpolation=cv2.INTER_AREA), np.uint8)
        except InputError:
            return None

    sample = evenly_spaced(split.annotations, max(1, round(fraction * len(split.annotations))))
    results = list(zip(sample, pool.map(read, sample), strict=True))
    decoded = [(annotation.image_path, thumbnail) for annotation, thumbnail in results if thumbnail is not None]
    return Thumbnails(
        split,
        tuple(path for path, _ in decoded),
        np.array([thumbnail for _, thumbnail in decoded], dtype=np.uint8).reshape(-1, _THUMBNAIL, _THUMBNAIL, 3),
        tuple(annotation.image_path for annotation, thumbnail in results if thumbnail is None),
    )


def find_near_duplicates(thumbnails: ImageArray, references: ImageArray | None = None) -> Duplicates:
    """Find the thumbnails that show the same as a reference thumbnail, also if it is flipped horizontally.

    Args:
        thumbnails: [K, side, side, 3], none of one color.
        references: [R, side, side, 3], none of one color; None: compare each thumbnail with the earlier ones.

    Returns:
        Exact and near duplicates, as index in `thumbnails` → index in `references`.
    """
    only_earlier = references is None
    if references is None:
        references = thumbnails
    exact = _find_exact(thumbnails, references)
    if only_earlier:
        exact = {i: j for i, j in exact.items() if j < i}
    near: dict[int, int] = {}
    descriptors = gradient_descriptors(thumbnails)
    plain, flipped = gradient_descriptors(references), gradient_descriptors(references[:, :, ::-1])
    for start in range(0, len(thumbnails), _BLOCK):
        block = descriptors[start : start + _BLOCK]
        correlation = np.maximum(block @ plain.T, block @ flipped.T)
        if only_earlier:
            correlation[np.arange(len(references)) >= start + np.arange(len(block))[:, None]] = 0
        for i in np.flatnonzero((correlation >= _NEAR_CORRELATION).any(axis=1)).tolist():
            if start + i not in exact:
                near[start + i] = int(correlation[i].argmax())
    return Duplicates(exact, near)


def _find_exact(thumbnails: ImageArray, references: ImageArray) -> dict[int, int]:
    """Return index of a thumbnail → index of the first identical reference."""
    first: dict[bytes, int] = {}
    for j, reference in enumerate(references):
        first.setdefault(reference.tobytes(), j)
    return {i: first[key] for i, thumbnail in enumerate(thumbnails) if (key := thumbnail.tobytes()) in first}


def gradient_descriptors(thumbnails: ImageArray) -> Floats:
    """Return the brightness differences between neighboring cells of a 16 x 16 grid, as unit vectors.

    The dot product of two descriptors hardly depends on brightness, contrast, size and compression of the images, as
    with a difference hash. Unlike a hash, it gives little weight to uniform areas, where single bits are random.

    Args:
        thumbnails: [K, side, side, 3].

    Returns:
        [K, 480]: 16 * 15 vertical and 16 * 15 horizontal differences.
    """
    k, side = len(thumbnails), _THUMBNAIL // 16
    cells = thumbnails.reshape(k, 16, side, 16, side, 3).mean(axis=(2, 4, 5), dtype=np.float32)
    steps = np.concatenate([np.diff(cells, axis=1).reshape(k, 240), np.diff(cells, axis=2).reshape(k, 240)], axis=1)
    return np.asarray(steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def is_uniform(thumbnails: ImageArray) -> Bools:
    """Find thumbnails of one color.

    Args:
        thumbnails: [K, side, side, 3].

    Returns:
        A mask [K]: True where the thumbnail has almost the same color everywhere.
    """
    stds = thumbnails.reshape(len(thumbnails), _THUMBNAIL**2, 3).std(axis=1, dtype=np.float32)
    return np.asarray(stds.max(axis=1) < _UNIFORM_STD)
