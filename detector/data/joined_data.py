"""Several datasets as one: classes are merged by name, and a class that a dataset does not have is not labeled there.

Each dataset keeps its own splits, and its own part is held back for evaluation if it has no val split.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, compress
from pathlib import Path

import numpy as np

from detector.annotation import Annotation
from detector.data.class_mapping import ClassMapping, choose_classes, map_classes, trained_classes
from detector.data.data_set import DataSet
from detector.data.ledger import Ledger
from detector.data.open_data import open_data
from detector.data.split import Split, canonical_name, read_file, read_source, split_rank
from detector.data.training_splits import TrainingSplits, read_training_splits
from detector.errors import ConfigError
from detector.files import local_path
from detector.image_hashes import NO_IMAGES, ImageHashes
from detector.object_store import is_store_url
from detector.options import MAX_PIXELS
from detector.trained_classes import ClassChoice, Missing, TrainedClasses
from detector.wording import few_names, plural

log = logging.getLogger(__name__)

Spec = str | Path
"""A dataset, in any form that `open_data` accepts."""

_SHORTEST_SINGULAR = 3
"""A name with fewer letters is not compared with plurals: `b` and `bs` are rather codes than words."""


def specs_of(data: Spec | Sequence[Spec]) -> tuple[str, ...]:
    """Return one or several datasets as a tuple of texts.

    Raises:
        ConfigError: the sequence is empty, or a dataset is given twice.
    """
    specs = tuple(map(str, [data] if isinstance(data, str | Path) else data))
    if not specs:
        raise ConfigError("data: expected at least one dataset")
    places = [spec if spec == "scenes" or is_store_url(spec) else str(local_path(spec).resolve()) for spec in specs]
    for place, spec in zip(places, specs, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"data: {spec} is given twice; name each dataset once")
    return specs


def open_all(
    data: Spec | Sequence[Spec], *, allow_outside: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[DataSet, ...]:
    """Open one or several datasets; the other arguments are those of `open_data`.

    Raises:
        InputError: as for `open_data`, or as for `specs_of`.
    """
    return tuple(open_data(spec, allow_outside=allow_outside, max_pixels=max_pixels) for spec in specs_of(data))


def join_data_sets(data_sets: Sequence[DataSet], missing: Missing = "unlabeled") -> DataSet:
    """Return one dataset whose splits are those of all datasets; one dataset is returned as it is.

    A dataset without a split of a name has no images in the joined split; a warning says so.

    Args:
        data_sets: one or more datasets.
        missing: what a class is in the images of a dataset that does not have it.
    """
    if len(data_sets) == 1:
        return data_sets[0]
    names = dict.fromkeys(name for data_set in data_sets for name in data_set.split_names)

    def read(name: str) -> Split:
        has = [name in data_set.split_names or name in data_set.absent for data_set in data_sets]
        # All datasets decide which classes there are, so that they are the same in each split.
        splits = [
            data_set.read(name if has_split else data_set.split_names[0])
            for data_set, has_split in zip(data_sets, has, strict=True)
        ]
        if all(has):
            return join_splits(name, splits, missing)
        for data_set, has_split in zip(data_sets, has, strict=True):
            if not has_split:
                log.warning("%s: no split '%s', so its images are left out", data_set.description, name)
        return join_splits(name, list(compress(splits, has)), missing, join_splits(name, splits, missing))

    return DataSet(describe(data_sets), {name: partial(read, name) for name in sorted(names, key=split_rank)})


def describe(data_sets: Sequence[DataSet]) -> str:
    """Return the descriptions of datasets as one line of text."""
    return " and ".join(data_set.description for data_set in data_sets)


def read_joined_splits(
    data_sets: Sequence[DataSet],
    split_name: str | None,
    val_fraction: float,
    known: ImageHashes = NO_IMAGES,
    missing: Missing = "unlabeled",
) -> TrainingSplits:
    """Read the training and val splits of one or several datasets; see `read_training_splits`.

    A dataset without a val split holds back a part of its own images. An image that is in several datasets without
    a val split is on the same side in all of them. With "trainval", all images of train are used of a dataset
    without val.

    Args:
        data_sets: one or more datasets.
        split_name: name of the training split of each dataset.
        val_fraction: fraction of the training images to hold back of each dataset without a val split.
        known: hashes of the images of the initial weights.
        missing: what a class is in the images of a dataset that does not have it.

    Raises:
        InputError: as for `read_training_splits`.
    """
    if len(data_sets) == 1:
        return read_training_splits(data_sets[0], split_name, val_fraction, known)
    read: dict[int, TrainingSplits] = {}
    sides = NO_IMAGES
    # Datasets with their own val first: the others hold back the same images, if they contain them.
    for index in sorted(range(len(data_sets)), key=lambda index: "val" not in data_sets[index].split_names):
        own = _read_own(data_sets[index], split_name, val_fraction, known, sides)
        hashes = own.image_hashes()
        sides = ImageHashes(sides.train | hashes.train, (sides.val | hashes.val) - sides.train - hashes.train)
        read[index] = own
    parts = [read[index] for index in range(len(data_sets))]
    titles = [data_set.description for data_set in data_sets]
    trains = [part.train for part in parts]
    vals = [part.val for part in parts if part.val is not None]
    notes = [f"{title}: {note}" for title, part in zip(titles, parts, strict=True) for note in part.notes]
    notes += _class_notes(titles, trains, missing)
    warnings = [f"{title}: {warning}" for title, part in zip(titles, parts, strict=True) for warning in part.warnings]
    warnings += [*_similar_names(titles, trains), *_shared_images(titles, parts)]
    if vals:
        warnings += [
            f"{title}: no val images, so AP on val says nothing about this dataset"
            for title, part in zip(titles, parts, strict=True)
            if part.val is None
        ]
    train = join_splits(trains[0].name, trains, missing)
    return TrainingSplits(
        train,
        join_splits("val", vals, missing, train) if vals else None,
        tuple(notes),
        tuple(warnings),
        {path: digest for part in parts for path, digest in part.file_hashes.items()},
    )


def _read_own(
    data_set: DataSet, split_name: str | None, val_fraction: float, known: ImageHashes, sides: ImageHashes
) -> TrainingSplits:
    """Read the splits of one of several datasets; the arguments are those of `read_training_splits`."""
    name, names = split_name and canonical_name(split_name), data_set.split_names
    if name != "trainval" or "train" not in names or {"val", "trainval"} & {*names, *data_set.absent}:
        return read_training_splits(data_set, split_name, val_fraction, known, sides)
    train = replace(data_set.read("train"), name="trainval")
    return TrainingSplits(train, None, ("no val split, so trainval is all images of train",))


def join_splits(name: str, splits: Sequence[Split], missing: Missing = "unlabeled", like: Split | None = None) -> Split:
    """Return one split with the images of several splits, whose classes are merged by name.

    The classes are in the order of their first appearance. A class keeps the category id of the first split that has
    it, if no other class has this id already. Image ids are shifted so that they are unique.

    Args:
        name: name of the new split.
        splits: one or more splits.
        missing: what a class is in the images of a split that does not have it: "unlabeled" or "background".
        like: a joined split whose classes the new split gets; None: those of `splits`.
    """
    if like is None:
        names = tuple(dict.fromkeys(own for split in splits for own in split.class_names))
        ids = _category_ids(names, splits)
    else:
        names, ids = like.class_names, like.category_ids
    mapped = [_with_names(split, names, ids, missing) for split in splits]
    if len(mapped) == 1:
        return replace(mapped[0], name=name)
    annotations: list[Annotation] = []
    sources = {}
    for split in mapped:
        first = min(annotation.image_id for annotation in split.annotations)
        shift = max(0, annotations[-1].image_id + 1 - first) if annotations else 0
        for annotation in split.annotations:
            annotations.append(replace(annotation, image_id=annotation.image_id + shift))
            sources[annotation.image_id + shift] = (split.read_image, annotation)
    max_pixels = max(split.max_pixels for split in mapped)
    # Large JPEG files are decoded at a reduced size only by `read_file`.
    all_files = all(getattr(split.read_image, "func", split.read_image) is read_file for split in mapped)
    return Split(
        name,
        names,
        ids,
        tuple(annotations),
        sum((split.ledger for split in mapped), Ledger()),
        partial(read_file, max_pixels=max_pixels) if all_files else partial(read_source, sources),
        from_files=all(split.from_files for split in mapped),
        max_pixels=max_pixels,
        held_back=any(split.held_back for split in mapped),
        ids_are_positions=all(split.ids_are_positions for split in mapped),
    )


def choose_training_classes(
    splits: TrainingSplits, choice: ClassChoice, several: bool, missing: Missing
) -> tuple[TrainingSplits, TrainedClasses | None]:
    """Return the splits with the chosen classes, and how they follow from the classes of the data, for the weights.

    Which images are held back does not depend on the choice.

    Args:
        splits: the splits with all classes.
        choice: the classes to learn.
        several: whether the splits are those of several datasets.
        missing: what a class is in the images of a dataset that does not have it.

    Returns:
        The splits, with notes about the classes; and None if the classes are simply those of one dataset.

    Raises:
        ConfigError: as for `choose_classes`.
    """
    if choice.is_all and not several:
        return splits, None
    learned = trained_classes(splits.train, choice)
    if several:
        learned = replace(learned, missing=missing)
    if choice.is_all:
        return splits, learned
    train = choose_classes(splits.train, choice)
    val = None if splits.val is None else choose_classes(splits.val, choice)
    parts = [train] if val is None else [train, val]
    notes = [_choice_note(choice, splits.train.class_names)]
    for part in parts:
        others = part.ledger.other_classes
        text = ", ".join(f"{name} {count}" for name, count in others.items())
        notes += [f"{part.name}: {plural(sum(others.values()), 'box', 'boxes')} of other classes: {text}"] * bool(
            others
        )
    return replace(splits, train=train, val=val, notes=(*splits.notes, *notes)), learned


def _choice_note(choice: ClassChoice, names: Sequence[str]) -> str:
    """Return what is learned, as text; `names` are the classes of the data."""
    chosen = [name for name in names if choice.names is None or name in choice.names]
    what = f"learned: {_listed('class', chosen)}"
    if choice.merged is not None:
        what += f", merged into one class '{choice.merged}'"
    return what + ("" if choice.names is None else "; objects of other classes are background")


def _category_ids(names: Sequence[str], splits: Sequence[Split]) -> tuple[int, ...]:
    """Return a category id for each class name; see `join_splits`."""
    first: dict[str, int] = {}
    for split in splits:
        for own, category_id in zip(split.class_names, split.category_ids, strict=True):
            first.setdefault(own, category_id)
    free = max(max(split.category_ids) for split in splits) + 1
    ids: list[int] = []
    for own in names:
        category_id = first.get(own, free)
        if category_id in ids or category_id == free:
            category_id, free = free, free + 1
        ids.append(category_id)
    return tuple(ids)


def _with_names(split: Split, names: tuple[str, ...], ids: tuple[int, ...], missing: Missing) -> Split:
    """Return a split with the classes of all datasets."""
    if split.class_names == names and split.category_ids == ids:
        return split
    places = {name: index for index, name in enumerate(names)}
    absent = frozenset(places[name] for name in names if name not in split.class_names)
    targets = tuple(places[name] for name in split.class_names)
    return map_classes(split, ClassMapping(names, ids, targets, absent if missing == "unlabeled" else frozenset()))


def _class_notes(titles: Sequence[str], splits: Sequence[Split], missing: Missing) -> list[str]:
    """Return what a class is in the images of a dataset that does not have it, or has no object of it."""
    names = dict.fromkeys(name for split in splits for name in split.class_names)
    used = [_used_classes(split) for split in splits]
    notes = []
    for title, split, own in zip(titles, splits, used, strict=True):
        if absent := [name for name in names if name not in split.class_names]:
            effect = (
                "are not labeled here, so its images are neither background nor evaluated for them "
                "(background: --set missing_classes=background)"
                if missing == "unlabeled"
                else "count as background here (missing_classes=background)"
            )
            notes.append(f"{title}: objects of the {_listed('class', absent)} {effect}")
        others = set().union(*used)
        if empty := [name for name in split.class_names if name in others and name not in own]:
            notes.append(
                f"{title}: it lists the {_listed('class', empty)}, but has no object of it, so its images are "
                "background; if it is just not labeled here, remove it from the list of classes"
            )
    return notes


def _listed(noun: str, names: Sequence[str]) -> str:
    """Return the names of some classes as text."""
    word = noun if len(names) == 1 else "classes"
    return f"{word} {few_names(names)}"


def _used_classes(split: Split) -> set[str]:
    """Return the names of the classes with objects in a split."""
    found = {int(c) for annotation in split.annotations for c in np.unique(annotation.class_ids)}
    return {split.class_names[c] for c in found}


def _similar_names(titles: Sequence[str], splits: Sequence[Split]) -> list[str]:
    """Return a warning for class names of different datasets that differ only by case, spaces or a plural."""
    first: dict[str, str] = {}
    for title, split in zip(titles, splits, strict=True):
        for name in split.class_names:
            first.setdefault(name, title)
    by_form: dict[str, list[str]] = {}
    for name in first:
        for form in _forms(name):
            by_form.setdefault(form, []).append(name)
    pairs = {
        pair: None
        for names in by_form.values()
        for pair in combinations(sorted({*names}), 2)
        if first[pair[0]] != first[pair[1]] and _look_alike(*pair)
    }
    return [
        f"the classes '{a}' ({first[a]}) and '{b}' ({first[b]}) look like one class, but are two; if they are one, "
        "give them the same name in the labels"
        for a, b in pairs
    ]


def _plain(name: str) -> str:
    """Return a class name in lower case without spaces, hyphens and underscores."""
    return "".join(c for c in name.casefold() if c not in " -_\t")


def _forms(name: str) -> set[str]:
    """Return the plain form of a name, and its plurals.

    >>> sorted(_forms("Traffic light"))
    ['trafficlight', 'trafficlightes', 'trafficlights']
    """
    plain = _plain(name)
    if len(plain) < _SHORTEST_SINGULAR:
        return {plain}
    forms = {plain, f"{plain}s", f"{plain}es"}
    return forms | {f"{plain[:-1]}ies"} if plain.endswith("y") else forms


def _look_alike(a: str, b: str) -> bool:
    """Return whether two names are equal except for case, spaces and plural."""
    return _plain(a) in _forms(b) or _plain(b) in _forms(a)


def _shared_images(titles: Sequence[str], parts: Sequence[TrainingSplits]) -> list[str]:
    """Return a warning for val images of one dataset that are training images of another one."""
    warnings = []
    for title, part in zip(titles, parts, strict=True):
        if part.val is None or not part.val.from_files:
            continue
        for other_title, other in zip(titles, parts, strict=True):
            trained = _hashes(other.train, other.file_hashes) if other is not part else set()
            same = [a.image_path for a in part.val.annotations if part.file_hashes.get(a.image_path) in trained]
            if same:
                warnings.append(
                    f"{other_title}: the training split also contains {len(same)} of "
                    f"{plural(len(part.val.annotations), 'val image')} of {title}, the first: {same[0]}. AP on val is "
                    "too high; remove them from one of the splits"
                )
    return warnings


def _hashes(split: Split, hashes: Mapping[Path, bytes]) -> set[bytes]:
    """Return the hashes of the images of a split."""
    return {hashes[a.image_path] for a in split.annotations if a.image_path in hashes}
