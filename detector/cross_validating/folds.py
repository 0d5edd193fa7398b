"""Divides images into folds. Near-duplicates and augmentations of one original are in one fold."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detector.annotation import Annotation
from detector.data.image_groups import break_up, group_images
from detector.data.split import Split
from detector.errors import ConfigError, LabelError
from detector.wording import plural

FEWEST_FOLDS = 2
"""Smallest number of folds."""


class Folds(NamedTuple):
    """The result of `make_folds`.

    Attributes:
        images: for each fold, the ids of its images.
        warnings: what makes the results less reliable, as lines of text.
    """

    images: tuple[frozenset[int], ...]
    warnings: tuple[str, ...]


def make_folds(split: Split, hashes: Mapping[Path, bytes], count: int) -> Folds:
    """Divide the images of a split into folds of about the same number of images and of objects of each class.

    The folds depend on the images and their labels only: not on the folder of the dataset or the order of the images.
    Images without a hash, which cannot be read, are in no fold.

    Args:
        split: the images, which are files.
        hashes: path → hash of the file.
        count: number of folds, at least 2.

    Raises:
        ConfigError: `count` is less than 2.
        LabelError: there are fewer groups of images than folds.
    """
    if count < FEWEST_FOLDS:
        raise ConfigError(f"folds: must be at least {FEWEST_FOLDS}, got {count}")
    groups, searched = group_images(split, hashes)
    warnings = []
    total = sum(map(len, groups))
    largest = -(-total // count)
    parts: list[Sequence[Annotation]] = []
    for group in groups:
        if len(group) <= largest:
            parts.append(group)
            continue
        parts += break_up(group, hashes, max(1, largest // 2), largest)
        warnings.append(
            f"{len(group)} images look the same and have the same boxes, such as {group[0].image_path.name} and "
            f"{group[-1].image_path.name}. They are divided by file name, so AP is too high"
        )
    if len(parts) < count:
        raise LabelError(
            f"{plural(total, 'image')} in {plural(len(parts), 'group')} of different images cannot be divided into "
            f"{count} folds; use fewer folds or more images"
        )
    if not searched:
        warnings.append(
            "the images are too many for a search of near-duplicates: only identical files and augmentations of one "
            "original are kept in one fold"
        )
    return Folds(_assign(parts, hashes, count), tuple(warnings))


def _assign(
    groups: Sequence[Sequence[Annotation]], hashes: Mapping[Path, bytes], count: int
) -> tuple[frozenset[int], ...]:
    """Return the ids of the images of each fold: each group goes where most of its objects are missing.

    Groups with a rare class come first, while all folds still have room for them; groups of one rank are in the random
    order of their hashes.
    """
    contents = [_content(group) for group in groups]
    total = Counter[int]()
    for content in contents:
        total.update(content)
    rarity = [min((total[c] for c in content), default=0) for content in contents]
    order = sorted(range(len(groups)), key=lambda i: (-len(groups[i]), rarity[i], _position(groups[i], hashes)))
    folds: list[set[int]] = [set() for _ in range(count)]
    held = [Counter[int]() for _ in range(count)]

    def load(fold: int, content: Counter[int]) -> tuple[int, float, int]:
        """Return a sort key: an empty fold first, then the fold that has least of what the group contains."""
        filled = sum(held[fold][c] / total[c] for c in content)
        return int(bool(folds[fold])), filled, fold

    for index in order:
        best = min(range(count), key=lambda fold: load(fold, contents[index]))
        folds[best] |= {image.image_id for image in groups[index]}
        held[best].update(contents[index])
    return tuple(map(frozenset, folds))


_IMAGES = -1
"""Key of the number of images beside the numbers of objects of each class."""


def _content(group: Sequence[Annotation]) -> Counter[int]:
    """Return class id → number of objects, and `_IMAGES` → number of images."""
    objects = Counter(int(c) for image in group for c in image.class_ids[~image.is_crowd])
    objects[_IMAGES] = len(group)
    return objects


def _position(group: Sequence[Annotation], hashes: Mapping[Path, bytes]) -> bytes:
    """Return random bytes that belong to a group of images."""
    return hashlib.blake2b(min(hashes[image.image_path] for image in group), digest_size=8, person=b"folds").digest()
