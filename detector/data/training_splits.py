"""Reads the splits of a training run: the training split, and the split on which the run is evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from detector.data.data_set import DataSet
from detector.data.holdout import hold_back
from detector.data.split import Split, canonical_name
from detector.errors import LabelError
from detector.image_hashes import NO_IMAGES, ImageHashes, hash_files
from detector.wording import plural


@dataclass(frozen=True, eq=False)
class TrainingSplits:
    """The splits of a training run.

    Attributes:
        train: the training split.
        val: the split on which the run is evaluated; None: the run is not evaluated.
        notes: what was chosen, as lines of text.
        warnings: what makes the results less reliable, as lines of text.
        known_hashes: the value of `file_hashes` if it is known, so that the files are not read again.
    """

    train: Split
    val: Split | None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    known_hashes: Mapping[Path, bytes] | None = None

    @cached_property
    def file_hashes(self) -> Mapping[Path, bytes]:
        """Path → hash, for each image file of both splits that can be read."""
        if self.known_hashes is not None:
            return self.known_hashes
        return _hash_images(self.train) | (_hash_images(self.val) if self.val else {})

    def image_hashes(self, known: ImageHashes = NO_IMAGES) -> ImageHashes:
        """Return the hashes of the images, to be stored with the trained weights.

        Args:
            known: hashes of the images of the initial weights, which are added.
        """
        hashes = self.file_hashes
        train, val = (
            {hashes[a.image_path] for a in split.annotations if a.image_path in hashes} if split else set()
            for split in (self.train, self.val)
        )
        train |= known.train
        return ImageHashes(frozenset(train), frozenset((val | known.val) - train))

    def to_json(self) -> dict[str, object]:
        """Return the images of both splits with their hashes, for split.json."""
        hashes = self.file_hashes
        return {"held_back": self.val is not None and self.val.held_back} | {
            name: [
                {"image": str(a.image_path), "hash": hashes[a.image_path].hex() if a.image_path in hashes else None}
                for a in (split.annotations if split else ())
            ]
            for name, split in (("train", self.train), ("val", self.val))
        }


def _hash_images(split: Split) -> dict[Path, bytes]:
    """Return path → hash of the image files of a split; empty if its images are not files."""
    return dict(hash_files(a.image_path for a in split.annotations)) if split.from_files else {}


def choose_training_split(data_set: DataSet, split_name: str | None) -> str:
    """Return the name of the training split: `split_name`; if it is None, "train", or the only split of the dataset.

    A dataset with the lists `trainval` and `test` of Pascal VOC, but without `train`, is trained on `trainval`.

    Raises:
        LabelError: `split_name` is None, and the dataset has several splits, but neither "train" nor "trainval".
    """
    if split_name is not None:
        return canonical_name(split_name)
    names = data_set.split_names
    if "train" in names or not names:
        return "train"
    if "trainval" in names and "val" not in names:
        return "trainval"
    if len(names) > 1:
        raise LabelError(
            f"{data_set.description}: no split 'train', only {', '.join(names)}; to train on one of these splits, "
            f"name it with --split, for example --split {names[0]}"
        )
    return names[0]


def read_training_splits(
    data_set: DataSet,
    split_name: str | None,
    val_fraction: float,
    known: ImageHashes = NO_IMAGES,
    sides: ImageHashes = NO_IMAGES,
) -> TrainingSplits:
    """Read the training split and the val split; if there is no val split, hold back some of the training images.

    A val split with the same image files as the training split counts as no val split.

    All commands that train or judge a training run use this function, so they use the same images.

    Args:
        data_set: the dataset.
        split_name: name of the training split; None: "train", or the only split of the dataset. With "trainval", there
            is no val split.
        val_fraction: fraction of the training images to hold back if the dataset has no val split; 0: none.
        known: hashes of the images of the initial weights; see `hold_back`.
        sides: hashes of the images of other datasets of the run: the same images stay on the same side.

    Raises:
        InputError: a split does not exist or cannot be read, or no image is left for training.
    """
    name = choose_training_split(data_set, split_name)
    split = data_set.read(name)
    notes: tuple[str, ...] = ()
    if split_name is None and name != "train":
        only = f"the only split, '{name}'," if len(data_set.split_names) == 1 else f"the split '{name}'"
        notes = (f"{only} is used for training",)
    if name in ("trainval", "val") and split_name is not None:
        return TrainingSplits(split, None)
    # Only the images matter from here on: a lone split named "val" must not have the name of the held back split.
    split = replace(split, name="train") if split_name is None else split
    reason = "no val split in the data"
    if "val" in data_set.split_names and name != "val":
        val = data_set.read("val")
        if not _has_same_images(split, val):
            hashes = _hash_images(split) | _hash_images(val)
            return _with_known(_with_overlap(TrainingSplits(split, val, notes, known_hashes=hashes)), known)
        # Some tools write this if there is no val split. An AP on the training images would say nothing.
        reason = "the val split of the data has the same images as the training split"
        notes = (*notes, f"{reason}, so it is not used")
    if not val_fraction or not split.from_files:
        return TrainingSplits(split, None, notes)
    hashes = _hash_images(split)
    train = known.train | sides.train
    both = ImageHashes(train, (known.val | sides.val) - train)
    holdout = hold_back(split, val_fraction, hashes, known=both)
    first, *others = holdout.notes
    if holdout.held_back:
        first += f" ({reason}; --val-fraction 0 turns this off)"
    return TrainingSplits(holdout.train, holdout.held_back, (*notes, first, *others), holdout.warnings, hashes)


def _has_same_images(split: Split, other: Split) -> bool:
    """Return whether two splits have the same image files."""
    if not (split.from_files and other.from_files):
        return False
    return {a.image_path for a in split.annotations} == {a.image_path for a in other.annotations}


def _with_overlap(splits: TrainingSplits) -> TrainingSplits:
    """Return the splits with a warning if image files of val are also in the training split, also as copies."""
    if splits.val is None or not (splits.train.from_files and splits.val.from_files):
        return splits
    hashes = splits.file_hashes
    trained = {hashes.get(a.image_path) for a in splits.train.annotations} - {None}
    same = [a.image_path for a in splits.val.annotations if hashes.get(a.image_path) in trained]
    if not same:
        return splits
    warning = (
        f"the training split also contains {len(same)} of {plural(len(splits.val.annotations), 'val image')}, the "
        f"first: {same[0]}. AP on val is too high; remove them from one of the splits"
    )
    return replace(splits, warnings=(*splits.warnings, warning))


def _with_known(splits: TrainingSplits, known: ImageHashes) -> TrainingSplits:
    """Return the splits with a warning if the initial weights were trained on images of val."""
    if splits.val is None or not known.train:
        return splits
    hashes = splits.file_hashes
    trained = sum(hashes.get(a.image_path) in known.train for a in splits.val.annotations)
    if not trained:
        return splits
    warning = (
        f"{trained} of {len(splits.val.annotations)} val images are TRAINING IMAGES of the initial weights: AP on val "
        "is too high; --weights none starts from random weights"
    )
    return replace(splits, warnings=(*splits.warnings, warning))
