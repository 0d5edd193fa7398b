"""The images to explain with their labeled objects, from a dataset or from a label file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Bools, ImageArray, Ints
from detector.boxes import from_xywh
from detector.data.class_mapping import fit_classes
from detector.data.data_set import DataSet
from detector.data.formats.coco_json import declared_hw, marks_crowd
from detector.data.path_guard import real_path
from detector.data.split import Split, canonical_name
from detector.errors import ImageError, LabelError, WeightsError
from detector.evaluating.evaluation_data import read_split_for
from detector.media.sources import Source, find_sources
from detector.options import ReadOptions
from detector.partial_labels import NEGATIVE, PartialLabels
from detector.weights_info import WeightsInfo
from detector.wording import plural

_UNKNOWN_SIZE = (0, 0)
"""Height and width of an image whose size is not in the labels."""


@dataclass(frozen=True, eq=False)
class LabeledImage:
    """An image to explain.

    Attributes:
        name: path of the image as the user gave it, or as the dataset names it.
        annotation: the objects in the image; the class ids are those of the detector.
        read: decodes the image and returns it as [H, W, 3] RGB; raises InputError if that is impossible, or if the size
            differs from that of the annotation.
    """

    name: Path
    annotation: Annotation
    read: Callable[[], ImageArray]


def labeled_images(
    specs: Sequence[str],
    data_set: DataSet,
    split: str | None,
    weights: WeightsInfo,
    *,
    options: ReadOptions,
) -> list[LabeledImage]:
    """Return the images to explain, each with its objects.

    Args:
        specs: files, folders, glob patterns or lists, as for `find_sources`; empty: all images of the split.
        data_set: the dataset, or the dataset that a label file makes.
        split: split of the images; None: with `specs`, the images are searched in all splits; without, the split is
            chosen as for an evaluation.
        weights: the weights: their classes, and the hashes of their images, to choose the split.
        options: what may be read.

    Raises:
        InputError: an image does not exist or is not labeled, or a class is unknown to the detector.
    """
    if not specs:
        chosen = read_split_for(weights, data_set, split)
        return [
            LabeledImage(annotation.image_path, own, partial(chosen.decode, annotation))
            for annotation, own in zip(
                chosen.annotations, with_detector_classes(chosen, weights.class_names), strict=True
            )
        ]
    index = _Index(data_set, split, weights)
    return [index.find(source) for source in find_sources(specs, options)]


def with_detector_classes(split: Split, class_names: Sequence[str]) -> tuple[Annotation, ...]:
    """Return the annotations of a split with the class ids of a detector; classes are matched by their names.

    Raises:
        WeightsError: the detector does not have one of the classes, or a name stands for several classes.
    """
    return _renumber(split.annotations, split.class_names, class_names)


def _renumber(
    annotations: Sequence[Annotation], names: Sequence[str], class_names: Sequence[str]
) -> tuple[Annotation, ...]:
    """Return annotations whose class ids are positions in `class_names` instead of `names`; see above."""
    if tuple(names) == tuple(class_names):
        return tuple(annotations)
    unknown = [name for name in names if name not in class_names]
    if unknown or len({*class_names}) < len(class_names) or len({*names}) < len(names):
        raise WeightsError(
            f"the classes of the weights are {list(class_names)}, but the classes of the labels are {list(names)}: "
            "explain needs labels whose classes have the names of the classes of the weights, each once"
        )
    ids = np.array([list(class_names).index(name) for name in names], dtype=np.int64)
    return tuple(_with_class_ids(annotation, ids, len(class_names)) for annotation in annotations)


def _with_class_ids(annotation: Annotation, ids: Ints, class_count: int) -> Annotation:
    """Return an annotation whose class i is `ids[i]` of `class_count` classes; other classes are not labeled."""
    labeled = annotation.labeled_classes
    if labeled is not None:
        labeled = np.isin(np.arange(class_count), ids[labeled])
    return replace(annotation, class_ids=ids[annotation.class_ids], labeled_classes=labeled)


@dataclass(frozen=True, eq=False)
class _Entry:
    """A labeled image of a dataset: its annotation, and the split that decodes it; None if only labels are known."""

    annotation: Annotation
    split: Split | None


class _Index:
    """The labeled images of a dataset, to be found by their path, or else by their file name.

    Args:
        data_set: the dataset.
        split: name of the split in which images are searched; None: all splits.
        weights: the weights, with their classes.

    Raises:
        InputError: the labels cannot be read, or a class is unknown to the detector.
    """

    def __init__(self, data_set: DataSet, split: str | None, weights: WeightsInfo) -> None:
        self._description = data_set.description
        names = data_set.split_names if split is None else (canonical_name(split),)
        entries = [entry for name in names for entry in _entries(data_set, name, weights)]
        self._by_path = _grouped((real_path(entry.annotation.image_path), entry) for entry in entries)
        self._by_target = _grouped((entry.annotation.image_path.resolve(), entry) for entry in entries)
        self._by_name = _grouped((entry.annotation.image_path.name, entry) for entry in entries)
        self._used: dict[int, Path] = {}

    def find(self, source: Source) -> LabeledImage:
        """Return an image with its objects.

        Raises:
            LabelError: the image is not labeled, or it is not clear which labels belong to it.
        """
        path = source.name
        by_path = self._by_path.get(real_path(path)) or self._by_target.get(path.resolve())
        entries = by_path or self._by_name.get(path.name, [])
        if not entries:
            raise LabelError(
                f"{path}: this image is not in the labels ({self._description}), neither by its path nor by its file "
                "name; explain needs the objects in the image: give the dataset or the label file that has them"
            )
        if len(entries) > 1:
            places = ", ".join(str(entry.annotation.image_path) for entry in entries[:2])
            raise LabelError(
                f"{path}: {plural(len(entries), 'image')} of the labels have this "
                f"{'path' if by_path else 'file name'} ({places}); name the split with --split, or give the "
                "path of the image as in the dataset"
            )
        [entry] = entries
        if (other := self._used.setdefault(id(entry.annotation), path)) != path:
            raise LabelError(
                f"{path}: the labels of this image were already used for {other}, which has the same file name; give "
                "one of the two images"
            )
        if by_path and entry.split is not None:
            return LabeledImage(path, entry.annotation, partial(entry.split.decode, entry.annotation))
        return LabeledImage(path, entry.annotation, partial(_read_source, source, entry.annotation))


def _entries(data_set: DataSet, name: str, weights: WeightsInfo) -> list[_Entry]:
    """Return the labeled images of a split. Those of a COCO file need not exist: the user may have them elsewhere."""
    file, class_names = data_set.coco_files.get(name), weights.class_names
    try:
        split = fit_classes(data_set.read(name), class_names, weights.trained_classes)
    except LabelError:
        if file is None:
            raise
        split = None
    entries = [] if split is None else [_Entry(own, split) for own in with_detector_classes(split, class_names)]
    if file is not None and (split is None or split.ledger.missing):
        known = {entry.annotation.image_id for entry in entries}
        others = _coco_annotations(data_set.ground_truth(name), file.parent, class_names)
        entries += [_Entry(own, None) for own in others if own.image_id not in known]
    return entries


def _coco_annotations(truth: Mapping[str, Any], folder: Path, class_names: Sequence[str]) -> Sequence[Annotation]:
    """Return the annotations of a COCO dictionary of `read_ground_truth`, with the class ids of the detector.

    Args:
        truth: the dictionary.
        folder: folder to which the file names are relative.
        class_names: classes of the detector.
    """
    used = {row["category_id"] for row in truth["annotations"]}
    negative = {category_id for image in truth["images"] for category_id in image.get(NEGATIVE, ())}
    names = {c["id"]: str(c.get("name", c["id"])) for c in truth["categories"]}
    # Without an object, a category matters only if the detector has its class, and an image is known to have none.
    names = {i: name for i, name in names.items() if i in used or (i in negative and name in class_names)}
    positions = {category_id: position for position, category_id in enumerate(names)}
    rows: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for row in truth["annotations"]:
        rows[row["image_id"]].append(row)
    annotations = [
        Annotation(
            image_id=image["id"],
            image_path=folder / str(image["file_name"]),
            image_hw=declared_hw(image) or _UNKNOWN_SIZE,
            boxes=from_xywh(np.array([row["bbox"] for row in own], dtype=np.float64).reshape(-1, 4)),
            class_ids=np.array([positions[row["category_id"]] for row in own], dtype=np.int64),
            is_crowd=np.array([marks_crowd(dict(row)) for row in own], dtype=np.bool_),
            areas=np.array([row["area"] for row in own], dtype=np.float32),
            labeled_classes=_labeled_classes(image, own, tuple(names)),
        )
        for image, own in ((image, rows[image["id"]]) for image in truth["images"])
    ]
    return _renumber(annotations, tuple(names.values()), class_names)


def _labeled_classes(
    image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], category_ids: Sequence[int]
) -> Bools | None:
    """Return a mask [C] of the categories that are labeled in an image; None: all are.

    Args:
        image: element of `images`.
        rows: annotations of the image.
        category_ids: [C] ids of the categories.
    """
    if NEGATIVE not in image:
        return None
    present = {row["category_id"] for row in rows if not marks_crowd(dict(row))}
    return np.isin(category_ids, sorted(PartialLabels.of(image).labeled(present)))


def _grouped(entries: Iterable[tuple[Any, _Entry]]) -> dict[Any, list[_Entry]]:
    """Return key → entries with this key."""
    groups: dict[Any, list[_Entry]] = {}
    for key, entry in entries:
        groups.setdefault(key, []).append(entry)
    return groups


def _read_source(source: Source, annotation: Annotation) -> ImageArray:
    """Decode an image that the labels name, and check its size; raise ImageError if it is another size."""
    image = source.read()
    (height, width), found = annotation.image_hw, image.shape
    if annotation.image_hw != _UNKNOWN_SIZE and found[:2] != annotation.image_hw:
        raise ImageError(
            f"{source.name}: the image has {found[1]}x{found[0]} pixels, but its labels are for {width}x{height}; is "
            "it the labeled image?"
        )
    return image
