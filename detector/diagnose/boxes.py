"""Findings about boxes: duplicate boxes, objects with two classes, and boxes of unusual size or aspect."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from detector.arrays import Bools
from detector.boxes import pairwise_iou
from detector.diagnose.finding import Finding
from detector.diagnose.objects import FEW_OBJECTS, Objects, first_few
from detector.wording import plural

_MAX_UNUSUAL, _FEW_UNUSUAL = 0.1, 5
"""Largest acceptable fraction and number of unusual boxes; whichever allows more."""


def diagnose_duplicate_boxes(objects: Sequence[Objects]) -> Finding:
    """Check that no two boxes of the same class have an IoU above 0.95, and return a finding."""
    paths = list(_overlapping_pairs(objects, 0.95, same_class=True))
    return Finding(
        "data: duplicate boxes",
        "look" if paths else "ok",
        f"{plural(len(paths), 'pair')} of boxes of the same class with an IoU above 0.95",
        "none",
        f"Objects labeled twice reduce precision: delete one box of each pair in {_first_paths(paths)}."
        if paths
        else "",
    )


def diagnose_boxes_with_two_classes(objects: Sequence[Objects]) -> Finding:
    """Check that no two boxes of different classes have an IoU above 0.9, and return a finding."""
    paths = list(_overlapping_pairs(objects, 0.9, same_class=False))
    return Finding(
        "data: boxes with two classes",
        "look" if paths else "ok",
        f"{plural(len(paths), 'pair')} of boxes of different classes with an IoU above 0.9",
        "none",
        f"One of the two classes is probably wrong: check the boxes in {_first_paths(paths)}." if paths else "",
    )


def _overlapping_pairs(objects: Sequence[Objects], min_iou: float, same_class: bool) -> Iterator[Path]:
    """For each pair of boxes in one image with an IoU above `min_iou`, yield the path of the image.

    Args:
        objects: objects of each split.
        min_iou: lower limit of the IoU, exclusive.
        same_class: True: only pairs with the same class. False: only pairs with different classes.
    """
    for annotation in chain.from_iterable(o.split.annotations for o in objects):
        boxes, class_ids = annotation.boxes[~annotation.is_crowd], annotation.class_ids[~annotation.is_crowd]
        if len(boxes) > 1:
            pairs = np.triu(pairwise_iou(boxes, boxes) > min_iou, 1)
            pairs &= (class_ids[:, None] == class_ids) == same_class
            yield from [annotation.image_path] * int(pairs.sum())


def _first_paths(paths: Sequence[Path]) -> str:
    """Return the first three different paths as text, and the number of the other paths."""
    return first_few(dict.fromkeys(paths))


def diagnose_unusual_boxes(objects: Sequence[Objects]) -> Finding:
    """Check that few boxes fill their image, are very thin, or have an unusual size for their class; return a finding.

    A few such boxes are normal. They are counted, and the drawn examples show the smallest and the largest boxes.
    """
    counts: Counter[str] = Counter()
    descriptions = []
    for split_objects in objects:
        names, annotations = split_objects.split.class_names, split_objects.split.annotations
        for reason, mask in _unusual(split_objects).items():
            rows = np.flatnonzero(mask)
            counts[reason] += len(rows)
            descriptions += [
                f"{names[split_objects.class_ids[i]]} in {annotations[split_objects.image_index[i]].image_path}"
                for i in rows
            ]
    total = sum(len(split_objects.boxes) for split_objects in objects)
    too_many = max(counts.values(), default=0) > max(_FEW_UNUSUAL, _MAX_UNUSUAL * total)
    return Finding(
        "data: unusual boxes",
        "look" if too_many else "ok",
        ", ".join(f"{plural(count, 'box', 'boxes')} {reason}" for reason, count in counts.items()),
        f"at most {_MAX_UNUSUAL:.0%} of the boxes, for each reason",
        f"Check whether these boxes are correct: {first_few(descriptions)}." if too_many else "",
    )


def _unusual(objects: Objects) -> dict[str, Bools]:
    """Return a dictionary: reason → mask [N], which is True where a box is unusual for this reason."""
    wh = np.maximum(objects.boxes[:, 2:] - objects.boxes[:, :2], 1e-6).astype(np.float64)
    fraction = np.prod(wh, axis=1) / np.prod(objects.image_hw, axis=1)
    log_fraction = np.log(fraction)
    unusual_size = np.zeros(len(wh), dtype=np.bool_)
    for class_id, count in enumerate(objects.class_counts()):
        if count >= FEW_OBJECTS:
            is_class = objects.class_ids == class_id
            from_median = np.abs(log_fraction[is_class] - np.median(log_fraction[is_class]))
            # Of normally distributed values, 1.48 times the median absolute deviation is one standard deviation.
            unusual_size[is_class] = from_median > 6 * max(1.48 * float(np.median(from_median)), 0.1)
    height, width = objects.image_hw.T
    x1, y1, x2, y2 = objects.boxes.T
    at_border = (x1 < 1) | (y1 < 1) | (x2 > width - 1) | (y2 > height - 1)  # only a part of the object is visible
    return {
        "with more than 95% of the image area": fraction > 0.95,
        "with one side more than 20 times as long as the other": wh.max(axis=1) > 20 * wh.min(axis=1),
        "of an unusual size for the class": unusual_size & ~at_border,
    }
