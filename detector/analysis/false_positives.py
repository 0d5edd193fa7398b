"""The kind of each false positive: which object is nearest to it, and what is wrong."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from detector.analysis.misses import LEAST_IOU
from detector.analysis.outcome import Outcome, overlaps_with
from detector.annotation import Annotation
from detector.arrays import Doubles
from detector.options import MATCH_IOU

FalsePositiveKind = Literal["duplicate", "confusion", "localization", "both", "background"]
"""What is wrong with a false positive, the first that holds:

- duplicate: it is in the place of an object of its class, which a better detection finds;
- confusion: it is in the place of an object of another class;
- localization: it overlaps an object of its class, but not enough;
- both: it overlaps an object of another class, but not enough;
- background: it overlaps no object by an IoU of at least `LEAST_IOU`.

Source: the error types of Bolya et al., TIDE, 2020, section 2.2, in another order.
"""


@dataclass(frozen=True)
class FalsePositive:
    """A detection that finds no object.

    Attributes:
        detection: index of the detection, 0 is the best of the image.
        kind: what is wrong.
        nearest: index of the object in the annotation that the kind is about; for `background`, the object with the
            largest IoU. None: it overlaps no object.
        iou: IoU with the nearest object; 0 if there is none.
    """

    detection: int
    kind: FalsePositiveKind
    nearest: int | None
    iou: float


def explain_false_positives(
    outcome: Outcome, truth: Annotation, *, min_iou: float = MATCH_IOU
) -> tuple[FalsePositive, ...]:
    """Return the false positives of one image, each with exactly one kind. Detections in crowd regions are none.

    Args:
        outcome: the detections and their matches.
        truth: the objects in the image.
        min_iou: IoU from which a detection finds an object of its class.
    """
    wrong = outcome.matches.false_positives
    overlaps = np.where(truth.is_crowd, 0, overlaps_with(outcome.boxes[wrong], truth))
    found = []
    for row, detection in zip(overlaps, wrong.tolist(), strict=True):
        same_class = truth.class_ids == outcome.class_ids[detection]
        own, other = np.where(same_class, row, 0), np.where(same_class, 0, row)
        rules: tuple[tuple[FalsePositiveKind, bool, Doubles], ...] = (
            ("duplicate", own.max(initial=0) >= min_iou, own),
            ("confusion", other.max(initial=0) >= min_iou, other),
            ("localization", own.max(initial=0) >= LEAST_IOU, own),
            ("both", other.max(initial=0) >= LEAST_IOU, other),
            ("background", True, row),
        )
        kind, _, overlap = next(rule for rule in rules if rule[1])
        iou = float(overlap.max(initial=0))
        found.append(FalsePositive(detection, kind, int(overlap.argmax()) if iou > 0 else None, iou))
    return tuple(found)
