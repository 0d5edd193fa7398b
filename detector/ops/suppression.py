"""The four NMS variants, which differ in what happens to a box that overlaps a better box of the same class.

All variants use NumPy, as `nms` does. Boxes of equal score stay in their order. No variant changes its arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detector.arrays import Bools, Floats, Ints
from detector.ops.nms import BoxColumns, box_columns, intersection_and_union, iou_above, nms
from detector.options import DetectOptions, SuppressionName

_SIGMA = 0.5
"""Width of the score penalty of Soft-NMS, as in the paper: the score of an identical box is multiplied by
exp(-2) = 0.14, the score of a box with an IoU of 0.5 by 0.6."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The K boxes that an NMS variant keeps, best first.

    Attributes:
        boxes: [K, 4] (x1, y1, x2, y2).
        scores: [K].
        indices: [K] index of each kept box in the N boxes that were passed to the NMS variant.
    """

    boxes: Floats
    scores: Floats
    indices: Ints


def suppress(boxes: Floats, scores: Floats, class_ids: Ints | None, options: DetectOptions) -> Kept:
    """Apply the NMS variant `options.suppression` to N boxes, and return the kept boxes, best first.

    Time grows with N times the number of kept boxes, so at most with N times `max_detections`.

    Args:
        boxes: [N, 4] (x1, y1, x2, y2).
        scores: [N], above 0.
        class_ids: [N]; boxes of different classes do not suppress each other. None: class-agnostic NMS, as if all
            boxes had the same class.
        options: `suppression`, the variant, must not be None; `iou_threshold` is used by all variants except `soft`;
            `max_detections` is the largest number of boxes that are kept; `score_threshold` is used only by `soft`,
            which removes a box if its lowered score is not above the threshold; a tuple has a threshold for each box.
    """
    assert options.suppression is not None, "suppression: the caller must replace None by a variant"
    return METHODS[options.suppression](boxes, scores, class_ids, options)


def classic(boxes: Floats, scores: Floats, class_ids: Ints | None, options: DetectOptions) -> Kept:
    """Remove each box whose IoU with a better kept box is above the threshold, and return the kept boxes.

    The arguments are those of `suppress`.
    """
    indices = nms(boxes, scores, class_ids, options.iou_threshold, options.max_detections)
    return Kept(boxes[indices], scores[indices], indices)


def soft(boxes: Floats, scores: Floats, class_ids: Ints | None, options: DetectOptions) -> Kept:
    """Multiply the score of each box by exp(-IoU² / sigma) for each better kept box, and return the kept boxes.

    The more a box overlaps a better box, the lower its score becomes. So an object that overlaps a better object may be
    kept. The arguments are those of `suppress`.

    Source: Bodla et al., Soft-NMS: Improving Object Detection With One Line of Code, 2017, equation 3.
    """
    columns, scores = box_columns(boxes), scores.copy()
    thresholds = np.asarray(options.score_threshold, dtype=scores.dtype)
    indices, final_scores = [], []
    # Scores only decrease, so the best remaining box is final. After `max_detections` boxes, the others are not needed.
    for _ in range(min(options.max_detections, len(scores))):
        scores[scores <= thresholds] = -np.inf
        best = int(scores.argmax())
        if scores[best] == -np.inf:
            break
        indices.append(best)
        final_scores.append(scores[best])
        intersection, union = intersection_and_union(columns[:, best, None], columns)
        iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
        if class_ids is not None:
            iou *= class_ids == class_ids[best]
        scores *= np.exp(iou * iou / -_SIGMA)
        scores[best] = -np.inf
    kept = np.array(indices, dtype=np.int64)
    return Kept(boxes[kept], np.array(final_scores, dtype=scores.dtype), kept)


def diou(boxes: Floats, scores: Floats, class_ids: Ints | None, options: DetectOptions) -> Kept:
    """Remove each box whose DIoU with a better kept box is above the threshold, and return the kept boxes.

    The DIoU is the IoU minus a penalty for the distance of the centers. So an object that overlaps a better object may
    be kept. The arguments are those of `suppress`.

    Source: Zheng et al., Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression, 2020 (DIoU-NMS).
    """
    indices = nms(boxes, scores, class_ids, options.iou_threshold, options.max_detections, _diou_above)
    return Kept(boxes[indices], scores[indices], indices)


def weighted(boxes: Floats, scores: Floats, class_ids: Ints | None, options: DetectOptions) -> Kept:
    """Average each box that `classic` keeps with the boxes that it removes, and return the averaged boxes.

    The coordinates of a kept box become the mean of the kept box and the boxes that it removes, weighted by their
    scores. The scores of kept boxes do not change. The arguments are those of `suppress`.

    Source: Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019 (the blending).
    """
    indices = nms(boxes, scores, class_ids, options.iou_threshold, options.max_detections)
    columns, means = box_columns(boxes), boxes[indices]
    weights, unassigned = scores.astype(np.float64), np.ones(len(scores), dtype=np.bool_)
    for position, best in enumerate(indices):
        in_cluster = iou_above(columns[:, best, None], columns, options.iou_threshold)
        in_cluster &= unassigned
        if class_ids is not None:
            in_cluster &= class_ids == class_ids[best]
        in_cluster[best] = True  # the IoU of a box without area with itself is 0
        unassigned[in_cluster] = False
        cluster = np.flatnonzero(in_cluster)
        # In float64, the mean of a single box is exactly this box, and a mean of boxes inside the image is inside it.
        means[position] = weights[cluster] @ boxes[cluster] / weights[cluster].sum()
    return Kept(means, scores[indices], indices)


SuppressionMethod = Callable[[Floats, Floats, Ints | None, DetectOptions], Kept]

METHODS: dict[SuppressionName, SuppressionMethod] = {
    "classic": classic,
    "soft": soft,
    "diou": diou,
    "weighted": weighted,
}
"""Value of the option `suppression` → function of the NMS variant."""


def _diou_above(a: BoxColumns, b: BoxColumns, threshold: float) -> Bools:
    """Return a mask [...]: True where the DIoU of boxes `a` [5, ...] and `b` [5, ...] is above the threshold.

    DIoU = IoU - (distance of the centers)² / (diagonal of the smallest box that encloses both)².
    """
    intersection, union = intersection_and_union(a, b)
    # x1 + x2 is twice the x of the center, so `distance` is four times the squared distance of the centers.
    distance = (a[0] + a[2] - (b[0] + b[2])) ** 2 + (a[1] + a[3] - (b[1] + b[3])) ** 2
    diagonal = (np.maximum(a[2], b[2]) - np.minimum(a[0], b[0])) ** 2
    diagonal += (np.maximum(a[3], b[3]) - np.minimum(a[1], b[1])) ** 2
    # For two boxes that are the same point, the diagonal and the distance are 0.
    penalty = distance / np.maximum(4 * diagonal, np.finfo(np.float32).tiny)
    above: Bools = intersection > (threshold + penalty) * union
    return above
