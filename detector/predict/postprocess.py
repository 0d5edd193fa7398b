"""Postprocessing of predictions: score threshold, mapping of boxes to the image, NMS. The same for every runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.arrays import Floats, Ints
from detector.boxes import area
from detector.detections import Detections
from detector.graph.metadata import warn_fixed_nms
from detector.letterbox import Letterbox
from detector.ops.suppression import Kept, suppress
from detector.options import DetectOptions
from detector.runtime.base import PointPredictions


@dataclass(frozen=True, eq=False)
class Candidates:
    """The K predictions of one image to which NMS is applied.

    Attributes:
        points: [K] index of the grid point of each candidate.
        class_ids: [K] class of each candidate.
        boxes: [K, 4] (x1, y1, x2, y2) in pixels of the image, clipped to the image.
        scores: [K] score of this class at this point.
    """

    points: Ints
    class_ids: Ints
    boxes: Floats
    scores: Floats


def postprocess(
    predictions: PointPredictions,
    letterboxes: Sequence[Letterbox],
    class_names: tuple[str, ...],
    options: DetectOptions,
) -> list[Detections]:
    """Convert the predictions for B images to detections, and return the `Detections` of each image.

    Args:
        predictions: raw predictions for B images.
        letterboxes: the letterbox of each image.
        class_names: C names.
        options: thresholds and NMS. `suppression` and `class_agnostic` must be resolved before: None is not allowed
            (`Detector` replaces None by the setting of the weights). `classes` must be ids, and `score_threshold` one
            number, or one for each class. Tiling, TTA, batch size and `calibrated` are ignored.

    The threshold of a class is applied before NMS, so a box that is not good enough to be detected suppresses no other.
    """
    if predictions.nms is not None:
        warn_fixed_nms(predictions.nms, options)
    found = []
    for scores, boxes, letterbox in zip(predictions.scores, predictions.boxes, letterboxes, strict=True):
        candidates = select_candidates(boxes, scores, letterbox, options)
        kept = suppress_candidates(candidates, options)
        found.append(Detections(kept.boxes, kept.scores, candidates.class_ids[kept.indices], class_names))
    return found


def select_candidates(boxes: Floats, scores: Floats, letterbox: Letterbox, options: DetectOptions) -> Candidates:
    """Return the predictions of one image that NMS gets: score, class and place are as required.

    Args:
        boxes: [P, 4] predicted boxes in input pixels.
        scores: [P, C] class scores.
        letterbox: the letterbox of the image.
        options: score threshold, one number or one for each class; `classes` (ids or None) and `multi_label`.
    """
    thresholds = np.broadcast_to(np.asarray(options.score_threshold, np.float32), scores.shape[1])
    if options.multi_label:
        points, class_ids = np.nonzero(scores > thresholds)
    else:
        points = np.flatnonzero(scores.max(axis=1) > thresholds.min())
        class_ids = scores[points].argmax(axis=1)
        above = scores[points, class_ids] > thresholds[class_ids]
        points, class_ids = points[above], class_ids[above]
    if options.classes is not None:
        selected = np.isin(class_ids, np.asarray(options.classes))
        points, class_ids = points[selected], class_ids[selected]
    in_image = letterbox.to_image(boxes[points])
    # A box that is completely in the padding has no area after it is clipped to the image.
    inside = area(in_image) > 0
    points, class_ids = points[inside], class_ids[inside]
    return Candidates(points, class_ids, in_image[inside], scores[points, class_ids])


def suppress_candidates(candidates: Candidates, options: DetectOptions) -> Kept:
    """Apply NMS to the candidates of one image, and return the kept boxes, best first.

    Args:
        candidates: the candidates.
        options: NMS variant, which must not be None, its thresholds, and the largest number of kept boxes.
    """
    class_ids = None if options.class_agnostic else candidates.class_ids
    if isinstance(options.score_threshold, tuple) and len(candidates.scores):
        of_boxes = np.asarray(options.score_threshold, np.float32)[candidates.class_ids]
        options = replace(options, score_threshold=tuple(of_boxes.tolist()))
    return suppress(candidates.boxes, candidates.scores, class_ids, options)
