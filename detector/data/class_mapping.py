"""Other classes for a split: only some of its classes, one class that is merged from several, or those of weights."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Bools
from detector.data.ledger import Ledger, LedgerEntry
from detector.data.split import Split
from detector.errors import ConfigError, WeightsError, did_you_mean, known_names
from detector.partial_labels import NEGATIVE, NOT_EXHAUSTIVE
from detector.trained_classes import ClassChoice, TrainedClasses


@dataclass(frozen=True)
class ClassMapping:
    """New classes of a split, and what becomes of each old class.

    Attributes:
        names: names of the new classes.
        category_ids: category ids of the new classes, all different.
        targets: for each old class: the index of its new class; None: its objects are background.
        unlabeled: indices of new classes whose objects may be in the images without a label.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    targets: tuple[int | None, ...]
    unlabeled: frozenset[int] = frozenset()


def choose_classes(split: Split, choice: ClassChoice) -> Split:
    """Return a split with only the chosen classes, or with one class that is merged from them; all images stay.

    Rows of the other classes are counted in `Ledger.other_classes`. A merged class gets a category id that no class of
    the split has, so that results are never compared with one of the classes by mistake.

    Raises:
        ConfigError: a name is unknown, or the name of the merged class is that of another class of the data.
    """
    names = split.class_names
    if choice.is_all:
        return split
    for name in choice.names or ():
        if name not in names:
            raise ConfigError(f"classes: the data has no class '{name:.60}'; {_hint(name, names)}")
    chosen = [i for i, name in enumerate(names) if choice.names is None or name in choice.names]
    if choice.merged is None:
        targets = [chosen.index(i) if i in chosen else None for i in range(len(names))]
        ids = tuple(split.category_ids[i] for i in chosen)
        return map_classes(split, ClassMapping(tuple(names[i] for i in chosen), ids, tuple(targets)))
    if choice.merged in {names[i] for i in range(len(names)) if i not in chosen}:
        raise ConfigError(
            f"single_class: '{choice.merged}' is the name of a class of the data that is not merged; use another name"
        )
    mapping = ClassMapping(
        (choice.merged,),
        (max(split.category_ids) + 1,),
        tuple(0 if i in chosen else None for i in range(len(names))),
    )
    return map_classes(split, mapping)


def _hint(name: str, names: Sequence[str]) -> str:
    """Return the classes of the data for an error message, and the one that is most similar to an unknown name."""
    known = known_names(names).removeprefix("known: ")
    near = did_you_mean(name, names)
    by_case = [other for other in names if other.casefold() == name.casefold()]
    if by_case:
        near = f"did you mean '{by_case[0]}'?"
    return f"its classes are {known}" + ("" if near.startswith("known") else f"; {near}")


def trained_classes(split: Split, choice: ClassChoice) -> TrainedClasses:
    """Return how the classes of weights follow from those of a split, for `choose_classes(split, choice)`."""
    names = [name for name in split.class_names if choice.names is None or name in choice.names]
    groups = [tuple(dict.fromkeys(names))] if choice.merged is not None else [(name,) for name in dict.fromkeys(names)]
    return TrainedClasses(split.class_names, tuple(groups), chosen=choice.names is not None)


def fit_classes(split: Split, class_names: tuple[str, ...], trained: TrainedClasses | None) -> Split:
    """Return a split with the classes of weights, so that detections are compared with the objects they learned.

    Args:
        split: any split. If it has the classes of the weights already, it is returned unchanged, unless the training
            data had a class with the name of the merged class.
        class_names: classes of the weights.
        trained: how these classes were made from those of the training data; None: they are the classes of the data.

    Raises:
        WeightsError: the split does not have a class of the weights, or has one of which the weights do not say whether
            it is part of a merged class.
    """
    names = split.class_names
    if trained is None or len({*names}) < len(names):
        return split
    if names == class_names:
        # A class of the data may have the name of the merged class, and be only one of the classes it consists of.
        groups = zip(names, trained.groups, strict=True)
        if all(name not in trained.data_classes or group == (name,) for name, group in groups):
            return split
    owner = {name: index for index, group in enumerate(trained.groups) for name in group}
    missing = [name for name in owner if name not in names]
    if missing and (trained.missing == "error" or not any(name in owner for name in names)):
        raise WeightsError(
            f"the weights learned the classes {list(owner)} of their training data, and this dataset has no class "
            f"'{missing[0]}', but {list(names)}: evaluate on data with these classes"
        )
    unknown = [name for name in names if name not in owner and name not in trained.data_classes]
    if unknown and not trained.chosen:
        raise WeightsError(
            f"the training data of the weights had the classes {list(trained.data_classes)}, and this dataset also "
            f"has '{unknown[0]}', of which the weights know nothing: evaluate on data with the same classes"
        )
    free = max(split.category_ids) + 1
    sources = [[i for i, name in enumerate(names) if owner.get(name) == index] for index in range(len(class_names))]
    ids = [split.category_ids[own[0]] if len(own) == 1 else free + index for index, own in enumerate(sources)]
    unlabeled = {owner[name] for name in missing} if trained.missing == "unlabeled" else set()
    targets = tuple(owner.get(name) for name in names)
    return map_classes(split, ClassMapping(class_names, tuple(ids), targets, frozenset(unlabeled)))


def map_classes(split: Split, mapping: ClassMapping) -> Split:
    """Return a split with other classes. All images stay, and each label row is accounted for in the ledger."""
    sources = [[old for old, new in enumerate(mapping.targets) if new == index] for index in range(len(mapping.names))]
    annotations = tuple(_map_annotation(annotation, mapping, sources) for annotation in split.annotations)
    is_same = mapping.targets == tuple(range(len(split.class_names))) and len(mapping.names) == len(mapping.targets)
    return replace(
        split,
        class_names=mapping.names,
        category_ids=mapping.category_ids,
        annotations=annotations,
        ledger=_map_ledger(split, annotations, mapping),
        ground_truth=_map_truth(split, mapping, sources),
        ids_are_positions=split.ids_are_positions and is_same,
    )


def _map_annotation(annotation: Annotation, mapping: ClassMapping, sources: Sequence[Sequence[int]]) -> Annotation:
    """Return an annotation with the new classes; `sources` are the old classes of each new class."""
    targets = np.array([-1 if new is None else new for new in mapping.targets], dtype=np.int64)
    class_ids = targets[annotation.class_ids]
    kept = class_ids >= 0
    return replace(
        annotation,
        boxes=annotation.boxes[kept],
        class_ids=class_ids[kept],
        is_crowd=annotation.is_crowd[kept],
        areas=annotation.areas[kept],
        labeled_classes=_map_labeled(annotation.labeled_classes, mapping, sources),
    )


def _map_labeled(labeled: Bools | None, mapping: ClassMapping, sources: Sequence[Sequence[int]]) -> Bools | None:
    """Return `Annotation.labeled_classes` for the new classes: a merged class is labeled if all its classes are."""
    if labeled is None and not mapping.unlabeled:
        return None
    new = np.array(
        [
            index not in mapping.unlabeled and (labeled is None or bool(labeled[list(own)].all()))
            for index, own in enumerate(sources)
        ]
    )
    return None if new.all() else new


def _map_ledger(split: Split, annotations: Sequence[Annotation], mapping: ClassMapping) -> Ledger:
    """Return the ledger of a split with new classes; the number of found rows stays the same."""
    others: Counter[str] = Counter(split.ledger.other_classes)
    for annotation in split.annotations:
        for class_id in annotation.class_ids.tolist():
            if mapping.targets[class_id] is None:
                others[split.class_names[class_id]] += 1

    def mapped(entry: LedgerEntry) -> LedgerEntry | None:
        if entry.class_id is None:
            return entry
        target = mapping.targets[entry.class_id]
        return None if target is None else replace(entry, class_id=target)

    entries = tuple(new for entry in split.ledger.entries if (new := mapped(entry)) is not None)
    with_drops = {entry.image for entry in entries if entry.action == "dropped"}
    return replace(
        split.ledger,
        used=sum(len(a.boxes) for a in annotations) - sum(entry.action == "clipped" for entry in entries),
        crowd=sum(int(a.is_crowd.sum()) for a in annotations),
        background=sum(not a.has_objects and a.image_path not in with_drops for a in annotations),
        entries=entries,
        other_classes=dict(others),
    )


def _map_truth(split: Split, mapping: ClassMapping, sources: Sequence[Sequence[int]]) -> dict[str, Any] | None:
    """Return the contents of a COCO file with the new classes, with all its digits.

    None if a class is merged, renumbered or not labeled, or if ids are written in another way than in the split: then
    the evaluation scores against the annotations.
    """
    truth = split.ground_truth
    own = {split.category_ids[old[0]] if len(old) == 1 else None for old in sources}
    if truth is None or mapping.unlabeled or own != {*mapping.category_ids}:
        return None
    if not all(row["category_id"] in split.category_ids for row in truth["annotations"]):
        return None
    names = dict(zip(mapping.category_ids, mapping.names, strict=True))
    known = {category["id"]: category for category in truth["categories"]}
    if any(known.get(category_id, {}).get("name") != name for category_id, name in names.items()):
        return None
    lists = (NEGATIVE, NOT_EXHAUSTIVE)
    return truth | {
        "images": [
            image | {key: [i for i in image[key] if i in names] for key in lists if key in image}
            for image in truth["images"]
        ],
        "annotations": [row for row in truth["annotations"] if row["category_id"] in names],
        "categories": [known[category_id] for category_id in names],
    }
