"""Postprocessing of predictions: score threshold, mapping of boxes to the image, NMS. The same for every runtime."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detector.arrays import Floats
from detector.boxes import area
from detector.detections import Detections
from detector.graph.metadata import warn_fixed_nms
from detector.letterbox import Letterbox
from detector.ops.suppression import suppress
from detector.options import DetectOptions
from detector.runtime.base import PointPredictions


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
    thresholds = np.broadcast_to(np.asarray(options.score_threshold, np.float32), len(class_names))
    for scores, boxes, letterbox in zip(predictions.scores, predictions.boxes, letterboxes, strict=True):
        if options.multi_label:
            point, class_ids = np.nonzero(scores > thresholds)
        else:
            point = np.flatnonzero(scores.max(axis=1) > thresholds.min())
            class_ids = scores[point].argmax(axis=1)
            above = scores[point, class_ids] > thresholds[class_ids]
            point, class_ids = point[above], class_ids[above]
        if options.classes is not None:
            selected = np.isin(class_ids, np.asarray(options.classes))
            point, class_ids = point[selected], class_ids[selected]
        candidates, candidate_scores = letterbox.to_image(boxes[point]), scores[point, class_ids]
        # A box that is completely in the padding has no area after it is clipped to the image.
        inside = area(candidates) > 0
        candidates, candidate_scores, class_ids = candidates[inside], candidate_scores[inside], class_ids[inside]
        own = options if isinstance(options.score_threshold, float) else _for_each_box(options, thresholds[class_ids])
        kept = suppress(candidates, candidate_scores, None if options.class_agnostic else class_ids, own)
        found.append(Detections(kept.boxes, kept.scores, class_ids[kept.indices], class_names))
    return found


def _for_each_box(options: DetectOptions, thresholds: Floats) -> DetectOptions:
    """Return options for `suppress` with the score thresholds [N] of N boxes; only the variant `soft` uses them."""
    if options.suppression != "soft" or not len(thresholds):
        return options
    return replace(options, score_threshold=tuple(thresholds.tolist()))
