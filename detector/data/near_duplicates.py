"""Near-duplicate images: thumbnails of the images of a split, compared by their brightness gradients."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detector.annotation import Annotation, pixel_count
from detector.arrays import Bools, Floats, ImageArray
from detector.data.split import Split, evenly_spaced, read_file
from detector.errors import InputError
from detector.images import read_thumbnail

_THUMBNAIL = 32
"""Side of the small images; a JPEG of 256 pixels or more is decoded at an eighth for them."""

_MOST_IMAGES = 5000
_MOST_PIXELS = 1.5e9
_MOST_DRAWN = 600
"""At most so many images, and pixels in their files, are decoded as thumbnails: some five seconds. Fewer of images
that are no files, since they have no quick way to be made small."""

_FLAT = 2.0
"""Gray levels of 255: a thumbnail with a smaller std shows nothing."""

_ALIKE = 0.97
"""Correlation of the brightness steps from which two images count as near duplicates.

Measured: copies darkened, shrunk, compressed or with noise 0.98 to 1 (0.87 on bare floor), other images of a
microscope at most 0.38, other objects on one floor under one lamp at most 0.969.
"""


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Small images of a split, or of an even sample of it.

    Attributes:
        split: where they are from.
        paths: of the K images.
        pixels: [K, side, side, 3] RGB, their aspect lost.
        unreadable: images of the sample that do not decode.
    """

    split: Split
    paths: tuple[Path, ...]
    pixels: ImageArray
    unreadable: tuple[Path, ...]


def read_thumbnails(splits: Sequence[Split]) -> list[Thumbnails]:
    """Decode the images of splits small, an even sample of each where there are too many."""
    total = sum(len(split.annotations) for split in splits)
    pixels = sum(pixel_count(split.annotations) for split in splits)
    most = _MOST_IMAGES if all(split.read_image is read_file for split in splits) else _MOST_DRAWN
    fraction = min(1.0, most / total, _MOST_PIXELS / pixels)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return [_read_thumbnails(split, fraction, pool) for split in splits]


def _read_thumbnails(split: Split, fraction: float, pool: ThreadPoolExecutor) -> Thumbnails:
    def read(annotation: Annotation) -> ImageArray | None:
        try:
            if split.read_image is read_file:
                return read_thumbnail(annotation.image_path, _THUMBNAIL)
            size = (_THUMBNAIL, _THUMBNAIL)
            return np.asarray(cv2.resize(split.read_image(annotation), size, interpolation=cv2.INTER_AREA), np.uint8)
        except InputError:
            return None

    chosen = evenly_spaced(split.annotations, max(1, round(fraction * len(split.annotations))))
    read_ones = list(zip(chosen, pool.map(read, chosen), strict=True))
    shown = [(annotation.image_path, thumbnail) for annotation, thumbnail in read_ones if thumbnail is not None]
    return Thumbnails(
        split,
        tuple(path for path, _ in shown),
        np.array([thumbnail for _, thumbnail in shown], dtype=np.uint8).reshape(-1, _THUMBNAIL, _THUMBNAIL, 3),
        tuple(annotation.image_path for annotation, thumbnail in read_ones if thumbnail is None),
    )


def find_near_duplicates(these: ImageArray, others: ImageArray | None = None) -> tuple[dict[int, int], dict[int, int]]:
    """Find the same images in two sets of thumbnails [K, side, side, 3], none of them flat.

    Args:
        these: for which a twin is sought.
        others: in which; None: among the earlier ones of `these`.

    Returns:
        Exact twins and near ones, also mirrored, each as position in `these` → position in `others`.
    """
    among_earlier, others = others is None, these if others is None else others
    first: dict[bytes, int] = {}
    for j, thumbnail in enumerate(others):
        first.setdefault(thumbnail.tobytes(), j)
    exact = {i: first[key] for i, thumbnail in enumerate(these) if (key := thumbnail.tobytes()) in first}
    if among_earlier:
        exact = {i: j for i, j in exact.items() if j < i}
    near: dict[int, int] = {}
    steps, plain, flipped = (
        gradient_descriptors(these),
        gradient_descriptors(others),
        gradient_descriptors(others[:, :, ::-1]),
    )
    for start in range(0, len(these), 256):
        block = steps[start : start + 256]
        agreement = np.maximum(block @ plain.T, block @ flipped.T)
        if among_earlier:
            agreement[np.arange(len(others)) >= start + np.arange(len(block))[:, None]] = 0
        for i in np.flatnonzero((agreement >= _ALIKE).any(axis=1)).tolist():
            if start + i not in exact:
                near[start + i] = int(agreement[i].argmax())
    return exact, near


def gradient_descriptors(thumbnails: ImageArray) -> Floats:
    """Return by how much it gets brighter from each of 16 x 16 cells to the next ones, as unit vectors [K, 480].

    As a difference hash, their product hardly depends on brightness, contrast, size and compression of an image; other
    than a hash it gives little weight to bare ground, where single bits are chance.
    """
    k, side = len(thumbnails), _THUMBNAIL // 16
    cells = thumbnails.reshape(k, 16, side, 16, side, 3).mean(axis=(2, 4, 5), dtype=np.float32)
    steps = np.concatenate([np.diff(cells, axis=1).reshape(k, 240), np.diff(cells, axis=2).reshape(k, 240)], axis=1)
    return np.asarray(steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def is_uniform(thumbnails: ImageArray) -> Bools:
    """Return which thumbnails [K, side, side, 3] are of one color."""
    stds = thumbnails.reshape(len(thumbnails), _THUMBNAIL**2, 3).std(axis=1, dtype=np.float32)
    return np.asarray(stds.max(axis=1) < _FLAT)
