"""Findings about label rows and classes; these checks use the annotations only and decode no images."""

from collections.abc import Sequence

import numpy as np

from detector.arrays import Ints
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.diagnose.finding import Finding, Verdict
from detector.diagnose.objects import FEW_OBJECTS, Objects, first_few
from detector.wording import plural

_MAX_CLIPPED = 0.3
"""Largest acceptable fraction of clipped rows. In correct labels, rounding clips boxes that touch the image border."""

_MAX_BACKGROUND = 0.75
"""Largest acceptable fraction of images without objects in a split."""

_MAX_UNKNOWN = 0.1
"""Largest fraction of the evaluated objects that may have a class without training objects.

In a dataset with many rare classes, some classes have objects in only one split.
"""

_MAX_DISTANCE = 0.5
"""Largest acceptable difference between the class frequencies of two splits; see `diagnose_class_distribution`."""

_PERMUTATIONS = 200
"""Number of random divisions of the images into two splits that the real division is compared with."""

_MAX_PERMUTED = 2000
"""Largest number of images per split that are divided at random."""

_COCO_MAX_DETECTIONS = 100
"""COCO's evaluation uses at most this many detections per image."""


def diagnose_rows(splits: Sequence[Split], allow_dropped: float) -> Finding:
    """Check that no rows are dropped, no images are missing and few rows are clipped; return a finding.

    Args:
        splits: all splits.
        allow_dropped: largest acceptable fraction of dropped rows in a split, 0..1.
    """
    total = sum((split.ledger for split in splits), Ledger())
    too_many = any(split.ledger.too_many_dropped(allow_dropped) for split in splits)
    lost = total.dropped or total.missing or total.clipped > _MAX_CLIPPED * total.found
    worst_first = [*sorted(total.entries, key=lambda entry: entry.action == "clipped"), *total.missing]
    advice = ""
    if lost:
        advice = f"Fix the files: {first_few(worst_first)}."
    if too_many:
        advice += " To train without the dropped rows, use --allow-dropped."
    return Finding(
        "data: label rows",
        "stop" if too_many else "look" if lost else "ok",
        total.summary(),
        f"no dropped rows; a run accepts 3 rows per split, or {allow_dropped:.1%} if that is more",
        advice,
    )


def diagnose_objects(train: Objects) -> Finding:
    """Check that the training split has an object, and return a finding.

    The finding also tells how many images have more objects than COCO's evaluation uses detections.
    """
    images = len(train.split.annotations)
    measured = f"{plural(len(train.boxes), 'object')} in {plural(images, 'training image')}"
    expected = "at least one object in the training split"
    if not len(train.boxes):
        crowd = sum(int(annotation.is_crowd.sum()) for annotation in train.split.annotations)
        advice = "There is nothing to learn from: check whether the label files are empty or missing."
        if crowd:
            boxes = "the only box is" if crowd == 1 else f"all {crowd} boxes are"
            advice = f"There is nothing to learn from: {boxes} marked as crowd or difficult. Remove the mark."
        return Finding("data: objects", "stop", measured, expected, advice)
    return Finding("data: objects", "ok", measured, expected)


def diagnose_crowded_images(objects: Sequence[Objects]) -> Finding:
    """Check that no evaluated image has more objects than COCO's evaluation uses detections, and return a finding.

    Args:
        objects: objects of each split, the training split first. The training split is evaluated if it is the only one.
    """
    expected = f"at most {_COCO_MAX_DETECTIONS} objects per image"
    parts, reachable = [], 1.0
    for evaluated in objects[1:] or objects:
        counts = np.bincount(evaluated.image_index, minlength=1)
        crowded = int(np.sum(counts > _COCO_MAX_DETECTIONS))
        if crowded:
            recall = np.minimum(counts, _COCO_MAX_DETECTIONS).sum() / counts.sum()
            reachable = min(reachable, float(recall))
            parts.append(f"{plural(crowded, 'image')} of {evaluated.split.name}, with up to {counts.max()} objects")
    if not parts:
        return Finding("data: objects per image", "ok", "no image has more objects", expected)
    # This is a property of the metric, not a fault of the data.
    measured = (
        f"{'; '.join(parts)}; COCO's AP uses only the best {_COCO_MAX_DETECTIONS} detections of an image, so that "
        f"recall cannot exceed {reachable:.0%}, and AP hardly more: also evaluate with "
        f"--max-det {_next_hundred(objects)}"
    )
    return Finding("data: objects per image", "ok", measured, expected)


def _next_hundred(objects: Sequence[Objects]) -> int:
    """Return the largest number of objects in an image, rounded up to a multiple of 100."""
    most = max(int(np.bincount(o.image_index, minlength=1).max()) for o in objects)
    return -(-most // 100) * 100


def diagnose_background(splits: Sequence[Split]) -> Finding:
    """Check that at most 75% of the images of a split have no objects, and return a finding.

    If some of the classes were chosen, any fraction is right, because images of other classes are background images.
    """
    fractions = [split.ledger.background / max(1, len(split.annotations)) for split in splits]
    worst = int(np.argmax(fractions))
    too_many = fractions[worst] > _MAX_BACKGROUND and not splits[worst].ledger.other_classes
    return Finding(
        "data: images without objects",
        "look" if too_many else "ok",
        f"{fractions[worst]:.0%} of the {splits[worst].name} images",
        f"at most {_MAX_BACKGROUND:.0%}",
        "Check that these are background images, and that their label files are not missing." if too_many else "",
    )


def diagnose_classes(objects: Sequence[Objects]) -> Finding:
    """Check that the classes of all other splits have objects in the training split, and return a finding.

    A class without any object is reported, but is no fault: lists of class names are often longer than needed.

    Args:
        objects: objects of each split, the training split first.
    """
    names = objects[0].split.class_names
    train, *others = (split_objects.class_counts() for split_objects in objects)
    evaluation = sum(others, np.zeros(len(names), dtype=np.int64))
    counts = list(zip(names, train, evaluation, strict=True))
    not_in_train = [name for name, in_train, in_others in counts if in_others and not in_train]
    empty = [name for name, in_train, in_others in counts if not in_others and not in_train]
    expected = "every evaluated class has objects in the training split"
    if not_in_train:
        unknown = int(evaluation[train == 0].sum())
        has = "has" if len(not_in_train) == 1 else "have"
        measured = (
            f"{len(not_in_train)} of {plural(len(names), 'class', 'classes')} {has} objects only in other splits "
            f"({unknown} of their {plural(int(evaluation.sum()), 'object')}): {first_few(not_in_train)}"
        )
        advice = "These classes are evaluated but cannot be learned: split the images again, or check their labels."
        verdict: Verdict = "stop" if unknown > _MAX_UNKNOWN * evaluation.sum() else "look"
        return Finding("data: classes", verdict, measured, expected, advice)
    measured = f"{len(names) - len(empty)} of {plural(len(names), 'class', 'classes')} have objects"
    measured += f"; without any object: {first_few(empty)}" if empty else ""
    return Finding("data: classes", "ok", measured, expected)


def diagnose_class_balance(train: Objects) -> Finding:
    """Report rare classes, and check that none of them is a second spelling of another class; return a finding.

    A rare class is no fault. But a class with few objects whose name differs from another name only in case, spaces or
    a plural s is probably the same class.
    """
    counts = train.class_counts()
    names = train.split.class_names
    used = np.flatnonzero(counts)
    expected = f"no class with fewer than {FEW_OBJECTS} objects whose name is a second spelling of another class"
    if not len(used):
        return Finding("data: class balance", "ok", "no objects", expected)
    rarest, most_frequent = int(used[counts[used].argmin()]), int(counts.argmax())
    few = [i for i in used[np.argsort(counts[used], kind="stable")].tolist() if counts[i] < FEW_OBJECTS]
    measured = (
        f"the rarest class is {names[rarest]} with {plural(counts[rarest], 'object')}, "
        f"the most frequent class is {names[most_frequent]} with {counts[most_frequent]}"
    )
    if few:
        listed = first_few(f"{names[i]} ({counts[i]})" for i in few)
        measured += f"; few objects, which are hard to learn from: {listed}"
    spellings = _second_spellings(names, counts, few)
    advice = f"Probably the same class: {first_few(spellings)}. Give them one name." if spellings else ""
    return Finding("data: class balance", "look" if spellings else "ok", measured, expected, advice)


def _second_spellings(names: Sequence[str], counts: Ints, rare: Sequence[int]) -> list[str]:
    """Return "rare = frequent" for each rare class whose name is spelled almost like that of a more frequent class."""

    def key(name: str) -> str:
        """Return a name without case, spaces, punctuation and plural s; the name itself if nothing remains."""
        return "".join(filter(str.isalnum, name.casefold())).removesuffix("s") or name

    frequent = {key(names[i]): i for i in np.argsort(counts, kind="stable").tolist() if counts[i]}
    pairs = ((i, frequent[key(names[i])]) for i in rare)
    return [f"{names[i]} = {names[j]}" for i, j in pairs if i != j]


def diagnose_class_distribution(objects: Sequence[Objects]) -> Finding:
    """Check that the class frequencies of the other splits are those of training; return a finding.

    The difference is the total variation distance: half of the sum of the absolute differences of all frequencies. A
    small split has a large difference by chance. So the difference counts only if it is larger than that of all random
    divisions of the same images into splits of the same sizes.

    Args:
        objects: objects of each split, the training split first.
    """
    train, *others = objects
    distances = [_distance(train.class_counts(), other.class_counts()) for other in others]
    parts = [f"{o.split.name} {d:.0%}" for o, d in zip(others, distances, strict=True)]
    far = any(
        distance > _MAX_DISTANCE and distance > _distance_by_chance(train, other)
        for other, distance in zip(others, distances, strict=True)
    )
    name = train.split.name
    return Finding(
        "data: class distribution",
        "look" if far else "ok",
        f"difference between the class frequencies of {name} and other splits (total variation distance): "
        f"{', '.join(parts) or 'no other split'}",
        f"at most {_MAX_DISTANCE:.0%}, or not more than by chance",
        f"Scores of other splits are less valid for images like those of {name}: split images at random or by scene."
        if far
        else "",
    )


def _distance(counts: Ints, other: Ints) -> float:
    """Return the total variation distance of two class distributions, from the object counts [C]; 0 without objects."""
    if not counts.sum() or not other.sum():
        return 0.0
    return float(np.abs(counts / counts.sum() - other / other.sum()).sum() / 2)


def _distance_by_chance(train: Objects, other: Objects) -> float:
    """Return the largest distance of the class distributions in random divisions of the images of both splits."""
    # Fewer images only make the distance by chance larger.
    rng, sample = np.random.default_rng(0), [_counts_by_image(objects) for objects in (train, other)]
    sample = [counts[rng.permutation(len(counts))[:_MAX_PERMUTED]] for counts in sample]
    counts, size = np.concatenate(sample), len(sample[1])
    total = counts.sum(axis=0)
    distances = []
    for _ in range(_PERMUTATIONS):
        chosen = counts[rng.choice(len(counts), size, replace=False)].sum(axis=0)
        distances.append(_distance(total - chosen, chosen))
    return max(distances)


def _counts_by_image(objects: Objects) -> Ints:
    """Return the number of objects of each class in each image, as an array [images, C]."""
    counts: Ints = np.zeros((len(objects.split.annotations), len(objects.split.class_names)), dtype=np.int64)
    np.add.at(counts, (objects.image_index, objects.class_ids), 1)
    return counts
