"""One split of a data set in memory: class names, annotations, the ledger of label rows, and how to read the images."""

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
from detector.options import MAX_PIXELS

_Item = TypeVar("_Item")


def canonical_name(name: str) -> str:
    """Return "train", "val" or "test" for the variants that other tools write, and any other name unchanged.

    >>> [canonical_name(name) for name in ("train2017", "valid", "test", "night")]
    ['train', 'val', 'test', 'night']
    """
    match = re.fullmatch(r"(train|val|test)(?:id|idation)?[-_]?\d*", name, re.IGNORECASE)
    return match[1].lower() if match else name


def evenly_spaced(items: Sequence[_Item], max_count: int) -> list[_Item]:
    """Return at most `max_count` evenly spaced items, including the first and the last.

    >>> evenly_spaced("abcdefg", 3), evenly_spaced("ab", 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    positions = np.linspace(0, len(items) - 1, min(max_count, len(items)))
    return [items[int(position)] for position in positions]


def read_file(annotation: Annotation, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Read the image of an annotation from its file.

    Raises:
        InputError: as `images.read_image`.
    """
    return read_image(annotation.image_path, max_pixels=max_pixels)


@dataclass(frozen=True, eq=False)
class Split:
    """The annotated images of one split.

    Attributes:
        name: "train", "val", "test", or the data set's own name for it.
        class_names: C names; `Annotation.class_ids` are indices into them.
        category_ids: C ids as in the label files, for results with the same ids. COCO's may have gaps or start at 1.
        annotations: one per image, sorted by `image_id`.
        ledger: what happened to each label row.
        read_image: reads the image [H, W, 3] of an annotation; raises InputError if it cannot be decoded.
        ground_truth: the contents of a COCO file, for splits read from one: the evaluation then scores against
            exactly the numbers in the file. None for other formats.
        from_files: whether `Annotation.image_path` are files that `read_image` reads; False if images are rendered.
        max_pixels: pixels of the largest image file that is decoded.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    annotations: tuple[Annotation, ...]
    ledger: Ledger
    read_image: Callable[[Annotation], ImageArray] = read_file
    ground_truth: dict[str, Any] | None = None
    from_files: bool = True
    max_pixels: int = MAX_PIXELS


def join(name: str, first: Split, second: Split) -> Split:
    """Combine two splits with the same classes into one, without a `ground_truth`.

    If image ids occur in both, the ids of the second split are shifted so that they follow those of the first.
    """
    ids = {annotation.image_id for annotation in first.annotations}
    shift = 0
    if any(annotation.image_id in ids for annotation in second.annotations):
        shift = max(ids) + 1 - min(annotation.image_id for annotation in second.annotations)
    shifted = {annotation.image_id + shift: annotation for annotation in second.annotations}
    # Each image is read by its own split, under its original id.
    sources = {annotation.image_id: (first.read_image, annotation) for annotation in first.annotations}
    sources |= {image_id: (second.read_image, annotation) for image_id, annotation in shifted.items()}
    annotations = [*first.annotations, *(replace(annotation, image_id=i) for i, annotation in shifted.items())]
    return Split(
        name,
        first.class_names,
        first.category_ids,
        tuple(sorted(annotations, key=lambda annotation: annotation.image_id)),
        first.ledger + second.ledger,
        partial(_read_source, sources),
        from_files=first.from_files and second.from_files,
        max_pixels=max(first.max_pixels, second.max_pixels),
    )


def _read_source(
    sources: Mapping[int, tuple[Callable[[Annotation], ImageArray], Annotation]], annotation: Annotation
) -> ImageArray:
    read_image, original = sources[annotation.image_id]
    return read_image(original)
