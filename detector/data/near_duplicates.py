"""Finds near-duplicate images of splits by comparing the brightness gradients of their thumbnails."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from detector.annotation import Annotation, pixel_count
from detector.arrays import Bools, Floats, ImageArray, Ints
from detector.boxes import pairwise_iou
from detector.data.split import Split, evenly_spaced
from detector.errors import InputError
from detector.images import read_thumbnail
from detector.mirror import read_threads

_THUMBNAIL = 32
"""Side of a thumbnail in pixels. A JPEG image of at least 512 pixels per side is decoded at 1/8 scale for it."""

_MAX_FILES = 5000
_MAX_RENDERED = 600
_MAX_PIXELS = 1.5e9
"""Limits for all thumbnails together: number of image files, number of rendered images, and number of image pixels.

Within these limits, reading the thumbnails takes about five seconds. The limit for rendered images is lower, because
they have to be rendered at full size.
"""

_UNIFORM_STD = 2.0
"""A thumbnail counts as uniform if the standard deviation of each channel is smaller (pixel values 0..255)."""

_NEAR_CORRELATION = 0.97
"""Lowest correlation of the brightness gradients (inclusive) at which two images count as near duplicates.

Measured: darkened, shrunk, compressed or noisy copies 0.98 to 1 (0.87 on bare floor), different images of a microscope
at most 0.38, different objects on the same floor under the same lamp at most 0.969.
"""

_SAME_BOX_IOU = 0.8
"""Lowest IoU (inclusive) at which a box of an image and a box of its copy are the same box."""

_ROUNDING = 1.0
"""Two boxes whose sides differ by at most this distance are the same box too, in pixels of the smaller image.

Boxes in label files are often rounded to whole pixels, which changes the IoU of a tiny box by more than 0.2.
"""

_ROBOFLOW_NAME = re.compile(r"(?P<original>.+)\.rf\.[0-9A-Za-z]+")
"""File name without extension of an image that Roboflow exported: the name of its original, and a hash."""

_BLOCK = 256
"""Number of thumbnails that one matrix product compares with all references."""


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Thumbnails of all images of a split, or of an evenly spaced sample of the images.

    Attributes:
        split: the split that contains the images.
        paths: paths of the K images whose thumbnails were read.
        pixels: [K, side, side, 3] RGB thumbnails; each image is stretched to a square.
        unreadable: paths of the images of the sample that cannot be decoded.
    """

    split: Split
    paths: tuple[Path, ...]
    pixels: ImageArray
    unreadable: tuple[Path, ...]


class Duplicates(NamedTuple):
    """Pairs of a thumbnail and a reference thumbnail that look the same.

    Attributes:
        exact: index of a thumbnail → index of an identical reference.
        near: index of a thumbnail → index of the most similar reference; only for thumbnails that have a near duplicate
            but no identical reference.
    """

    exact: dict[int, int]
    near: dict[int, int]


def read_thumbnails(splits: Sequence[Split]) -> list[Thumbnails]:
    """Read the images of each split as thumbnails, and return one `Thumbnails` object per split.

    If the splits have too many images, only an evenly spaced sample of the images of each split is read.
    """
    total = sum(len(split.annotations) for split in splits)
    pixels = sum(pixel_count(split.annotations) for split in splits)
    max_images = _MAX_FILES if all(split.from_files for split in splits) else _MAX_RENDERED
    fraction = min(1.0, max_images / total, _MAX_PIXELS / pixels)
    with ThreadPoolExecutor(max_workers=read_threads()) as pool:
        return [_read_thumbnails(split, fraction, pool) for split in splits]


def _read_thumbnails(split: Split, fraction: float, pool: ThreadPoolExecutor) -> Thumbnails:
    def read(annotation: Annotation) -> ImageArray | None:
        try:
            if split.from_files:
                return read_thumbnail(annotation.image_path, _THUMBNAIL, max_pixels=split.max_pixels)
            return thumbnail_of(split.read_image(annotation))
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


def thumbnail_of(image: ImageArray) -> ImageArray:
    """Return the thumbnail [side, side, 3] of a decoded image [H, W, 3]; the image is stretched to a square."""
    return np.asarray(cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)


def find_near_duplicates(thumbnails: ImageArray, references: ImageArray | None = None) -> Duplicates:
    """Return the pairs of a thumbnail and a reference thumbnail that look the same, also after a horizontal flip.

    Args:
        thumbnails: [K, side, side, 3], not uniform (see `is_uniform`).
        references: [R, side, side, 3], not uniform; None: compare each thumbnail with the thumbnails before it.

    Returns:
        Exact and near duplicates, each as index in `thumbnails` → index in `references` (in `thumbnails` if
        `references` is None). Only an unflipped reference can be an exact duplicate.
    """
    only_earlier = references is None
    if references is None:
        references = thumbnails
    exact = find_identical(thumbnails, None if only_earlier else references)
    near: dict[int, int] = {}
    for start, correlation in _correlations(thumbnails, references):
        if only_earlier:
            correlation[np.arange(len(references)) >= start + np.arange(len(correlation))[:, None]] = 0
        for i in np.flatnonzero((correlation >= _NEAR_CORRELATION).any(axis=1)).tolist():
            if start + i not in exact:
                near[start + i] = int(correlation[i].argmax())
    return Duplicates(exact, near)


def similar_pairs(thumbnails: ImageArray) -> Iterator[tuple[int, Ints, Floats]]:
    """Find all pairs of thumbnails that look the same, also after a horizontal flip.

    Args:
        thumbnails: [K, side, side, 3], not uniform (see `is_uniform`).

    Yields:
        For each thumbnail: its index, the indices of all earlier thumbnails that look the same, and how similar they
        are (the correlation).
    """
    for start, correlation in _correlations(thumbnails, thumbnails):
        for i, row in enumerate(correlation, start):
            found = np.flatnonzero(row[:i] >= _NEAR_CORRELATION)
            yield i, found, row[found]


def _correlations(thumbnails: ImageArray, references: ImageArray) -> Iterator[tuple[int, Floats]]:
    """Yield (index of the first thumbnail, correlations [block, R] with all references) of each block of thumbnails.

    A reference also counts in its flipped form.
    """
    descriptors = gradient_descriptors(thumbnails)
    plain, flipped = gradient_descriptors(references), gradient_descriptors(references[:, :, ::-1])
    for start in range(0, len(thumbnails), _BLOCK):
        block = descriptors[start : start + _BLOCK]
        yield start, np.maximum(block @ plain.T, block @ flipped.T)


def can_search(split: Split) -> bool:
    """Return whether a split is small enough for a search of near duplicates that misses none."""
    return len(split.annotations) <= _MAX_FILES and pixel_count(split.annotations) <= _MAX_PIXELS


def find_identical(thumbnails: ImageArray, references: ImageArray | None = None) -> dict[int, int]:
    """Return index of a thumbnail → index of the first identical reference, for thumbnails that have one.

    Args:
        thumbnails: [K, side, side, 3].
        references: [R, side, side, 3]; None: compare each thumbnail with the thumbnails before it.
    """
    first: dict[bytes, int] = {}
    for j, reference in enumerate(thumbnails if references is None else references):
        first.setdefault(reference.tobytes(), j)
    found = {i: first[key] for i, thumbnail in enumerate(thumbnails) if (key := thumbnail.tobytes()) in first}
    return {i: j for i, j in found.items() if references is not None or j < i}


def original_name(path: Path) -> str | None:
    """Return the name of the original that an image was made from, or None if the file name does not tell it.

    Roboflow writes each augmented version of an original as `NAME.rf.HASH.jpg`, where NAME is the same for all versions
    and usually ends with the former extension, as in `a_jpg`.

    >>> original_name(Path("train/a_jpg.rf.0f3c.jpg")), original_name(Path("a.jpg"))
    ('a_jpg', None)
    """
    match = _ROBOFLOW_NAME.fullmatch(path.stem)
    return match["original"] if match else None


def boxes_agree(a: Annotation, b: Annotation) -> bool:
    """Return True if two images have the same objects at the same positions, also if one of the images is flipped.

    Images that look the same are copies only if their boxes agree: in two images of a fixed camera, the objects are at
    different positions. The images may have different sizes; both are stretched to the smaller one. Crowd regions are
    ignored. Two images without objects agree.
    """
    a_boxes, b_boxes = a.boxes[~a.is_crowd], b.boxes[~b.is_crowd]
    a_classes, b_classes = a.class_ids[~a.is_crowd], b.class_ids[~b.is_crowd]
    if not np.array_equal(np.sort(a_classes), np.sort(b_classes)):
        return False
    height, width = min(a.image_hw, b.image_hw, key=lambda hw: hw[0] * hw[1])
    a_boxes, b_boxes = (
        boxes * np.array([width / hw[1], height / hw[0]] * 2, dtype=np.float32)
        for boxes, hw in ((a_boxes, a.image_hw), (b_boxes, b.image_hw))
    )
    flipped = np.stack([width - b_boxes[:, 2], b_boxes[:, 1], width - b_boxes[:, 0], b_boxes[:, 3]], axis=1)
    same_class = a_classes[:, None] == b_classes
    return any(_all_boxes_match(a_boxes, boxes, same_class) for boxes in (b_boxes, flipped))


def _all_boxes_match(a: Floats, b: Floats, allowed: Bools) -> bool:
    """Return True if each of N boxes `a` [N, 4] can be paired with another one of the N boxes `b` [N, 4].

    Args:
        a: boxes of one image.
        b: boxes of the other image, in the same unit.
        allowed: [N, N], True where the boxes may be paired.
    """
    distance = np.abs(a[:, None] - b).max(axis=2, initial=0)
    iou = pairwise_iou(a, b)
    quality = np.where(allowed & ((iou >= _SAME_BOX_IOU) | (distance <= _ROUNDING)), 1 + iou, 0)
    # The best pairs first: overlapping objects would otherwise take the partner of another object.
    free_a, free_b = np.ones(len(a), dtype=np.bool_), np.ones(len(b), dtype=np.bool_)
    for i, j in zip(*np.unravel_index(np.argsort(-quality, axis=None, kind="stable"), quality.shape), strict=True):
        if quality[i, j] and free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
    return not free_a.any()


def gradient_descriptors(thumbnails: ImageArray) -> Floats:
    """Return a feature vector per thumbnail: the brightness differences between neighboring cells of a 16 x 16 grid.

    The dot product of two such vectors hardly depends on the brightness, contrast, size and compression of the images.
    The same is true for a difference hash. But in uniform areas the bits of a hash are random, while the small
    differences of a feature vector have little weight there.

    Args:
        thumbnails: [K, side, side, 3].

    Returns:
        [K, 480] unit vectors: 16 * 15 vertical and 16 * 15 horizontal differences per thumbnail.
    """
    k, side = len(thumbnails), _THUMBNAIL // 16
    cells = thumbnails.reshape(k, 16, side, 16, side, 3).mean(axis=(2, 4, 5), dtype=np.float32)
    steps = np.concatenate([np.diff(cells, axis=1).reshape(k, 240), np.diff(cells, axis=2).reshape(k, 240)], axis=1)
    return np.asarray(steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def is_uniform(thumbnails: ImageArray) -> Bools:
    """Return a mask of the thumbnails that have almost the same color everywhere.

    Args:
        thumbnails: [K, side, side, 3].

    Returns:
        A mask [K]: True where the standard deviation of each channel of the thumbnail is below `_UNIFORM_STD`.
    """
    stds = thumbnails.reshape(len(thumbnails), _THUMBNAIL**2, 3).std(axis=1, dtype=np.float32)
    return np.asarray(stds.max(axis=1) < _UNIFORM_STD)
