"""Groups the images of a split that must not be divided between training and evaluation.

Images are in one group if their files have the same bytes, if they are augmentations of one original, or if they look
the same and have the same boxes.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detector.annotation import Annotation, annotation_bytes
from detector.arrays import Floats
from detector.data.near_duplicates import (
    boxes_agree,
    can_search,
    is_uniform,
    original_name,
    read_thumbnails,
    similar_pairs,
)
from detector.data.split import Split

_MAX_SIMILAR = 10
"""Number of similar images whose boxes are compared with those of an image.

This bounds the time: in the images of a fixed camera, all pairs are similar.
"""


class _Sets:
    """Disjoint sets of the numbers 0 to `count` - 1 (union-find)."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def find(self, item: int) -> int:
        """Return the number that stands for the set of `item`."""
        while self._parents[item] != item:
            self._parents[item] = self._parents[self._parents[item]]
            item = self._parents[item]
        return item

    def join(self, items: Iterable[int]) -> None:
        """Merge the sets of all items."""
        first, *others = map(self.find, items)
        for other in others:
            self._parents[self.find(other)] = self.find(first)

    def all(self, items: Iterable[int]) -> list[list[int]]:
        """Return all sets, restricted to `items`."""
        members = defaultdict[int, list[int]](list)
        for item in items:
            members[self.find(item)].append(item)
        return list(members.values())


def group_images(split: Split, hashes: Mapping[Path, bytes]) -> tuple[list[list[Annotation]], bool]:
    """Return the groups of images, and whether near-duplicates were searched.

    The groups do not depend on the order of the images or on the folder of the dataset. In a split with too many
    images (see `near_duplicates.can_search`), only identical files and augmentations of one original are grouped.

    Args:
        split: a split whose images are files.
        hashes: path → hash of the file. Images without a hash are in no group.
    """
    images = [annotation for annotation in split.annotations if annotation.image_path in hashes]
    # In this order, all results are the same for the same images.
    images.sort(key=lambda image: (hashes[image.image_path], annotation_bytes(image), image.image_path.name))
    sets = _Sets(len(images))
    for same in _by_key((hashes[image.image_path] for image in images), range(len(images))):
        sets.join(same)
    originals = [original_name(image.image_path) for image in images]
    for same in _by_key(originals, range(len(images))):
        if originals[same[0]] is not None:
            sets.join(same)
    searched = can_search(split)
    if searched:
        different = [same[0] for same in _by_key((hashes[image.image_path] for image in images), range(len(images)))]
        _join_near_duplicates(split, images, different, sets)
    return [[images[i] for i in members] for members in sets.all(range(len(images)))], searched


def _by_key(keys: Iterable[Hashable], items: Iterable[int]) -> list[list[int]]:
    """Return lists of the items that have the same key."""
    members = defaultdict[Hashable, list[int]](list)
    for key, item in zip(keys, items, strict=True):
        members[key].append(item)
    return list(members.values())


def _join_near_duplicates(split: Split, images: Sequence[Annotation], different: Sequence[int], sets: _Sets) -> None:
    """Join the sets of images that look the same and have the same boxes.

    Args:
        split: the split of the images.
        images: all images, in the order of their hashes.
        different: indices of the images to compare.
        sets: the sets, which are changed.
    """
    numbers = {images[i].image_path: i for i in different}
    [thumbnails] = read_thumbnails([replace(split, annotations=tuple(images[i] for i in different))])
    kept = np.flatnonzero(~is_uniform(thumbnails.pixels))
    indices = [numbers[thumbnails.paths[k]] for k in kept]
    objects = [tuple(np.sort(images[i].class_ids[~images[i].is_crowd]).tolist()) for i in indices]
    numbers_of = {classes: number for number, classes in enumerate(set(objects))}
    classes = np.array([numbers_of[own] for own in objects], dtype=np.int64)
    means, tolerances = _mean_boxes([images[i] for i in indices])
    for k, found, correlation in similar_pairs(thumbnails.pixels[kept]):
        tolerance = np.maximum(tolerances[found], tolerances[k])
        may_agree = (np.abs(means[found] - means[k]) <= tolerance).all(axis=1) & (classes[found] == classes[k])
        best = np.argsort(-correlation[may_agree], kind="stable")[:_MAX_SIMILAR]
        for j in found[may_agree][best].tolist():
            a, b = indices[k], indices[j]
            if sets.find(a) != sets.find(b) and boxes_agree(images[a], images[b]):
                sets.join((a, b))


def _mean_boxes(images: Sequence[Annotation]) -> tuple[Floats, Floats]:
    """Return numbers that are nearly the same for images whose boxes agree, so that few images need to be compared.

    Returns:
        The means [K, 4] over the boxes of each image: distance of the center from the middle (equal for flipped
        images), y of the center, width, height, as fractions of the image size; and the tolerances [K, 4]. They are 0
        for images without objects.
    """
    means, tolerances = (np.zeros((len(images), 4), np.float32) for _ in range(2))
    for k, image in enumerate(images):
        boxes = image.boxes[~image.is_crowd] / np.array([*image.image_hw[::-1]] * 2, dtype=np.float32)
        if len(boxes):
            width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
            x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
            means[k] = [column.mean() for column in (np.abs(x - 0.5), y, width, height)]
            # Boxes with an IoU of 0.8 differ by at most a quarter of their size; rounding adds up to two pixels.
            pixel = 2 / np.array([*image.image_hw[::-1]] * 2, dtype=np.float32)
            tolerances[k] = np.tile(means[k, 2:], 2) / 4 + pixel
    return means, tolerances


def break_up(
    group: Sequence[Annotation], hashes: Mapping[Path, bytes], size: int, limit: int
) -> list[list[Annotation]]:
    """Divide a group that is too large into parts of consecutive file names, and return the parts.

    Neighbors by name are often neighbors in time, so fewer near-duplicates are divided than by a random choice.

    Args:
        group: images of the group.
        hashes: path → hash of the file. Identical files stay in one part.
        size: number of images of a part; a part may be larger if augmentations of one original stay together.
        limit: largest number of images of a part, unless more files are identical.
    """
    parts: list[list[Annotation]] = []
    for unit in sorted(_units(group, hashes, limit), key=lambda unit: _name_key(unit[0])):
        if parts and len(parts[-1]) < size and len(parts[-1]) + len(unit) <= limit:
            parts[-1] += unit
        else:
            parts.append(list(unit))
    return parts


def _units(group: Sequence[Annotation], hashes: Mapping[Path, bytes], limit: int) -> Iterator[list[Annotation]]:
    """Yield the parts of a group that stay together: identical files, and up to `limit` versions of one original."""
    images = sorted(group, key=_name_key)
    keys = [hashes[image.image_path] for image in images]
    sets = _Sets(len(images))
    originals = [original_name(image.image_path) or keys[i] for i, image in enumerate(images)]
    for same in (*_by_key(keys, range(len(images))), *_by_key(originals, range(len(images)))):
        sets.join(same)
    for members in sets.all(range(len(images))):
        if len(members) <= limit:
            yield [images[i] for i in members]
        else:
            yield from ([images[i] for i in same] for same in _by_key((keys[i] for i in members), members))


def _name_key(image: Annotation) -> tuple[list[tuple[str, int]], str]:
    """Return a sort key for the file name of an image, in which `2.jpg` comes before `10.jpg`."""
    name = image.image_path.name
    return [(text, int(digits or 0)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)], name
