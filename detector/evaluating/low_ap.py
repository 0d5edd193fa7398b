"""A low AP: the most likely cause that can be told from the run and the data, as one line of advice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.arrays import Bools
from detector.boxes import area
from detector.data.split import Split
from detector.diagnose.objects import FEW_OBJECTS
from detector.letterbox import Letterbox
from detector.metrics.average_precision import AveragePrecision
from detector.wording import UNDEFINED, distinct_names, few_names, metric, plural

LOW_AP50 = 0.2
"""An AP50 below this is called low: most objects are missed, or most detections are wrong."""

ENOUGH_OBJECTS = 20
"""A class with AP50 0 counts if it has this many objects; with fewer, 0 may be chance."""

_FEW_STEPS = 300

_SMALL, _MANY_SMALL = 10.0, 0.5
"""Size of a small object (square root of the area) in input pixels, and the fraction of them that is a likely cause."""

_GOOD_ON_VAL = 0.4

_PAGE = "docs/how-to/low-ap.md (AP is low)"


@dataclass(frozen=True)
class Trained:
    """What is known about the training of the evaluated weights; None: unknown.

    Attributes:
        steps: number of steps.
        objects: number of training objects of all classes together.
        of_class: class name → number of training objects.
        val_ap50: AP50 on val in the training; only for an evaluation on other images.
    """

    steps: int | None = None
    objects: int | None = None
    of_class: Mapping[str, int] | None = None
    val_ap50: float | None = None

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Trained":
        """Return what the metadata of weights say; their values may have any type."""
        val = facts.get("val")
        ap50 = val.get("AP50") if isinstance(val, Mapping) else None
        steps, boxes = (value if isinstance(value := facts.get(key), int) else None for key in ("steps", "boxes"))
        return cls(steps, boxes, None, ap50 if isinstance(ap50, float) else None)


def low_ap_advice(ap: AveragePrecision, split: Split, input_hw: tuple[int, int], trained: Trained) -> str | None:
    """Return a line that names the most likely cause of a low AP, and where to read on; None if AP is not low.

    AP is low if AP50 is below 0.2, or if the AP50 of a class with at least 20 objects is 0.

    Args:
        ap: the metrics.
        split: the split that was evaluated.
        input_hw: height and width of the network input, in pixels.
        trained: what is known about the training.
    """
    names = distinct_names(split.class_names, split.category_ids)
    if ap.AP50 == UNDEFINED:
        return None
    if ap.AP50 < LOW_AP50:
        what, chosen = f"AP50 on {split.name} is only {metric(ap.AP50)}", names
    else:
        rows = ap.per_class.items()
        chosen = [name for name, row in rows if row["AP50"] == 0 and row["objects"] >= ENOUGH_OBJECTS]
        if not chosen:
            return None
        what = f"AP of the {'class' if len(chosen) == 1 else 'classes'} {few_names(chosen)} on {split.name} is 0"
    cause = _cause(split, input_hw, trained, np.isin(names, chosen), is_all=chosen is names)
    return f"{what}; {cause}; see {_PAGE}"


def _cause(split: Split, input_hw: tuple[int, int], trained: Trained, chosen: Bools, *, is_all: bool) -> str:
    """Return the most likely cause, and what to do.

    Args:
        split: the split that was evaluated.
        input_hw: height and width of the network input.
        trained: what is known about the training.
        chosen: [C] whether the cause is that of this class.
        is_all: whether all classes are chosen.
    """
    if is_all and trained.val_ap50 is not None and trained.val_ap50 >= _GOOD_ON_VAL:
        return (
            f"most likely cause: these images differ from the training images (AP50 on val was "
            f"{metric(trained.val_ap50)} in the training); train with such images too"
        )
    if trained.steps is not None and trained.steps < _FEW_STEPS:
        return f"most likely cause: only {plural(trained.steps, 'step')} of training; train longer (--minutes)"
    names = distinct_names(split.class_names, split.category_ids)
    if trained.of_class is not None:
        counts = {name: trained.of_class.get(name, 0) for name, own in zip(names, chosen, strict=True) if own}
        few = [f"{name} {count}" for name, count in counts.items() if count < FEW_OBJECTS]
        if len(few) > len(counts) / 2:
            return f"most likely cause: few training objects ({few_names(few)}); label more images with them"
    elif is_all and trained.objects is not None and trained.objects < FEW_OBJECTS * len(names):
        return f"most likely cause: only {plural(trained.objects, 'training object')}; label more images"
    small = _small_fraction(split, input_hw, chosen)
    if small >= _MANY_SMALL:
        return (
            f"most likely cause: {small:.0%} of these objects are smaller than {_SMALL:g} pixels in the network input "
            f"({input_hw[1]}x{input_hw[0]}); use a larger --imgsz, or tiles"
        )
    return "the cause cannot be told from the numbers of objects and steps: start with `detector check`"


def _small_fraction(split: Split, input_hw: tuple[int, int], chosen: Bools) -> float:
    """Return the fraction of the objects of the chosen classes [C] that are small in the network input."""
    sizes = [np.zeros(0)]
    for annotation in split.annotations:
        own = ~annotation.is_crowd & chosen[annotation.class_ids]
        sizes.append(np.sqrt(area(Letterbox.fit(annotation.image_hw, input_hw).to_input(annotation.boxes[own]))))
    every = np.concatenate(sizes)
    return float(np.mean(every < _SMALL)) if len(every) else 0.0
