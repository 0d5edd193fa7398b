"""What rows, classes and boxes tell, without a look at the images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from detector.arrays import Bools, Doubles, Ints
from detector.boxes import pairwise_iou
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.diagnose.finding import Finding
from detector.diagnose.objects import Objects, some, unique

_FEW_OBJECTS = 20
"""A class with fewer objects to learn from will hardly be learned."""

_IMBALANCE = 100
"""So many times more objects of the commonest class than of the rarest are worth a look."""


def check_rows(splits: Sequence[Split], allow_dropped: float) -> Finding:
    """Every row should be used as it stands."""
    total = sum((split.ledger for split in splits), Ledger())
    refused = any(split.ledger.dropped > allow_dropped * split.ledger.found for split in splits)
    lost = total.dropped or total.missing or total.clipped > 0.05 * total.found
    worst_first = [*sorted(total.entries, key=lambda entry: entry.action == "clipped"), *total.missing]
    return Finding(
        "data: rows",
        "stop" if refused else "look" if lost else "ok",
        total.summary(),
        f"none dropped, at most {allow_dropped:.1%} of a split",
        f"Mend the files: {some(worst_first)}. Or accept the loss with --allow-dropped." if refused or lost else "",
    )


def check_background(splits: Sequence[Split]) -> Finding:
    """Most images should hold something."""
    fractions = [split.ledger.background / max(1, len(split.annotations)) for split in splits]
    worst = int(np.argmax(fractions))
    return Finding(
        "data: images without objects",
        "look" if fractions[worst] > 0.5 else "ok",
        f"{fractions[worst]:.0%} of {splits[worst].name}",
        "less than half",
        "Are these meant as background images, or were their label files not found?" if fractions[worst] > 0.5 else "",
    )


def check_classes(objects: Sequence[Objects]) -> Finding:
    """Every class should have objects to learn from."""
    names = objects[0].split.class_names
    train, *others = (count_classes(of_split) for of_split in objects)
    elsewhere = sum(others, np.zeros(len(names), dtype=np.int64))
    untaught = [name for name, here, there in zip(names, train, elsewhere, strict=True) if there and not here]
    empty = [name for name, here, there in zip(names, train, elsewhere, strict=True) if not there and not here]
    expected = "every class has objects in the split to learn from"
    if untaught:
        measured = f"{len(untaught)} of {len(names)} classes only in other splits: {some(untaught)}"
        advice = "They will be scored and cannot be learned: split the images anew, or mend the class ids."
        return Finding("data: classes", "stop", measured, expected, advice)
    if empty:
        measured = f"{len(empty)} of {len(names)} classes have no object at all: {some(empty)}"
        advice = "Take them out of the names, or look for their labels."
        return Finding("data: classes", "look", measured, expected, advice)
    return Finding("data: classes", "ok", f"{len(names)} classes, all with objects", expected)


def check_balance(train: Objects) -> Finding:
    """Every class should have more than a few objects, and none a hundred times more than another."""
    counts = count_classes(train)
    names = train.split.class_names
    rarest = int(np.argmin(np.where(counts > 0, counts, np.iinfo(np.int64).max)))
    commonest = int(np.argmax(counts))
    few = [f"{names[i]} ({counts[i]})" for i in np.argsort(counts, kind="stable") if 0 < counts[i] < _FEW_OBJECTS]
    ratio = counts[commonest] / max(1, counts[rarest])
    advice = ""
    if few:
        advice = f"Hardly to be learned: {some(few)}. Label more of them, or leave these classes out."
    elif ratio > _IMBALANCE:
        advice = f"{names[rarest]} will be learned late: label more of it, or train longer."
    return Finding(
        "data: class balance",
        "look" if advice else "ok",
        f"rarest {names[rarest]} with {counts[rarest]} objects, commonest {names[commonest]} with {counts[commonest]}",
        f"at least {_FEW_OBJECTS} of each, at most {_IMBALANCE} times as many of one as of another",
        advice,
    )


def check_class_ids(objects: Sequence[Objects]) -> Finding:
    """Ids should start at 0 and mean the same class in every split.

    Only drawn examples show it where ids are shifted alike in all splits and every name is used, or where all classes
    are alike in number, size and aspect.
    """
    expected = "ids from 0 on, with one meaning in every split"
    names = objects[0].split.class_names
    counts = sum((count_classes(of_split) for of_split in objects), np.zeros(len(names), dtype=np.int64))
    if len(names) > 1 and not counts[0]:
        # So the YOLO reader words it.
        beyond = f"class {len(names)} is not a whole number"
        rows = sum(entry.reason.startswith(beyond) for o in objects for entry in o.split.ledger.entries)
        if rows or counts[-1]:
            measured = f"id 0 ({names[0]}) is never used, id {len(names) - 1} ({names[-1]}) is {counts[-1]} times"
            measured += f", and {rows} rows say {len(names)}" if rows else ""
            advice = (
                "The ids seem to count from 1 and the names from 0, so that objects bear the name of the next class: "
                "subtract 1 from the ids, or add a name at the front."
            )
            return Finding("data: class ids", "stop" if rows else "look", measured, expected, advice)
    train = class_profiles(objects[0])
    for other in objects[1:]:
        there = class_profiles(other)
        plain = _distance(train, there)
        for shift, moved in ((1, _distance(train[:-1], there[1:])), (-1, _distance(train[1:], there[:-1]))):
            # Measured: true ids 1.4 at least, ids off by one 0.01 to 0.6; of few classes chance makes more.
            if plain > 0.3 and moved < (0.7 if len(names) >= 20 else 0.5) * plain:
                measured = (
                    f"the classes of {other.split.name} differ in number, size and aspect by {plain:.2f} from those of "
                    f"{objects[0].split.name}, and by {moved:.2f} with ids moved by {shift:+d}"
                )
                advice = "One of the two was probably written with ids off by one: compare drawn examples."
                return Finding("data: class ids", "look", measured, expected, advice)
    used = np.flatnonzero(counts)
    measured = f"{len(used)} of {len(names)} used" + (f", {used[0]} to {used[-1]}" if len(used) else "")
    return Finding("data: class ids", "ok", measured, expected)


def check_class_shares(objects: Sequence[Objects]) -> Finding:
    """The classes should be as frequent where a network learns as where it is scored."""
    train, *others = (count_classes(of_split) / max(1, len(of_split.boxes)) for of_split in objects)
    distances = [float(np.abs(train - other).sum() / 2) for other in others]
    parts = [f"{o.split.name} {d:.0%}" for o, d in zip(objects[1:], distances, strict=True)]
    name = objects[0].split.name
    far = max(distances, default=0) > 0.2
    return Finding(
        "data: class shares",
        "look" if far else "ok",
        f"share of objects in other classes than in {name}: {', '.join(parts) or 'no other split'}",
        "at most 20%",
        f"Scores there say less about images like those of {name}: split at random or by scene." if far else "",
    )


def count_classes(objects: Objects) -> Ints:
    """Return the number of objects of each class [C]."""
    return np.bincount(objects.class_ids, minlength=len(objects.split.class_names))


def class_profiles(objects: Objects) -> Doubles:
    """Return by what a class can be known again [C, 3]: logs of its share, its usual size and aspect.

    NaN for classes with too few objects. The size is the root of the share of the image.
    """
    wh = np.maximum(objects.boxes[:, 2:] - objects.boxes[:, :2], 1e-6).astype(np.float64)
    size = np.log(np.prod(wh, axis=1) / np.prod(objects.image_hw, axis=1)) / 2
    aspect = np.log(wh[:, 0] / wh[:, 1])
    profiles = np.full((len(objects.split.class_names), 3), np.nan)
    for class_id, count in enumerate(count_classes(objects)):
        if count >= _FEW_OBJECTS:
            own = objects.class_ids == class_id
            profiles[class_id] = np.log(count / len(wh)), np.median(size[own]), np.median(aspect[own])
    return profiles


def _distance(a: Doubles, b: Doubles) -> float:
    """Return the mean difference of two classes' profiles [C, 3]; infinite where fewer than two can be compared."""
    differences = np.abs(a - b)[np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)]
    return float(differences.mean()) if len(differences) > 1 else np.inf


def check_repeated_boxes(objects: Sequence[Objects]) -> Finding:
    """No object should be labeled twice."""
    found = list(_overlapping(objects, 0.95, same_class=True))
    return Finding(
        "data: repeated boxes",
        "look" if found else "ok",
        f"{len(found)} pairs of boxes of one class with an IoU above 0.95",
        "none",
        f"Objects labeled twice cost precision; delete one of each: {some(unique(found))}." if found else "",
    )


def check_two_classes(objects: Sequence[Objects]) -> Finding:
    """No object should bear two classes."""
    found = list(_overlapping(objects, 0.9, same_class=False))
    return Finding(
        "data: boxes of two classes",
        "look" if found else "ok",
        f"{len(found)} pairs of boxes of two classes with an IoU above 0.9",
        "none",
        f"One of the two classes is probably wrong: {some(unique(found))}." if found else "",
    )


def _overlapping(objects: Sequence[Objects], least_iou: float, same_class: bool) -> Iterator[Path]:
    """Yield the image of every pair of boxes that overlap by more than `least_iou`."""
    for annotation in chain.from_iterable(of_split.split.annotations for of_split in objects):
        boxes, class_ids = annotation.boxes[~annotation.is_crowd], annotation.class_ids[~annotation.is_crowd]
        if len(boxes) > 1:
            pairs = np.triu(pairwise_iou(boxes, boxes) > least_iou, 1)
            pairs &= (class_ids[:, None] == class_ids) == same_class
            yield from [annotation.image_path] * int(pairs.sum())


def check_odd_boxes(objects: Sequence[Objects]) -> Finding:
    """Boxes should not fill the image, be thin as a thread, or be far from the usual size of their class."""
    counts: Counter[str] = Counter()
    places = []
    for of_split in objects:
        names, annotations = of_split.split.class_names, of_split.split.annotations
        for reason, which in _odd(of_split).items():
            rows = np.flatnonzero(which)
            counts[reason] += len(rows)
            places += [f"{names[of_split.class_ids[i]]} in {annotations[of_split.image[i]].image_path}" for i in rows]
    return Finding(
        "data: odd boxes",
        "look" if places else "ok",
        ", ".join(f"{count} boxes {reason}" for reason, count in counts.items()),
        "none",
        f"Look whether they are meant: {some(places)}." if places else "",
    )


def _odd(objects: Objects) -> dict[str, Bools]:
    """Return reason → which boxes [N] are odd by it."""
    wh = np.maximum(objects.boxes[:, 2:] - objects.boxes[:, :2], 1e-6).astype(np.float64)
    fraction = np.prod(wh, axis=1) / np.prod(objects.image_hw, axis=1)
    log_fraction = np.log(fraction)
    unusual = np.zeros(len(wh), dtype=np.bool_)
    for class_id, count in enumerate(count_classes(objects)):
        if count >= _FEW_OBJECTS:
            own = objects.class_ids == class_id
            from_median = np.abs(log_fraction[own] - np.median(log_fraction[own]))
            # 1.48 median stds are a standard std of normal values.
            unusual[own] = from_median > 6 * max(1.48 * float(np.median(from_median)), 0.1)
    return {
        "fill the image": fraction > 0.95,
        "are 20 times longer than wide": wh.max(axis=1) > 20 * wh.min(axis=1),
        "are far from the size of their class": unusual,
    }
