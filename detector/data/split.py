"""`Split`: the annotations of one split of a dataset in memory, and the function that decodes its images."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.data.ledger import Ledger, UnusableImage
from detector.errors import ImageError, LabelError
from detector.images import is_truncated, read_image, read_reduced
from detector.options import MAX_PIXELS
from detector.wording import plural

SPLITS = ("train", "val", "test")
"""The usual names of splits."""

_Item = TypeVar("_Item")


def canonical_name(name: str) -> str:
    """Return "train", "val" or "test" if `name` is a common variant of it, else return `name` unchanged.

    >>> [canonical_name(name) for name in ("train2017", "valid", "testing", "night")]
    ['train', 'val', 'test', 'night']
    """
    match = re.fullmatch(r"(train|val|test)(?:ing|id|idation)?[-_]?\d*", name, re.IGNORECASE)
    return match[1].lower() if match else name


def split_rank(name: str) -> int:
    """Return the position of a split in lists of splits: train, val, test, then all others."""
    return SPLITS.index(name) if name in SPLITS else len(SPLITS)


@lru_cache(maxsize=4096)
def split_in(name: str) -> str | None:
    """Return the split whose name is a word in the name of a file or folder; None if there is none or several.

    >>> [split_in(name) for name in ("instances_val2017", "my-train-set", "train_val", "trains")]
    ['val', 'train', None, None]
    """
    words = {canonical_name(word) for word in re.split(r"[^A-Za-z0-9]+", name)}
    found = words & set(SPLITS)
    return found.pop() if len(found) == 1 else None


def evenly_spaced(items: Sequence[_Item], max_count: int) -> list[_Item]:
    """Return `max_count` evenly spaced items including the first and the last, or all items if there are fewer.

    >>> evenly_spaced("abcdefg", 3), evenly_spaced("ab", 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    positions = np.linspace(0, len(items) - 1, min(max_count, len(items)))
    return [items[int(position)] for position in positions]


def read_file(annotation: Annotation, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Decode the image file of an annotation and return the image [H, W, 3] RGB.

    Raises:
        InputError: as for `images.read_image`.
    """
    return read_image(annotation.image_path, max_pixels=max_pixels)


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset: the annotations in memory, and a function that decodes the images on demand.

    Attributes:
        name: "train", "val", "test", or another name that the dataset defines.
        class_names: names of the C classes; `Annotation.class_ids` are indices into this tuple.
        category_ids: ids of the C classes in the label files, used in results files. COCO ids may have gaps or start
            at 1.
        annotations: one per image, sorted by `image_id`.
        ledger: what happened to each label row.
        read_image: decodes the image of an annotation and returns it as [H, W, 3] RGB; raises InputError if the image
            cannot be decoded.
        ground_truth: contents of the COCO file of the split. If not None, the evaluation scores against this
            dictionary, which has exactly the numbers in the file; if None, against `annotations`.
        from_files: True if `read_image` decodes the file `Annotation.image_path`; False if it renders the image.
        max_pixels: largest number of pixels of an image file that is decoded.
        held_back: True if the dataset has no such split, and its images were held back from the training split.
        ids_are_positions: True if a class id in the label files is a position in a list of names, as in YOLO: then ids
            and names can be off by one. False if each label or its category names the class.
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
    held_back: bool = False
    ids_are_positions: bool = False

    def decode(self, annotation: Annotation, min_hw: tuple[int, int] | None = None) -> ImageArray:
        """Decode the image of an annotation, compare its size with the annotation, and return it as [H, W, 3] RGB.

        Args:
            annotation: the annotation.
            min_hw: smallest height and width that the caller needs: a large JPEG file is then decoded at a reduced
                size, see `images.read_reduced`. None: the full size.

        Raises:
            InputError: the image cannot be decoded.
            ImageError: the size of the image differs from the size in the annotation.
        """
        if min_hw is not None and getattr(self.read_image, "func", self.read_image) is read_file:
            image, found = read_reduced(annotation.image_path, min_hw, max_pixels=self.max_pixels)
        else:
            image = self.read_image(annotation)
            found = (image.shape[0], image.shape[1])
        if found != annotation.image_hw:
            height, width = annotation.image_hw
            raise ImageError(
                f"{annotation.image_path}: the image has {found[1]}x{found[0]} pixels, "
                f"but its annotation says {width}x{height}"
            )
        return image

    def after_decoding(self, reasons: Mapping[int, str]) -> "Split":
        """Return the split after all its images have been decoded, without the images that cannot be used.

        The rows of these images are dropped in the ledger, and are not in the ground truth. The ledger also names the
        images whose files lack their last bytes.

        Args:
            reasons: id of an image that cannot be used → the reason.

        Raises:
            LabelError: no image would be left. The message contains one of the reasons.
        """
        unusable = [
            UnusableImage(a.image_path, len(a.boxes), int(a.is_crowd.sum()), reasons[a.image_id])
            for a in self.annotations
            if a.image_id in reasons
        ]
        ledger = self.ledger.without_images(unusable)
        kept = tuple(annotation for annotation in self.annotations if annotation.image_id not in reasons)
        if not kept:
            count = plural(len(self.annotations), "image")
            raise LabelError(f"split '{self.name}': none of its {count} can be used; {next(iter(reasons.values()))}")
        if self.from_files:
            truncated = tuple(a.image_path for a in kept if is_truncated(a.image_path))
            ledger = replace(ledger, truncated=truncated)
        if not reasons:
            return replace(self, ledger=ledger)
        return replace(self, annotations=kept, ledger=ledger, ground_truth=_without(self.ground_truth, reasons))


def _without(truth: dict[str, Any] | None, image_ids: Collection[int]) -> dict[str, Any] | None:
    """Return a copy of a COCO dictionary without some images and their annotations."""
    if truth is None:
        return None
    images = [image for image in truth["images"] if image["id"] not in image_ids]
    return truth | {
        "images": images,
        "annotations": [row for row in truth["annotations"] if row["image_id"] not in image_ids],
    }


def join(name: str, first: Split, second: Split) -> Split:
    """Return one split with the images of two splits that have the same classes; its `ground_truth` is None.

    If an image id occurs in both splits, the same number is added to all image ids of the second split, so that they
    are larger than the ids of the first split.
    """
    ids = {annotation.image_id for annotation in first.annotations}
    shift = 0
    if any(annotation.image_id in ids for annotation in second.annotations):
        shift = max(ids) + 1 - min(annotation.image_id for annotation in second.annotations)
    shifted = {annotation.image_id + shift: annotation for annotation in second.annotations}
    # The `read_image` function of the original split decodes the image, and gets the annotation with the original id.
    sources = {annotation.image_id: (first.read_image, annotation) for annotation in first.annotations}
    sources |= {image_id: (second.read_image, annotation) for image_id, annotation in shifted.items()}
    annotations = [*first.annotations, *(replace(annotation, image_id=i) for i, annotation in shifted.items())]
    return Split(
        name,
        first.class_names,
        first.category_ids,
        tuple(sorted(annotations, key=lambda annotation: annotation.image_id)),
        first.ledger + second.ledger,
        partial(read_source, sources),
        from_files=first.from_files and second.from_files,
        max_pixels=max(first.max_pixels, second.max_pixels),
        ids_are_positions=first.ids_are_positions,
    )


def with_absolute_paths(split: Split) -> Split:
    """Return the split with absolute paths of its images."""
    return replace(split, annotations=tuple(replace(a, image_path=a.image_path.resolve()) for a in split.annotations))


def select(split: Split, name: str, image_ids: Set[int], *, unassigned_rows: bool = False) -> Split:
    """Return a split with some of the images of another split; image ids and classes stay the same.

    Args:
        split: the other split.
        name: name of the new split.
        image_ids: ids of the images to select.
        unassigned_rows: whether the ledger of the new split contains the missing images and the label rows that belong
            to no image of `split`. When a split is divided, one part must contain them.
    """
    annotations = tuple(annotation for annotation in split.annotations if annotation.image_id in image_ids)
    truth = split.ground_truth
    if truth is not None:
        images = [image for image in truth["images"] if image["id"] in image_ids]
        rows = [row for row in truth["annotations"] if row["image_id"] in image_ids]
        # Ids that are written in another way than `Annotation.image_id`: then score against the annotations.
        truth = truth | {"images": images, "annotations": rows} if len(images) == len(annotations) else None
    ledger = _select_rows(split, annotations, unassigned_rows)
    return replace(split, name=name, annotations=annotations, ledger=ledger, ground_truth=truth)


def _select_rows(split: Split, annotations: Sequence[Annotation], unassigned_rows: bool) -> Ledger:
    """Return the ledger of some of the images of a split; the arguments are those of `select`."""
    assert not split.ledger.other_classes  # these rows cannot be divided: classes are chosen after images
    own = {annotation.image_path for annotation in annotations}
    others = {annotation.image_path for annotation in split.annotations} - own
    entries = tuple(
        entry for entry in split.ledger.entries if entry.image in own or (unassigned_rows and entry.image not in others)
    )
    with_drops = {entry.image for entry in entries if entry.action == "dropped"}
    return Ledger(
        used=sum(len(a.boxes) for a in annotations) - sum(entry.action == "clipped" for entry in entries),
        crowd=sum(int(a.is_crowd.sum()) for a in annotations),
        background=sum(not a.has_objects and a.image_path not in with_drops for a in annotations),
        missing=split.ledger.missing if unassigned_rows else (),
        entries=entries,
        notes=split.ledger.notes,
        truncated=tuple(path for path in split.ledger.truncated if path in own),
    )


def read_source(
    sources: Mapping[int, tuple[Callable[[Annotation], ImageArray], Annotation]], annotation: Annotation
) -> ImageArray:
    """Decode the image of an annotation of a joined split.

    Args:
        sources: id of an image in the joined split → the function that decodes the image, and its original annotation.
        annotation: annotation in the joined split.
    """
    read_image, original = sources[annotation.image_id]
    return read_image(original)
