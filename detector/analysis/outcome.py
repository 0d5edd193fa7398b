"""What post-processing makes of the raw predictions of one image, and which objects the detections find."""

from dataclasses import dataclass, replace

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Bools, Doubles, Floats, Ints
from detector.letterbox import Letterbox
from detector.ops.suppression import Kept
from detector.options import MATCH_IOU, DetectOptions
from detector.predict.postprocess import Candidates, select_candidates, suppress_candidates


@dataclass(frozen=True, eq=False)
class ImagePredictions:
    """The raw predictions for one image, at all P grid points, before score threshold and NMS.

    Attributes:
        boxes: [P, 4] (x1, y1, x2, y2) in input pixels, not clipped.
        scores: [P, C] class scores, 0..1.
        letterbox: the letterbox of the image.
    """

    boxes: Floats
    scores: Floats
    letterbox: Letterbox


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """The objects that the D detections of one image find.

    Attributes:
        objects: [D] index of the object that a detection finds; -1: the detection finds no object.
        ignored: [D] True: the detection finds no object, but is no false positive: it lies in a crowd region of its
            class, or its class is not labeled in the image.
        found: [N] True: a detection finds this object. False for crowd regions.
    """

    objects: Ints
    ignored: Bools
    found: Bools

    @property
    def false_positives(self) -> Ints:
        """Indices of the detections that find no object and are not ignored."""
        return np.flatnonzero((self.objects < 0) & ~self.ignored)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What post-processing makes of the raw predictions of one image.

    Attributes:
        candidates: the K predictions to which NMS was applied.
        kept: the boxes that NMS keeps, best first, without the limit `max_detections`.
        boxes: [D, 4] boxes of the detections, the best of `kept`, in pixels of the image.
        scores: [D] scores of the detections.
        class_ids: [D] classes of the detections.
        matches: which objects the detections find.
    """

    candidates: Candidates
    kept: Kept
    boxes: Floats
    scores: Floats
    class_ids: Ints
    matches: ImageMatches


def outcome_of(
    predictions: ImagePredictions, truth: Annotation, options: DetectOptions, min_iou: float = MATCH_IOU
) -> Outcome:
    """Apply threshold, NMS and limit to raw predictions as `predict.postprocess` does, and match the detections.

    Args:
        predictions: raw predictions for the image.
        truth: the objects in the image; their class ids are those of the predictions.
        options: thresholds and NMS, in which `suppression` and `class_agnostic` are not None.
        min_iou: IoU from which a detection finds an object of its class, above 0.
    """
    candidates = select_candidates(predictions.boxes, predictions.scores, predictions.letterbox, options)
    # Every NMS variant keeps the same boxes in the same order with a limit, and stops there.
    kept = suppress_candidates(candidates, replace(options, max_detections=max(1, len(candidates.scores))))
    count = options.max_detections
    boxes, scores, class_ids = kept.boxes[:count], kept.scores[:count], candidates.class_ids[kept.indices[:count]]
    return Outcome(candidates, kept, boxes, scores, class_ids, match_image(boxes, class_ids, truth, min_iou))


def match_image(boxes: Floats, class_ids: Ints, truth: Annotation, min_iou: float = MATCH_IOU) -> ImageMatches:
    """Match the detections of one image with the objects, as COCO's evaluation does at one IoU threshold.

    Each detection, best first, finds the object of its class that it overlaps most among those not found yet, if their
    IoU is at least `min_iou`. A detection that finds no object may lie in a crowd region of its class: then the part of
    its area inside the region is at least `min_iou`.

    Args:
        boxes: [D, 4] boxes in pixels of the image, best first.
        class_ids: [D] class of each box.
        truth: the objects in the image.
        min_iou: smallest IoU, above 0.
    """
    overlaps = overlaps_with(boxes, truth)
    overlaps[class_ids[:, None] != truth.class_ids] = 0
    objects, ignored = np.full(len(boxes), -1), np.zeros(len(boxes), dtype=np.bool_)
    found = np.zeros(len(truth.boxes), dtype=np.bool_)
    for index in np.flatnonzero((overlaps >= min_iou).any(axis=1)):
        own = np.where(found | truth.is_crowd, 0, overlaps[index])
        # Of equal overlaps, COCO's evaluation takes the last.
        best = len(own) - 1 - int(own[::-1].argmax())
        if own[best] >= min_iou:
            objects[index], found[best] = best, True
        else:
            ignored[index] = bool((overlaps[index, truth.is_crowd] >= min_iou).any())
    if truth.labeled_classes is not None:
        ignored |= (objects < 0) & ~truth.labeled_classes[class_ids]
    return ImageMatches(objects, ignored, found)


def overlaps_with(boxes: Floats, truth: Annotation) -> Doubles:
    """Return the IoU [D, N] of boxes [D, 4] with objects; for crowd regions the fraction of the box inside the region.

    Computed in float64, as in COCO's evaluation.
    """
    a, b = boxes.astype(np.float64)[:, None], truth.boxes.astype(np.float64)
    intersection = (np.minimum(a[..., 2:], b[:, 2:]) - np.maximum(a[..., :2], b[:, :2])).clip(0).prod(axis=2)
    own, others = (np.prod(c[..., 2:] - c[..., :2], axis=-1) for c in (a, b))
    union = own + np.where(truth.is_crowd, 0, others - intersection)
    overlaps: Doubles = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlaps
