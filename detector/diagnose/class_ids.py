"""A finding about class ids: do they start at 0 and mean the same class in every split?"""

from collections.abc import Sequence

import numpy as np

from detector.arrays import Doubles, Ints
from detector.diagnose.finding import Finding
from detector.diagnose.objects import FEW_OBJECTS, Objects

_CHECK = "data: class ids"
_EXPECTED = "ids that start at 0 and mean the same class in every split"


def diagnose_class_ids(objects: Sequence[Objects]) -> Finding:
    """Check that class ids start at 0 and mean the same class in every split.

    Two faults show only in drawn examples: ids shifted equally in all splits while every name is used, and shifted ids
    of classes that are all equal in number, size and aspect.

    Args:
        objects: of each split, the training split first.
    """
    names = objects[0].split.class_names
    counts = sum((o.class_counts() for o in objects), np.zeros(len(names), dtype=np.int64))
    finding = _diagnose_ids_from_one(objects, counts)
    if finding is None:
        shifted = (_diagnose_shifted_ids(objects[0], other) for other in objects[1:])
        finding = next((found for found in shifted if found is not None), None)
    if finding is not None:
        return finding
    used = np.flatnonzero(counts)
    measured = f"{len(used)} of {len(names)} used" + (f", {used[0]} to {used[-1]}" if len(used) else "")
    return Finding(_CHECK, "ok", measured, _EXPECTED)


def _diagnose_ids_from_one(objects: Sequence[Objects], counts: Ints) -> Finding | None:
    """Return a finding if the ids seem to start at 1; `counts` [C] are the objects of each class in all splits."""
    names = objects[0].split.class_names
    if len(names) == 1 or counts[0]:
        return None
    rows = sum(entry.code == "class_id_equals_class_count" for o in objects for entry in o.split.ledger.entries)
    if not rows and not counts[-1]:
        return None
    measured = f"id 0 ({names[0]}) is never used, id {len(names) - 1} ({names[-1]}) is used {counts[-1]} times"
    measured += f", and {rows} rows have the id {len(names)}" if rows else ""
    advice = (
        "The ids seem to start at 1 while the names start at 0, so every object gets the name of the next class: "
        "subtract 1 from the ids, or insert a name at the front."
    )
    return Finding(_CHECK, "stop" if rows else "look", measured, _EXPECTED, advice)


def _diagnose_shifted_ids(train: Objects, other: Objects) -> Finding | None:
    """Return a finding if the classes of a split match those of the training split better with ids shifted by one."""
    few_classes = len(train.split.class_names) < 20
    here, there = class_profiles(train), class_profiles(other)
    distance = _distance(here, there)
    for shift, shifted in ((1, _distance(here[:-1], there[1:])), (-1, _distance(here[1:], there[:-1]))):
        # Measured ratio shifted / distance: correct ids at least 1.4, ids off by one 0.01 to 0.6. With few classes the
        # ratio varies more by chance.
        if distance > 0.3 and shifted < (0.5 if few_classes else 0.7) * distance:
            measured = (
                f"the classes of {other.split.name} differ in number, size and aspect by {distance:.2f} from those of "
                f"{train.split.name}, and by {shifted:.2f} with ids shifted by {shift:+d}"
            )
            advice = "The ids of one of the two splits are probably off by one: compare drawn examples."
            return Finding(_CHECK, "look", measured, _EXPECTED, advice)
    return None


def class_profiles(objects: Objects) -> Doubles:
    """Return features [C, 3] that characterize each class: logarithms of its frequency, median size and median aspect.

    The size is the square root of the fraction of the image that the box covers. NaN for classes with too few objects.
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
    """Return the mean absolute difference of class profiles `a` and `b`, both [C, 3].

    Infinite if fewer than two classes have a profile in both.
    """
    differences = np.abs(a - b)[np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)]
    return float(differences.mean()) if len(differences) > 1 else np.inf
