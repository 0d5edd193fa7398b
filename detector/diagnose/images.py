"""Findings about images: images of a single color, copies, images in two splits, and images of too few gray levels.

The checks of copies compare thumbnails. If there are very many images, only an evenly spaced sample of the images is
checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from detector.annotation import Annotation
from detector.arrays import ImageArray, Ints
from detector.data.near_duplicates import (
    Thumbnails,
    boxes_agree,
    find_identical,
    find_near_duplicates,
    is_uniform,
    original_name,
)
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding, Verdict
from detector.diagnose.objects import first_few
from detector.errors import InputError
from detector.mirror import read_file
from detector.wording import plural

_MAX_SHARED = 0.05
"""If more than this fraction of an evaluation split are training images, its scores are wrong."""

_FEW_NEAR = 0.01
"""A few near copies in an evaluation split hardly change its scores."""

_MAX_NEAR = 0.5
"""Largest acceptable fraction of near copies in the training split, which cost time and add nothing to learn."""

_SINGLE_COLOR = 8
"""An image has a single color if no channel differs by more levels than this, at full size: noise of a camera."""

_MAX_FULL_SIZE = 64
"""Largest number of images with a uniform thumbnail that are decoded at full size."""


def diagnose_shared_files(splits: Sequence[Split]) -> Finding:
    """Check that no image file of the training split is also in another split, and return a finding."""
    train = {annotation.image_path for annotation in splits[0].annotations}
    shared: set[Path] = set()
    largest = 0.0
    for other in splits[1:]:
        both = train.intersection(annotation.image_path for annotation in other.annotations)
        shared |= both
        largest = max(largest, len(both) / max(1, len(other.annotations)))
    verdict: Verdict = "stop" if largest > _MAX_SHARED else "look" if shared else "ok"
    files = plural(len(shared), "file")
    return Finding(
        "data: shared files",
        verdict,
        f"{files} of {splits[0].name} {'is' if len(shared) == 1 else 'are'} also in other splits",
        "none",
        "Scores on training images are meaningless. Remove these files from one of the splits: "
        f"{first_few(sorted(shared))}."
        if shared
        else "",
    )


def diagnose_images(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Check that every image can be decoded and has more than one color, and return a finding."""
    checked = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    unreadable = [path for t in thumbnails for path in t.unreadable]
    uniform = [path for t in thumbnails for path in _single_color(t)]
    bad = [*unreadable, *uniform]
    verdict: Verdict = "stop" if len(bad) > checked / 2 else "look" if bad else "ok"
    return Finding(
        "data: images",
        verdict,
        f"{len(uniform)} of {_count_text(thumbnails)} {'has' if len(uniform) == 1 else 'have'} a single color, "
        f"{len(unreadable)} cannot be decoded",
        "none",
        f"Check {'this file' if len(bad) == 1 else 'these files'}: {first_few(bad)}." if bad else "",
    )


def _single_color(thumbnails: Thumbnails) -> list[Path]:
    """Return the paths of the images that have a single color.

    A thumbnail does not show small objects on a uniform background. So an image whose thumbnail is uniform is decoded
    at full size, unless there are very many: then the others of the same kind are assumed to be like a sample.
    """
    rows = np.flatnonzero(is_uniform(thumbnails.pixels)).tolist()
    by_path = {annotation.image_path: annotation for annotation in thumbnails.split.annotations}
    sample = evenly_spaced(rows, _MAX_FULL_SIZE)
    flat = [row for row in sample if _is_single_color(thumbnails.split, by_path[thumbnails.paths[row]])]
    if len(flat) == len(sample):
        flat = rows
    return [thumbnails.paths[row] for row in flat]


def _is_single_color(split: Split, annotation: Annotation) -> bool:
    """Return True if no channel of the image, at full size, differs by more than `_SINGLE_COLOR` levels."""
    try:
        image = split.read_image(annotation)
    except InputError:
        return True
    return bool(np.ptp(image.reshape(-1, 3), axis=0).max() <= _SINGLE_COLOR)


@dataclass(frozen=True, eq=False)
class _Images:
    """The images of a split whose thumbnails show something, with the annotations.

    Attributes:
        thumbnails: thumbnails of the split.
        rows: [K] indices in `thumbnails` of the images that are not uniform.
    """

    thumbnails: Thumbnails
    rows: Ints

    @property
    def pixels(self) -> ImageArray:
        """Thumbnails [K, side, side, 3]."""
        return self.thumbnails.pixels[self.rows]

    def path(self, index: int) -> Path:
        """Return the path of image `index`, 0..K-1."""
        return self.thumbnails.paths[int(self.rows[index])]

    def annotation(self, index: int) -> Annotation:
        """Return the annotation of image `index`, 0..K-1."""
        return self._by_path[self.path(index)]

    @cached_property
    def _by_path(self) -> dict[Path, Annotation]:
        return {annotation.image_path: annotation for annotation in self.thumbnails.split.annotations}


@dataclass(frozen=True)
class _Copies:
    """Pairs of images that are copies of each other, as indices in two `_Images`.

    Attributes:
        exact: pairs whose files have equal bytes; for rendered images, pairs with equal thumbnails.
        near: other pairs that look the same and whose boxes agree.
        augmented: pairs that are augmentations of one original, by their file names, with different bytes.
    """

    exact: list[tuple[int, int]]
    near: list[tuple[int, int]]
    augmented: list[tuple[int, int]]


def _find_copies(images: _Images, references: _Images | None = None) -> _Copies:
    """Return the copies among images, or between images and references; at most one pair per image.

    Images that look the same are copies only if their boxes agree: with a fixed camera, all images look the same, but
    the objects are elsewhere. Images without objects then count only if their bytes are equal.
    """
    others = references or images
    similar = find_near_duplicates(images.pixels, None if references is None else references.pixels)
    augmented = _find_augmented(images, references)
    exact = _with_equal_bytes(similar.exact, images, others)
    near = []
    for i, j in sorted({**similar.near, **similar.exact}.items() - set(exact)):
        a, b = images.annotation(i), others.annotation(j)
        if i not in augmented and len(a.boxes) and boxes_agree(a, b):
            near.append((i, j))
    for i, _ in exact:
        augmented.pop(i, None)
    return _Copies(exact, near, list(augmented.items()))


def _with_equal_bytes(identical: Mapping[int, int], images: _Images, others: _Images) -> list[tuple[int, int]]:
    """Return the pairs of images with identical thumbnails whose files have equal bytes."""
    split, other_split = images.thumbnails.split, others.thumbnails.split
    return [
        (i, j)
        for i, j in sorted(identical.items())
        if _equal_bytes(split, images.annotation(i), other_split, others.annotation(j))
    ]


def _find_augmented(images: _Images, references: _Images | None) -> dict[int, int]:
    """Return index of an image → index of the first reference with the same original, by the file names.

    Args:
        images: the images.
        references: the references; None: the earlier images.
    """
    first: dict[str, int] = {}
    if references is not None:
        for j in range(len(references.rows)):
            if name := original_name(references.path(j)):
                first.setdefault(name, j)
    found = {}
    for i in range(len(images.rows)):
        if name := original_name(images.path(i)):
            if name in first:
                found[i] = first[name]
            elif references is None:
                first[name] = i
    return found


def _equal_bytes(split: Split, annotation: Annotation, other_split: Split, other: Annotation) -> bool:
    """Return True if the files of two images have equal bytes; also if one of the images has no file."""
    if not (split.from_files and other_split.from_files):
        return True
    try:
        if annotation.image_path.stat().st_size != other.image_path.stat().st_size:
            return False
        return read_file(annotation.image_path) == read_file(other.image_path)
    except OSError:
        return False


def _visible(thumbnails: Thumbnails) -> _Images:
    """Return the images whose thumbnails are not uniform."""
    return _Images(thumbnails, np.flatnonzero(~is_uniform(thumbnails.pixels)))


def diagnose_duplicate_images(train: Thumbnails) -> Finding:
    """Check that no training images are exact copies and at most half are near copies of others; return a finding.

    Augmentations of one original are not copies, even if they look the same.
    """
    images = _visible(train)
    copies = _find_copies(images)
    near = copies.near
    exact = [(i, j) for i, j in copies.exact if not _same_original(images.path(i), images.path(j))]
    augmented = len(copies.augmented) + len(copies.exact) - len(exact)
    too_many = bool(exact) or len(near) > _MAX_NEAR * len(images.rows)
    pairs = (f"{images.path(i)} = {images.path(j)}" for i, j in chain(exact, near))
    measured = (
        f"{len(exact)} of {_count_text([train])} {'is an exact copy' if len(exact) == 1 else 'are exact copies'} of an "
        f"earlier image, {len(near)} {'is a near copy' if len(near) == 1 else 'are near copies'} with the same boxes"
    )
    if augmented:
        measured += (
            f"; {augmented} {'is another augmentation' if augmented == 1 else 'are other augmentations'} of the "
        )
        measured += "original of an earlier image"
    return Finding(
        "data: duplicate images",
        "look" if too_many else "ok",
        measured,
        f"no exact copies, at most {_MAX_NEAR:.0%} near copies",
        f"Copies, such as neighboring video frames, add nothing to learn. Remove one of each pair: {first_few(pairs)}."
        if too_many
        else "",
    )


def _same_original(a: Path, b: Path) -> bool:
    """Return True if the file names of two images tell that they are augmentations of one original."""
    return (name := original_name(a)) is not None and name == original_name(b)


def diagnose_different_labels(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Check that images with equal bytes have equal labels, in all splits together, and return a finding."""
    images = [_visible(t) for t in thumbnails]
    pairs = []
    for place, own in enumerate(images):
        for others in images[: place + 1]:
            identical = find_identical(own.pixels, None if others is own else others.pixels)
            for i, j in _with_equal_bytes(identical, own, others):
                a, b = own.annotation(i), others.annotation(j)
                if not _equal_labels(a, b):
                    names = own.thumbnails.split.class_names
                    pairs.append(f"{b.image_path} ({_rows(b, a, names)}) = {a.image_path} ({_rows(a, b, names)})")
    return Finding(
        "data: different labels",
        "look" if pairs else "ok",
        f"{plural(len(pairs), 'pair')} of images with equal bytes and different labels",
        "none",
        f"One of the two label files is wrong or incomplete: {first_few(pairs)}." if pairs else "",
    )


def _equal_labels(a: Annotation, b: Annotation) -> bool:
    """Return True if two images of equal size have equal boxes up to rounding, in any order."""
    return len(a.boxes) == len(b.boxes) and not _only_in_first(a, b) and not _only_in_first(b, a)


def _only_in_first(a: Annotation, b: Annotation) -> list[int]:
    """Return the indices of the boxes of `a` for which `b` has no box of the same class within one pixel."""
    distance = np.abs(a.boxes[:, None] - b.boxes).max(axis=2, initial=0)
    same = (a.class_ids[:, None] == b.class_ids) & (distance < 1)
    return np.flatnonzero(~same.any(axis=1)).tolist()


def _rows(annotation: Annotation, other: Annotation, class_names: Sequence[str]) -> str:
    """Return the first label of an image that its copy does not have, or the number of its labels."""
    rows = _only_in_first(annotation, other)
    if not rows:
        return plural(len(annotation.boxes), "box", "boxes")
    x1, y1, x2, y2 = annotation.boxes[rows[0]].tolist()
    return f"{class_names[annotation.class_ids[rows[0]]]} {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}"


def diagnose_leakage(thumbnails: Sequence[Thumbnails]) -> Finding:
    """Check that no image of an evaluation split is a copy of a training image, and return a finding.

    Augmentations of one original in both splits are copies too.

    Args:
        thumbnails: thumbnails of each split, the training split first.
    """
    train, *others = thumbnails
    sampled_fraction = len(train.paths) / max(1, len(train.split.annotations))
    in_train = _visible(train)
    counts, pairs, largest, near, augmented = [], [], 0.0, 0.0, 0
    for other in others:
        in_other = _visible(other)
        copies = _find_copies(in_other, in_train)
        certain = len(copies.exact) + len(copies.augmented)
        # If both splits are sampled, the sample of the other split does not contain most of the copies.
        smaller = max(1, min(len(in_train.rows), len(in_other.rows)))
        largest = max(largest, certain / smaller / max(sampled_fraction, 1e-9))
        near = max(near, len(copies.near) / smaller)
        augmented += len(copies.augmented)
        counts.append(f"{len(copies.exact)} exact and {len(copies.near)} near in {other.split.name}")
        all_pairs = chain(copies.exact, copies.augmented, copies.near)
        pairs += [f"{in_other.path(i)} = {in_train.path(j)}" for i, j in all_pairs]
    measured = f"copies of {train.split.name} images: {', '.join(counts) or 'no other split'}"
    if augmented:
        images = plural(augmented, "image has", "images have")
        measured += f"; augmentations of one original in both splits: {images} the original of a training image"
    verdict: Verdict = "stop" if largest > _MAX_SHARED else "look" if largest or near > _FEW_NEAR else "ok"
    return Finding(
        "data: leakage",
        verdict,
        f"{measured}; {_count_text(thumbnails)} checked",
        f"no exact copies, at most {_FEW_NEAR:.0%} near copies",
        "Scores on training images are too high: split the images again, so that copies, augmentations of one original "
        f"and neighboring video frames are in the same split. Copies: {first_few(pairs)}."
        if verdict != "ok"
        else "",
    )


def _count_text(thumbnails: Sequence[Thumbnails]) -> str:
    """Return a text with the number of checked images; if only a sample was checked, also the number of all images."""
    checked = sum(len(t.paths) + len(t.unreadable) for t in thumbnails)
    total = sum(len(t.split.annotations) for t in thumbnails)
    return plural(checked, "image") + (f" (a sample of {total})" if checked < total else "")
