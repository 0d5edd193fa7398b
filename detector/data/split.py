"""One split of a data set, read: the images with their objects, and the account of every row."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.data.ledger import Ledger
from detector.images import read_image

_Item = TypeVar("_Item")


def canonical_name(name: str) -> str:
    """Return "train", "val" or "test" for the ways other tools write them, and any other name as it is.

    >>> [canonical_name(name) for name in ("train2017", "valid", "test", "night")]
    ['train', 'val', 'test', 'night']
    """
    match = re.fullmatch(r"(train|val|test)(?:id|idation)?[-_]?\d*", name, re.IGNORECASE)
    return match[1].lower() if match else name


def evenly_spaced(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return at most so many, evenly spaced, the first and the last among them.

    >>> evenly_spaced("abcdefg", 3), evenly_spaced("ab", 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    places = np.linspace(0, len(items) - 1, min(most, len(items)))
    return [items[int(place)] for place in places]


def read_file(annotation: Annotation) -> ImageArray:
    """Read the image of an annotation from its file."""
    return read_image(annotation.image_path)


@dataclass(frozen=True, eq=False)
class Split:
    """What a reader returns.

    Attributes:
        name: "train", "val", "test", or as the data set calls it.
        class_names: C names; `Annotation.class_ids` are positions here.
        category_ids: C ids as the files write them (COCO's may be sparse or start at 1), for results in the same ids.
        annotations: one per image, sorted by `image_id`.
        ledger: where every row went.
        read_image: gives the image [H, W, 3] of an annotation; raises InputError where it does not decode.
        ground_truth: the COCO dictionary as the file held it, for splits that came from one: the evaluation then
            scores against exactly the numbers in the file. None elsewhere.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    annotations: tuple[Annotation, ...]
    ledger: Ledger
    read_image: Callable[[Annotation], ImageArray] = read_file
    ground_truth: dict[str, Any] | None = None


def join(name: str, first: Split, second: Split) -> Split:
    """Return two splits with the same classes as one, without a `ground_truth`.

    Where image ids clash, those of the second are counted on behind those of the first.
    """
    ids = {annotation.image_id for annotation in first.annotations}
    shift = 0
    if any(annotation.image_id in ids for annotation in second.annotations):
        shift = max(ids) + 1 - min(annotation.image_id for annotation in second.annotations)
    moved = {annotation.image_id + shift: annotation for annotation in second.annotations}
    # Each image is read as its own split reads it, by the id it had there.
    sources = {annotation.image_id: (first.read_image, annotation) for annotation in first.annotations}
    sources |= {image_id: (second.read_image, annotation) for image_id, annotation in moved.items()}
    annotations = [*first.annotations, *(replace(annotation, image_id=i) for i, annotation in moved.items())]
    return Split(
        name,
        first.class_names,
        first.category_ids,
        tuple(sorted(annotations, key=lambda annotation: annotation.image_id)),
        first.ledger + second.ledger,
        partial(_read_source, sources),
    )


def _read_source(
    sources: Mapping[int, tuple[Callable[[Annotation], ImageArray], Annotation]], annotation: Annotation
) -> ImageArray:
    read_image, original = sources[annotation.image_id]
    return read_image(original)
