"""Findings about label rows and classes; these checks use the annotations only and decode no images."""

from collections.abc import Sequence

import numpy as np

from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.diagnose.finding import Finding
from detector.diagnose.objects import FEW_OBJECTS, Objects, first_few

_IMBALANCE = 100
"""Largest acceptable ratio of the object counts of the most frequent class and the rarest class."""


def diagnose_rows(splits: Sequence[Split], allow_dropped: float) -> Finding:
    """Check that no rows are dropped, no images are missing and at most 5% of rows are clipped; return a finding.

    Args:
        splits: all splits.
        allow_dropped: largest acceptable fraction of dropped rows in a split, 0..1.
    """
    total = sum((split.ledger for split in splits), Ledger())
    too_many = any(split.ledger.dropped > allow_dropped * split.ledger.found for split in splits)
    lost = total.dropped or total.missing or total.clipped > 0.05 * total.found
    worst_first = [*sorted(total.entries, key=lambda entry: entry.action == "clipped"), *total.missing]
    return Finding(
        "data: label rows",
        "stop" if too_many else "look" if lost else "ok",
        total.summary(),
        f"no dropped rows; a run accepts at most {allow_dropped:.1%} per split",
        f"Fix the files: {first_few(worst_first)}. To accept more dropped rows, use --allow-dropped."
        if too_many or lost
        else "",
    )


def diagnose_background(splits: Sequence[Split]) -> Finding:
    """Check that at most half of the images of a split have no objects, and return a finding."""
    fractions = [split.ledger.background / max(1, len(split.annotations)) for split in splits]
    worst = int(np.argmax(fractions))
    return Finding(
        "data: images without objects",
        "look" if fractions[worst] > 0.5 else "ok",
        f"{fractions[worst]:.0%} of the {splits[worst].name} images",
        "at most 50%",
        "Check that these are background images, and that their label files are not missing."
        if fractions[worst] > 0.5
        else "",
    )


def diagnose_classes(objects: Sequence[Objects]) -> Finding:
    """Check that every class has objects in the training split, and return a finding.

    Args:
        objects: objects of each split, the training split first.
    """
    names = objects[0].split.class_names
    train, *others = (split_objects.class_counts() for split_objects in objects)
    evaluation = sum(others, np.zeros(len(names), dtype=np.int64))
    counts = list(zip(names, train, evaluation, strict=True))
    not_in_train = [name for name, in_train, in_others in counts if in_others and not in_train]
    empty = [name for name, in_train, in_others in counts if not in_others and not in_train]
    expected = "every class has objects in the training split"
    if not_in_train:
        measured = (
            f"{len(not_in_train)} of {len(names)} classes have objects only in other splits: {first_few(not_in_train)}"
        )
        advice = "These classes are evaluated but cannot be learned: split the images again, or fix the class ids."
        return Finding("data: classes", "stop", measured, expected, advice)
    if empty:
        measured = f"{len(empty)} of {len(names)} classes have no object at all: {first_few(empty)}"
        advice = "Remove these classes from the class names, or check whether their labels are missing."
        return Finding("data: classes", "look", measured, expected, advice)
    return Finding("data: classes", "ok", f"all {len(names)} classes have objects", expected)


def diagnose_class_balance(train: Objects) -> Finding:
    """Check that every class has 20 training objects, and none 100 times fewer than another; return a finding."""
    counts = train.class_counts()
    names = train.split.class_names
    rarest = int(np.argmin(np.where(counts > 0, counts, np.iinfo(np.int64).max)))
    most_frequent = int(np.argmax(counts))
    few = [f"{names[i]} ({counts[i]})" for i in np.argsort(counts, kind="stable") if 0 < counts[i] < FEW_OBJECTS]
    ratio = counts[most_frequent] / max(1, counts[rarest])
    advice = ""
    if few:
        advice = (
            f"Classes with too few objects to learn: {first_few(few)}. Label more objects, or remove these classes."
        )
    elif ratio > _IMBALANCE:
        advice = f"The network will learn {names[rarest]} late: label more objects of this class, or train longer."
    return Finding(
        "data: class balance",
        "look" if advice else "ok",
        f"the rarest class is {names[rarest]} with {counts[rarest]} objects, "
        f"the most frequent class is {names[most_frequent]} with {counts[most_frequent]}",
        f"at least {FEW_OBJECTS} objects per class; at most {_IMBALANCE} times as many objects in the most frequent "
        "class as in the rarest class",
        advice,
    )


def diagnose_class_distribution(objects: Sequence[Objects]) -> Finding:
    """Check that the class frequencies of other splits differ by at most 20% from training; return a finding.

    The difference is the total variation distance: half of the sum of the absolute differences of all frequencies.

    Args:
        objects: objects of each split, the training split first.
    """
    train, *others = (o.class_counts() / max(1, len(o.boxes)) for o in objects)
    distances = [float(np.abs(train - other).sum() / 2) for other in others]
    parts = [f"{o.split.name} {d:.0%}" for o, d in zip(objects[1:], distances, strict=True)]
    name = objects[0].split.name
    far = max(distances, default=0) > 0.2
    return Finding(
        "data: class distribution",
        "look" if far else "ok",
        f"difference between the class frequencies of {name} and other splits (total variation distance): "
        f"{', '.join(parts) or 'no other split'}",
        "at most 20%",
        f"Scores of other splits are less valid for images like those of {name}: split images at random or by scene."
        if far
        else "",
    )
