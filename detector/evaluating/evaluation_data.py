"""Chooses the images of an evaluation, and counts those on which the weights were trained."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.data.class_mapping import fit_classes
from detector.data.data_set import DataSet
from detector.data.joined_data import join_data_sets
from detector.data.split import Split, canonical_name, select
from detector.errors import LabelError
from detector.image_hashes import ImageHashes, hash_files
from detector.weights_info import WeightsInfo
from detector.wording import few_names, plural

log = logging.getLogger(__name__)


def choose_split(data_set: DataSet, split: str | None) -> str:
    """Return `split` if it is not None; else the only split of the dataset, or "test" if there are several."""
    if split is not None:
        return split
    return data_set.split_names[0] if len(data_set.split_names) == 1 else "test"


def join_for(weights: WeightsInfo, data_sets: Sequence[DataSet]) -> DataSet:
    """Return one or several datasets as one, as weights are evaluated on them.

    A class that a dataset does not have is not labeled there, unless it was background in the training of the weights.
    """
    learned = weights.trained_classes
    is_background = learned is not None and learned.missing == "background"
    return join_data_sets(data_sets, "background" if is_background else "unlabeled")


def read_split_for(weights: WeightsInfo, data_set: DataSet, split_name: str | None) -> Split:
    """Read the split on which weights are evaluated, with the classes that the weights learned.

    If the weights learned only some classes of their training data, or one merged class, the objects of the split are
    chosen or merged in the same way.

    Args:
        weights: information about the weights.
        data_set: the dataset.
        split_name: name of the split; None: see `choose_split`.

    Raises:
        InputError: as for `read_evaluation_split`.
        WeightsError: a class of the split cannot be matched with the classes of the weights; see `fit_classes`.
    """
    split = read_evaluation_split(data_set, split_name, weights.image_hashes)
    fitted = fit_classes(split, weights.class_names, weights.trained_classes)
    if fitted is not split:
        log.info("%s: the objects are compared as the weights learned them: %s", split.name, _class_changes(fitted))
    return fitted


def _class_changes(split: Split) -> str:
    """Return what the classes of a split are after `fit_classes`, as text."""
    others = sum(split.ledger.other_classes.values())
    unlabeled = sum(a.labeled_classes is not None for a in split.annotations)
    text = f"classes {few_names(split.class_names)}"
    text += f"; {plural(others, 'box', 'boxes')} of other classes are background" if others else ""
    return text + (f"; in {plural(unlabeled, 'image')}, some classes are not labeled" if unlabeled else "")


def read_evaluation_split(data_set: DataSet, split_name: str | None, image_hashes: ImageHashes) -> Split:
    """Read the split on which weights are evaluated, and log how many of its images are training images.

    The weights may have been trained on the only split of a dataset, or the dataset may have no test split. Then the
    images that were held back from the training are the split.

    Args:
        data_set: the dataset.
        split_name: name of the split; None: see `choose_split`.
        image_hashes: hashes of the images of the weights.

    Raises:
        InputError: the split does not exist or cannot be read, and the weights held back none of the images.
    """
    name = canonical_name(choose_split(data_set, split_name))
    names = data_set.split_names
    if name not in names and name in ("val", "test"):
        return _read_held_back(data_set, name, image_hashes)
    split = data_set.read(name)
    # Weights of older versions know no images: then no file needs to be read.
    hashes = hash_files(a.image_path for a in split.annotations) if split.from_files and image_hashes.train else {}
    trained = sum(digest in image_hashes.train for digest in _hashes_of(split, hashes))
    if trained and split_name is None and len(names) == 1:
        held_back = _select_held_back(split, hashes, image_hashes)
        if held_back is not None:
            return held_back
    if trained:
        log.warning("%d of %d are TRAINING IMAGES: AP on new images is lower", trained, len(split.annotations))
    return split


def _read_held_back(data_set: DataSet, name: str, image_hashes: ImageHashes) -> Split:
    """Return the images of a dataset without a split `name` that were held back from the training of the weights.

    Raises:
        LabelError: there are no such images.
    """
    log.info("the data has no split '%s'", name)
    for other in sorted(data_set.split_names, key="train".__eq__) if image_hashes.val else ():
        split = data_set.read(other)
        if split.from_files:
            hashes = hash_files(a.image_path for a in split.annotations)
            if (held_back := _select_held_back(split, hashes, image_hashes)) is not None:
                return held_back
    if name in data_set.absent:
        data_set.read(name)  # raises the error about the images that are not there
    raise LabelError(
        f"{data_set.description}: no split '{name}', and the weights have held back none of the images; name one of "
        f"the splits {', '.join(data_set.split_names)} with --split"
    )


def _select_held_back(split: Split, hashes: Mapping[Path, bytes], image_hashes: ImageHashes) -> Split | None:
    """Return the images that were held back, as the split val; None if there are none."""
    own = zip(split.annotations, _hashes_of(split, hashes), strict=True)
    ids = {a.image_id for a, digest in own if digest in image_hashes.val and digest not in image_hashes.train}
    if not ids:
        return None
    log.info(
        "evaluated are the %d of %d images of the split '%s' that were held back when these weights were trained (val)",
        len(ids), len(split.annotations), split.name,
    )  # fmt: skip
    return select(split, "val", ids)


def _hashes_of(split: Split, hashes: Mapping[Path, bytes]) -> list[bytes | None]:
    """Return the hash of each image of a split."""
    return [hashes.get(annotation.image_path) for annotation in split.annotations]
