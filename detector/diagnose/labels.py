"""Findings about label rows and classes, from the annotations alone."""

from collections.abc import Sequence

import numpy as np

from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.diagnose.finding import Finding
from detector.diagnose.objects import FEW_OBJECTS, Objects, first_few

_IMBALANCE = 100
"""Largest ratio between the numbers of objects of the most and the least frequent class."""


def diagnose_rows(splits: Sequence[Split], allow_dropped: float) -> Finding:
    """Check that every label row is used unchanged.

    Args:
        splits: the splits.
        allow_dropped: largest fraction of the rows of a split that may be dropped, 0..1.
    """
    total = sum((split.ledger for split in splits), Ledger())
    too_many = any(split.ledger.dropped > allow_dropped * split.ledger.found for split in splits)
    lost = total.dropped or total.missing or total.clipped > 0.05 * total.found
    worst_first = [*sorted(total.entries, key=lambda entry: entry.action == "clipped"), *total.missing]
    return Finding(
        "data: label rows",
        "stop" if too_many else "look" if lost else "ok",
        total.summary(),
        f"none dropped, at most {allow_dropped:.1%} of a split",
        f"Fix the files: {first_few(worst_first)}. Or accept the loss with --allow-dropped."
        if too_many or lost
        else "",
    )


def diagnose_background(splits: Sequence[Split]) -> Finding:
    """Check that most images contain objects."""
    fractions = [split.ledger.background / max(1, len(split.annotations)) for split in splits]
    worst = int(np.argmax(fractions))
    return Finding(
        "data: images without objects",
        "look" if fractions[worst] > 0.5 else "ok",
        f"{fractions[worst]:.0%} of {splits[worst].name}",
        "less than half",
        "Are these meant as background images, or were their label files not found?" if fractions[worst] > 0.5 else "",
    )


def diagnose_classes(objects: Sequence[Objects]) -> Finding:
    """Check that every class has training objects.

    Args:
        objects: of each split, the training split first.
    """
    names = objects[0].split.class_names
    train, *others = (split_objects.class_counts() for split_objects in objects)
    elsewhere = sum(others, np.zeros(len(names), dtype=np.int64))
    only_elsewhere = [name for name, here, there in zip(names, train, elsewhere, strict=True) if there and not here]
    empty = [name for name, here, there in zip(names, train, elsewhere, strict=True) if not there and not here]
    expected = "every class has objects in the training split"
    if only_elsewhere:
        measured = f"{len(only_elsewhere)} of {len(names)} classes only in other splits: {first_few(only_elsewhere)}"
        advice = "They are scored but cannot be learned: split the images again, or fix the class ids."
        return Finding("data: classes", "stop", measured, expected, advice)
    if empty:
        measured = f"{len(empty)} of {len(names)} classes have no object at all: {first_few(empty)}"
        advice = "Remove them from the class names, or check whether their labels are missing."
        return Finding("data: classes", "look", measured, expected, advice)
    return Finding("data: classes", "ok", f"{len(names)} classes, all with objects", expected)


def diagnose_class_balance(train: Objects) -> Finding:
    """Check that no class has very few training objects, or a hundred times fewer than another."""
    counts = train.class_counts()
    names = train.split.class_names
    rarest = int(np.argmin(np.where(counts > 0, counts, np.iinfo(np.int64).max)))
    most_frequent = int(np.argmax(counts))
    few = [f"{names[i]} ({counts[i]})" for i in np.argsort(counts, kind="stable") if 0 < counts[i] < FEW_OBJECTS]
    ratio = counts[most_frequent] / max(1, counts[rarest])
    advice = ""
    if few:
        advice = f"Too few objects to learn from: {first_few(few)}. Label more of them, or remove these classes."
    elif ratio > _IMBALANCE:
        advice = f"{names[rarest]} will be learned late: label more objects of it, or train longer."
    return Finding(
        "data: class balance",
        "look" if advice else "ok",
        f"rarest class {names[rarest]} with {counts[rarest]} objects, "
        f"most frequent class {names[most_frequent]} with {counts[most_frequent]}",
        f"at least {FEW_OBJECTS} objects per class, at most {_IMBALANCE} times as many of one class as of another",
        advice,
    )


def diagnose_class_distribution(objects: Sequence[Objects]) -> Finding:
    """Check that the class frequencies of the evaluation splits are those of the training split.

    Args:
        objects: of each split, the training split first.
    """
    train, *others = (o.class_counts() / max(1, len(o.boxes)) for o in objects)
    distances = [float(np.abs(train - other).sum() / 2) for other in others]
    parts = [f"{o.split.name} {d:.0%}" for o, d in zip(objects[1:], distances, strict=True)]
    name = objects[0].split.name
    far = max(distances, default=0) > 0.2
    return Finding(
        "data: class distribution",
        "look" if far else "ok",
        f"difference from {name} (total variation distance): {', '.join(parts) or 'no other split'}",
        "at most 20%",
        f"Scores there say less about images like those of {name}: split at random or by scene." if far else "",
    )
