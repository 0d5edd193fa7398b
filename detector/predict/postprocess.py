"""From point predictions to detections: threshold, suppression, back to the image. NumPy, whatever the runtime."""

from collections.abc import Sequence

import numpy as np

from detector.boxes import area
from detector.detections import Detections
from detector.errors import InputError
from detector.graph.metadata import say_what_is_fixed
from detector.letterbox import Letterbox
from detector.ops.suppression import METHODS, suppress
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD
from detector.runtime.base import PointPredictions


def postprocess(
    predictions: PointPredictions,
    letterboxes: Sequence[Letterbox],
    class_names: tuple[str, ...],
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    class_agnostic: bool = False,
    every_class: bool = False,
    suppression: str = "classic",
    classes: Sequence[int] | None = None,
) -> list[Detections]:
    """Turn the predictions for B images into one `Detections` per image.

    Args:
        predictions: of B images.
        letterboxes: how each of them came onto the canvas.
        class_names: C names.
        score_threshold: lowest score that counts, 0..1.
        iou_threshold: overlap above which the lower of two boxes goes, 0..1.
        max_detections: most detections per image.
        class_agnostic: let boxes suppress each other whatever their class.
        every_class: let a point answer with every class above the threshold, which the ranking of an evaluation
            gains from, and not with its best alone, which is what one wants to see.
        suppression: "classic", "soft", "diou" or "weighted"; see `ops.suppression`.
        classes: ids of those to find; None: all. Boxes of others suppress nothing, and do not count.

    Raises:
        InputError: no such suppression.
    """
    if suppression not in METHODS:
        raise InputError(f"suppression: expected {' or '.join(METHODS)}, got {suppression!r}")
    if predictions.nms is not None:
        asked = (score_threshold, iou_threshold, max_detections, class_agnostic, every_class, suppression)
        say_what_is_fixed(predictions.nms, *asked)
    found = []
    for scores, boxes, letterbox in zip(predictions.scores, predictions.boxes, letterboxes, strict=True):
        if every_class:
            point, class_ids = np.nonzero(scores > score_threshold)
        else:
            point = np.flatnonzero(scores.max(axis=1) > score_threshold)
            class_ids = scores[point].argmax(axis=1)
        if classes is not None:
            wanted = np.isin(class_ids, classes)
            point, class_ids = point[wanted], class_ids[wanted]
        candidates, candidate_scores = letterbox.to_image(boxes[point]), scores[point, class_ids]
        # Answers in the gray beside the image are cut down to nothing.
        shown = area(candidates) > 0
        candidates, candidate_scores, class_ids = candidates[shown], candidate_scores[shown], class_ids[shown]
        kept = suppress(
            candidates,
            candidate_scores,
            None if class_agnostic else class_ids,
            suppression,
            iou_threshold,
            max_detections,
            score_threshold,
        )
        found.append(Detections(kept.boxes, kept.scores, class_ids[kept.indices], class_names))
    return found
