"""Matches detections with objects as COCO's evaluation does, once; other modules compute metrics from the matches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detector.arrays import Bools, Doubles, Ints
from detector.partial_labels import are_unlabeled

COCO_IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's ten IoU thresholds, with the same rounding as in COCO's evaluation."""

AREA_RANGES = (("all", 0.0, 1e10), ("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, 1e10))
"""Name, smallest area and largest area of COCO's area ranges, in square pixels; both limits belong to the range."""

_PAIRS_AT_ONCE = 2**20
"""Largest number of pairs of detection and object whose IoU is computed at once, to limit memory."""

_LARGEST_THRESHOLD = 1 - 1e-10
"""COCO's evaluation lowers larger IoU thresholds to this value."""

Indices = npt.NDArray[np.int32]
"""int32: indices, of which there are many."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Which detection matches which object, by the rules of COCO's evaluation.

    A (area ranges) is 4: all, small, medium, large. T is the number of IoU thresholds, I of images, C of classes, D of
    detections that count, G of objects. Detections are sorted by class, and in a class by falling score; equal scores
    are in the order of the images, then of the rows.

    Attributes:
        image_ids: [I] ids of all images, ascending, also of images without objects and detections.
        category_ids: [C] category ids of all classes, ascending.
        iou_thresholds: [T] IoU thresholds, ascending.
        image: [D] index of the image of each detection in `image_ids`.
        category: [D] index of the class of each detection in `category_ids`.
        scores: [D] score of each detection.
        row: [D] index of each detection in the given rows.
        rank: [D] number of detections of the same image and class with a higher score, 0..max_detections - 1.
        true_positive: [A, T, D] True if the detection matches an object that counts in the area range.
        ignored: [A, T, D] True if the detection is neither a true nor a false positive: it matches a crowd region or an
            object outside the area range, or it matches nothing and has itself an area outside the area range, or a
            class that is not labeled in its image.
        object_image: [G] index of the image of each object.
        object_category: [G] index of the class of each object.
        object_ignored: [A, G] True if the object does not count: it is a crowd region, or outside the area range.
        object_row: [G] index of each object in the annotations of the ground truth.
        matched_object: [T, D] index of the object that each detection matches in the area range "all", which may be a
            crowd region; -1: none.
    """

    image_ids: Ints
    category_ids: Ints
    iou_thresholds: Doubles
    image: Indices
    category: Indices
    scores: Doubles
    row: Indices
    rank: Indices
    true_positive: Bools
    ignored: Bools
    object_image: Indices
    object_category: Indices
    object_ignored: Bools
    object_row: Indices
    matched_object: Indices


class _Objects(NamedTuple):
    """The objects of the ground truth, sorted by class and image; attributes as in `Matches`.

    Attributes:
        boxes: [G, 4] x, y, width, height in pixels.
        crowd: [G] True for a crowd region.
        ignored: [A, G].
        group: [G] class index x I + image index, ascending.
        row: [G].
    """

    boxes: Doubles
    crowd: Bools
    ignored: Bools
    group: Ints
    row: Indices


class _Found(NamedTuple):
    """The detections that count, in the order of `Matches`.

    Attributes:
        boxes: [D, 4] x, y, width, height in pixels.
        scores: [D].
        group: [D] class index x I + image index.
        row: [D].
        rank: [D].
    """

    boxes: Doubles
    scores: Doubles
    group: Ints
    row: Indices
    rank: Indices


class _Pairs(NamedTuple):
    """Pairs of a detection and an object of its image and class, with an IoU of at least the lowest threshold.

    Attributes:
        found: [P] index of the detection.
        object: [P] index of the object.
        iou: [P] their IoU; for a crowd region, the intersection divided by the area of the detection.
    """

    found: Ints
    object: Ints
    iou: Doubles


def match_detections(
    ground_truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    iou_thresholds: Sequence[float] = COCO_IOU_THRESHOLDS,
    max_detections: int = 100,
) -> Matches:
    """Match detections with objects exactly as COCO's evaluation does.

    In each image and class, the detections choose in the order of their scores: the free object with the largest IoU
    that is at least the threshold. An object that is ignored (a crowd region, or outside the area range) is chosen only
    if no other can be. A crowd region matches any number of detections.

    Args:
        ground_truth: COCO dictionary with images, annotations and categories; `iscrowd` and `area` may be missing.
        rows: valid detections in COCO's results format; see `average_precision_unchecked`.
        iou_thresholds: IoU thresholds in 0..1, ascending.
        max_detections: largest number of detections of a class per image; those with lower scores are left out.

    Source: Lin et al., Microsoft COCO: Common Objects in Context, 2014; `evaluateImg` of pycocotools.
    """
    image_ids = sorted({image["id"] for image in ground_truth["images"]})
    category_ids = sorted({category["id"] for category in ground_truth["categories"]})
    images = {image_id: index for index, image_id in enumerate(image_ids)}
    categories = {category_id: index * len(images) for index, category_id in enumerate(category_ids)}
    objects = _read_objects(ground_truth["annotations"], images, categories)
    found = _read_detections(rows, images, categories, max_detections)
    thresholds = np.asarray(iou_thresholds, np.float64)
    pairs = _overlapping_pairs(found, objects, min(thresholds[0], _LARGEST_THRESHOLD))
    chosen = _choose_objects(found.rank, pairs, objects, np.minimum(thresholds, _LARGEST_THRESHOLD))
    matched = chosen >= 0
    of_ignored = np.stack([flags[indices] for flags, indices in zip(objects.ignored, chosen, strict=True)]) & matched
    outside = _outside_areas(found.boxes[:, 2] * found.boxes[:, 3])
    unmatched_ignored = outside | np.array(are_unlabeled(ground_truth, rows), np.bool_)[found.row]
    per_image = max(len(images), 1)
    return Matches(
        image_ids=np.array(image_ids, np.int64),
        category_ids=np.array(category_ids, np.int64),
        iou_thresholds=thresholds,
        image=(found.group % per_image).astype(np.int32),
        category=(found.group // per_image).astype(np.int32),
        scores=found.scores,
        row=found.row,
        rank=found.rank,
        true_positive=matched & ~of_ignored,
        ignored=np.where(matched, of_ignored, unmatched_ignored[:, None]),
        object_image=(objects.group % per_image).astype(np.int32),
        object_category=(objects.group // per_image).astype(np.int32),
        object_ignored=objects.ignored[:, :-1],
        object_row=objects.row,
        matched_object=chosen[0],
    )


def _read_objects(
    annotations: Sequence[Mapping[str, Any]], images: Mapping[Any, int], categories: Mapping[Any, int]
) -> _Objects:
    """Return the objects sorted by class and image; annotations of other images or classes do not count.

    One more object is appended, which `ignored` contains and no detection matches: the index -1 is valid.

    Args:
        annotations: annotations of a COCO dictionary.
        images: image id → index.
        categories: category id → index x number of images.
    """
    known = [i for i, row in enumerate(annotations) if row["image_id"] in images and row["category_id"] in categories]
    own = [annotations[index] for index in known]
    group = np.array([categories[row["category_id"]] + images[row["image_id"]] for row in own], np.int64)
    order = np.argsort(group, kind="stable")
    boxes = np.array([row["bbox"] for row in own], np.float64).reshape(-1, 4)[order]
    areas = np.array([row.get("area", row["bbox"][2] * row["bbox"][3]) for row in own], np.float64)[order]
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in own], np.bool_)[order]
    ignored = np.pad(crowd | _outside_areas(areas), ((0, 0), (0, 1)))
    return _Objects(boxes, crowd, ignored, group[order], np.array(known, np.int32)[order])


def _read_detections(
    rows: Sequence[Mapping[str, Any]], images: Mapping[Any, int], categories: Mapping[Any, int], max_detections: int
) -> _Found:
    """Return the detections that count, sorted by class, falling score, image and row.

    Args:
        rows: detections in COCO's results format.
        images: image id → index.
        categories: category id → index x number of images.
        max_detections: largest number of detections of a class per image.
    """
    group = np.array([categories[row["category_id"]] + images[row["image_id"]] for row in rows], np.int64)
    scores = np.array([row["score"] for row in rows], np.float64)
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    order = np.lexsort((-scores, group))  # stable: equal scores stay in the order of the rows
    starts = np.searchsorted(group[order], group[order])
    rank = np.arange(len(order)) - starts
    order, rank = order[rank < max_detections], rank[rank < max_detections]
    in_class = np.lexsort((-scores[order], group[order] // max(len(images), 1)))
    order, rank = order[in_class], rank[in_class]
    return _Found(boxes[order], scores[order], group[order], order.astype(np.int32), rank.astype(np.int32))


def _outside_areas(areas: Doubles) -> Bools:
    """Return [A, N] whether each of N areas, in square pixels, is outside the area range."""
    return np.stack([(areas < low) | (areas > high) for _, low, high in AREA_RANGES])


def _overlapping_pairs(found: _Found, objects: _Objects, threshold: float) -> _Pairs:
    """Return the pairs with an IoU of at least `threshold`, sorted by rank, detection, IoU and object."""
    first = np.searchsorted(objects.group, found.group)
    counts = np.searchsorted(objects.group, found.group, side="right") - first
    ends = np.cumsum(counts)
    parts, start = [_Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))], 0
    while start < len(counts):
        done = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
        own = np.repeat(np.arange(start, stop), counts[start:stop])
        candidates = np.arange(done, ends[stop - 1]) - (ends - counts - first)[own]
        iou = _iou(found.boxes[own], objects.boxes[candidates], objects.crowd[candidates])
        keep = iou >= threshold
        parts.append(_Pairs(own[keep], candidates[keep], iou[keep]))
        start = stop
    own = np.concatenate([part.found for part in parts])
    candidates = np.concatenate([part.object for part in parts])
    iou = np.concatenate([part.iou for part in parts])
    order = np.lexsort((candidates, iou, own, found.rank[own]))
    return _Pairs(own[order], candidates[order], iou[order])


def _iou(found: Doubles, objects: Doubles, crowd: Bools) -> Doubles:
    """Return [P] the IoU of P pairs of boxes [P, 4] (x, y, width, height), with COCO's order of operations.

    The IoU with a crowd region is the intersection divided by the area of the detection.
    """
    x1, y1, w1, h1 = found.T
    x2, y2, w2, h2 = objects.T
    width = np.minimum(x1 + w1, x2 + w2) - np.maximum(x1, x2)
    height = np.minimum(y1 + h1, y2 + h2) - np.maximum(y1, y2)
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = np.where(crowd, w1 * h1, w1 * h1 + w2 * h2 - intersection)
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0))


def _choose_objects(rank: Indices, pairs: _Pairs, objects: _Objects, thresholds: Doubles) -> Indices:
    """Return [A, T, D] the index of the object that each detection chooses; -1: none.

    All detections of one rank choose at once: they are in different images or classes, and want different objects.

    Args:
        rank: [D] rank of each detection.
        pairs: sorted as `_overlapping_pairs` returns them.
        objects: the objects.
        thresholds: [T] IoU thresholds.
    """
    areas = len(AREA_RANGES)
    chosen = np.full((areas, len(thresholds), len(rank)), -1, np.int32)
    taken = np.zeros((areas, len(thresholds), len(objects.crowd)), np.bool_)
    for start, stop in pairwise([0, *np.cumsum(np.bincount(rank[pairs.found])).tolist()]):
        if start == stop:
            continue
        found, candidates = pairs.found[start:stop], pairs.object[start:stop]
        free = ~taken[:, :, candidates] | objects.crowd[candidates]
        free &= pairs.iou[start:stop] >= thresholds[:, None]
        # The last free pair of a detection has the largest IoU. Objects that count are preferred to all others.
        count = stop - start
        preference = np.arange(count) + count * ~objects.ignored[:, None, candidates]
        first = np.flatnonzero(np.diff(found, prepend=-1))
        best = np.maximum.reduceat(np.where(free, preference, -1), first, axis=2)
        winner = np.where(best >= 0, candidates[best % count], -1)
        chosen[:, :, found[first]] = winner
        area, threshold, index = np.nonzero(best >= 0)
        taken[area, threshold, winner[area, threshold, index]] = True
    return chosen
