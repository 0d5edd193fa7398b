"""A finding about class ids: do the ids start at 0, and does each id mean the same class in every split?"""

import re
from collections.abc import Sequence

import numpy as np

from detector.arrays import Doubles, Ints
from detector.diagnose.finding import Finding
from detector.diagnose.objects import FEW_OBJECTS, Objects
from detector.wording import few_names, plural

_CHECK = "data: class ids"
_EXPECTED = "class ids start at 0, and each id means the same class in every split"
_GENERIC = re.compile(
    r"class|label|object|item|(class|cls|category|cat|label|object|obj|item|type|id|c)?[ _-]*\d+",
    re.IGNORECASE | re.ASCII,
)


def diagnose_class_ids(objects: Sequence[Objects]) -> Finding:
    """Check that class ids start at 0 and that each id means the same class in every split; return a finding.

    Only formats in which an id is a position in a list of names can have these faults. An unused class is no fault:
    lists of names are often longer than a dataset needs.

    The check cannot find two faults, which are visible only in drawn examples: ids that are shifted equally in all
    splits while every class name is used; and shifted ids of classes that are all equal in frequency, size and aspect.

    Args:
        objects: objects of each split, the training split first.
    """
    names = objects[0].split.class_names
    counts = sum((o.class_counts() for o in objects), np.zeros(len(names), dtype=np.int64))
    used = np.flatnonzero(counts)
    if not objects[0].split.ids_are_positions:
        measured = f"{len(used)} of {plural(len(names), 'class', 'classes')} are used; each label names its class"
        return Finding(_CHECK, "ok", measured + _generic_note(names), "each label names its class")
    finding = _diagnose_ids_from_one(objects, counts)
    if finding is None:
        shifted = (_diagnose_shifted_ids(objects[0], other) for other in objects[1:])
        finding = next((found for found in shifted if found is not None), None)
    if finding is not None:
        return finding
    measured = f"{len(used)} of {plural(len(names), 'id')} are used" + (
        f": {used[0]} to {used[-1]}" if len(used) else ""
    )
    return Finding(_CHECK, "ok", measured + _generic_note(names), _EXPECTED)


def _generic_note(names: Sequence[str]) -> str:
    """Return the end of a measured value that says that class names tell nothing; empty if they do.

    >>> _generic_note(["class_0", "1"]), _generic_note(["cat", "class_1"]), _generic_note(["object"])
    ('; the names class_0, 1 do not say what the classes are, so whether they are right cannot be checked', '', '')
    """
    if len(names) < 2 or not all(_GENERIC.fullmatch(name.strip()) for name in names):
        return ""
    return (
        f"; the names {few_names(names)} do not say what the classes are, so whether they are right cannot be checked"
    )


def _diagnose_ids_from_one(objects: Sequence[Objects], counts: Ints) -> Finding | None:
    """Return a finding if the class ids seem to start at 1 instead of 0, else None.

    The evidence is a row whose id has no name because it is one too large, while id 0 is never used.

    Args:
        objects: objects of each split.
        counts: [C] number of objects of each class in all splits.
    """
    names = objects[0].split.class_names
    if len(names) == 1 or counts[0]:
        return None
    rows = sum(entry.code == "class_id_equals_class_count" for o in objects for entry in o.split.ledger.entries)
    if not rows:
        return None
    measured = (
        f"id 0 ({names[0]}) is never used, and {plural(rows, 'label row has', 'label rows have')} the id "
        f"{len(names)}, which has no name"
    )
    advice = (
        "The ids seem to start at 1, but the names start at 0, so that every object gets the name of the next class: "
        "subtract 1 from all ids, or insert a class name for id 0."
    )
    return Finding(_CHECK, "stop", measured, _EXPECTED, advice)


def _diagnose_shifted_ids(train: Objects, other: Objects) -> Finding | None:
    """Return a finding if the classes of `train` and `other` match better with ids shifted by one, else None."""
    few_classes = len(train.split.class_names) < 20
    profiles, other_profiles = class_profiles(train), class_profiles(other)
    distance = _distance(profiles, other_profiles)
    distance_up = _distance(profiles[:-1], other_profiles[1:])
    distance_down = _distance(profiles[1:], other_profiles[:-1])
    for shift, shifted in ((1, distance_up), (-1, distance_down)):
        # Measured ratio shifted / distance: at least 1.4 with correct ids, 0.01 to 0.6 with ids that are off by one.
        # With few classes, the ratio varies more by chance.
        if distance > 0.3 and shifted < (0.5 if few_classes else 0.7) * distance:
            measured = (
                f"mean difference of the classes of {train.split.name} and {other.split.name} in frequency, size and "
                f"aspect: {distance:.2f}, but only {shifted:.2f} with ids shifted by {shift:+d}"
            )
            advice = "The ids of one of the two splits are probably off by one: compare drawn examples of both splits."
            return Finding(_CHECK, "look", measured, _EXPECTED, advice)
    return None


def class_profiles(objects: Objects) -> Doubles:
    """Return the profile of each class as an array [C, 3]: log frequency, log median size and log median aspect.

    The size is the square root of the fraction of the image area that the box covers. The profile of a class with fewer
    than `FEW_OBJECTS` objects is NaN.
    """
    wh = np.maximum(objects.boxes[:, 2:] - objects.boxes[:, :2], 1e-6).astype(np.float64)
    size = np.log(np.prod(wh, axis=1) / np.prod(objects.image_hw, axis=1)) / 2
    aspect = np.log(wh[:, 0] / wh[:, 1])
    profiles = np.full((len(objects.split.class_names), 3), np.nan)
    for class_id, count in enumerate(objects.class_counts()):
        if count >= FEW_OBJECTS:
            is_class = objects.class_ids == class_id
            profiles[class_id] = np.log(count / len(wh)), np.median(size[is_class]), np.median(aspect[is_class])
    return profiles


def _distance(a: Doubles, b: Doubles) -> float:
    """Return the mean absolute difference of the class profiles `a` and `b`, both [C, 3].

    The result is infinite if fewer than two classes have a profile in both `a` and `b`.
    """
    differences = np.abs(a - b)[np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)]
    return float(differences.mean()) if len(differences) > 1 else np.inf
