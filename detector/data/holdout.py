"""Holds back a fraction of the training images for evaluation, if a dataset has no val split.

The side of an image follows from the hash of its file. So the same images always give the same val split, in any order
and in any folder, and images that are added later do not move the others. Near-duplicates and augmentations of one
original stay on one side. Then a few groups are moved, so that the number of images is within its limits and every
class is on both sides, where that is possible.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detector.annotation import Annotation
from detector.data.holdout_sides import Group, choose_sides
from detector.data.image_groups import break_up, group_images
from detector.data.split import Split, select
from detector.errors import LabelError
from detector.image_hashes import HASH_BYTES, NO_IMAGES, ImageHashes

MIN_IMAGES = 10
"""From fewer images, nothing is held back."""

_MIN_PART = 5
"""Smallest size of the parts of a large group, in images."""


@dataclass(frozen=True, eq=False)
class Holdout:
    """The result of `hold_back`.

    Attributes:
        train: the images that are not held back, under the name of the original split.
        held_back: the images that are held back; None: no images.
        notes: what was done, or why nothing was held back, as lines of text.
        warnings: what makes the results less reliable, as lines of text.
    """

    train: Split
    held_back: Split | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def hold_back(
    split: Split,
    fraction: float,
    hashes: Mapping[Path, bytes],
    *,
    name: str = "val",
    known: ImageHashes = NO_IMAGES,
) -> Holdout:
    """Divide a training split into a smaller training split and a split for evaluation.

    At least 5 images and at most a third are held back, and none of fewer than 10. Images without a hash, which cannot
    be read, are not held back.

    Args:
        split: the training split; its images are files.
        fraction: fraction of the images to hold back, 0..1.
        hashes: path → hash of the file.
        name: name of the new split. Another name gives another choice of images.
        known: hashes of the images of initial weights: what these weights held back is held back again, and what they
            were trained on is not held back.

    Raises:
        LabelError: the initial weights have held back all images, so no image is left for training.
    """
    images = [annotation for annotation in split.annotations if annotation.image_path in hashes]
    count, limit = len(images), len(images) // 3
    if count < MIN_IMAGES and not any(hashes[image.image_path] in known.val - known.train for image in images):
        return Holdout(split, None, (f"{name}: no images are held back, because {count} images are too few",))
    groups, searched = group_images(split, hashes)
    sided: list[Group] = []
    for group in groups:
        if len(group) <= limit:
            sided += _with_sides(group, fraction, hashes, name, known)
        else:
            parts = break_up(group, hashes, max(_MIN_PART, round(fraction * len(group))), limit)
            sides = [side for part in parts for side in _with_sides(part, fraction, hashes, name, known)]
            _hold_back_one(sides)
            sided += sides
    choose_sides(sided, limit)
    ids = {image.image_id for group in sided if group.is_held_back for image in group.images}
    if not ids:
        reason = (
            "the initial weights were trained on them (--weights none: random weights), or they are training images of "
            "another dataset of the run"
            if known.train
            else "training needs each of them"
        )
        return Holdout(split, None, (f"{name}: no images are held back, because {reason}",))
    if len(ids) == len(split.annotations):
        raise LabelError(
            f"the initial weights have held back all {len(ids)} images of the split '{split.name}', so no image is "
            "left for training; to train on them, use --val-fraction 0"
        )
    others = {annotation.image_id for annotation in split.annotations} - ids
    purpose = "testing" if name == "test" else "validation"
    return Holdout(
        select(split, split.name, others, unassigned_rows=True),
        replace(select(split, name, ids), held_back=True),
        (f"{name}: {len(ids)} of {len(split.annotations)} images are held back for {purpose}",)
        + (() if searched else (_NOT_SEARCHED,)),
        tuple(_large_group_warning(name, group) for group in groups if len(group) > limit),
    )


_NOT_SEARCHED = (
    "the images are too many for a search of near-duplicates: only identical files and augmentations of one original "
    "are kept on one side"
)


def _large_group_warning(name: str, group: Sequence[Annotation]) -> str:
    """Return the warning about a group that was divided."""
    return (
        f"{name}: {len(group)} images look the same and have the same boxes, such as {group[0].image_path.name} and "
        f"{group[-1].image_path.name}. They are divided by file name, so images of {name} are similar to training "
        "images, and AP is too high"
    )


def _hold_back_one(parts: Sequence[Group]) -> None:
    """Hold back one part of a large group, which is enough: its size is the fraction to hold back; changes `parts`."""
    free = sorted((part for part in parts if not part.is_fixed), key=lambda part: part.position)
    for part in free:
        part.is_held_back = part is free[0] and len(free) == len(parts)


def _with_sides(
    images: Sequence[Annotation], fraction: float, hashes: Mapping[Path, bytes], name: str, known: ImageHashes
) -> Iterator[Group]:
    """Yield the images as one group; as two groups if the initial weights were trained on only some of them."""
    own = [hashes[image.image_path] for image in images]
    # Hashing the hash again gives another choice of images for each name.
    digest = hashlib.blake2b(min(own), digest_size=HASH_BYTES, person=name.encode()[: hashlib.blake2b.PERSON_SIZE])
    position = int.from_bytes(digest.digest()) / 2 ** (8 * HASH_BYTES)
    trained = not known.train.isdisjoint(own)
    was_held_back = [digest in known.val and digest not in known.train for digest in own]
    if not trained and not any(was_held_back):
        yield Group(images, position, is_held_back=position < fraction)
        return
    held_back = [image for image, is_old in zip(images, was_held_back, strict=True) if is_old or not trained]
    others = [image for image, is_old in zip(images, was_held_back, strict=True) if not is_old and trained]
    for part, is_held_back in ((held_back, True), (others, False)):
        if part:
            yield Group(part, position, is_held_back, is_fixed=True)
