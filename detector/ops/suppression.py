"""What becomes of boxes that overlap a better one of their class: four answers behind one function.

NumPy, as `nms`, and its columns. Equal scores keep their order. None of the four writes into its arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detector.arrays import Bools, Floats, Ints
from detector.ops.nms import as_columns, iou_above, nms, overlap

_SIGMA = 0.5
"""Width of soft's penalty, as in the paper: equal boxes keep exp(-2) of the score, those of IoU 0.5 keep 0.6."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The boxes that stay, best first.

    Attributes:
        boxes: [K, 4] corners.
        scores: [K].
        indices: [K], which of the N boxes that came they are, or were made from.
    """

    boxes: Floats
    scores: Floats
    indices: Ints


def suppress(
    boxes: Floats,
    scores: Floats,
    class_ids: Ints | None,
    method: str,
    iou_threshold: float,
    limit: int,
    score_threshold: float,
) -> Kept:
    """Return the boxes that stay, best first.

    Time grows with N times the number of boxes that stay, hence at most with N times `limit`.

    Args:
        boxes: [N, 4] corners.
        scores: [N], above 0.
        class_ids: [N]; boxes of different classes leave each other alone. None: all count as one class.
        method: a key of `METHODS`.
        iou_threshold: overlap above which the lower score goes, 0..1; `soft` has no such bound.
        limit: most boxes that stay.
        score_threshold: scores that `soft` lowers to this or below it go; the others lower none.
    """
    return METHODS[method](boxes, scores, class_ids, iou_threshold, limit, score_threshold)


def classic(
    boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int, score_threshold: float
) -> Kept:
    """Drop what overlaps a better box: `nms`."""
    indices = nms(boxes, scores, class_ids, iou_threshold, limit)
    return Kept(boxes[indices], scores[indices], indices)


def soft(
    boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int, score_threshold: float
) -> Kept:
    """Lower the score of what overlaps a better box, the more the more it overlaps: a neighbor may survive.

    Source: Bodla et al., Soft-NMS: Improving Object Detection With One Line of Code, 2017, equation 3.
    """
    columns, scores = as_columns(boxes), scores.copy()
    indices, final_scores = [], []
    # Scores only fall, so the boxes come best first, and after `limit` of them the rest need no final score.
    for _ in range(min(limit, len(scores))):
        best = int(scores.argmax())
        if not scores[best] > score_threshold:
            break
        indices.append(best)
        final_scores.append(scores[best])
        intersection, union = overlap(columns[:, best, None], columns)
        iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
        if class_ids is not None:
            iou *= class_ids == class_ids[best]
        scores *= np.exp(iou * iou / -_SIGMA)
        scores[best] = -np.inf
    taken = np.array(indices, dtype=np.int64)
    return Kept(boxes[taken], np.array(final_scores, dtype=scores.dtype), taken)


def diou(
    boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int, score_threshold: float
) -> Kept:
    """Drop what overlaps a better box, where centers apart count against the overlap: a neighbor may survive.

    Source: Zheng et al., Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression, 2020 (DIoU-NMS).
    """
    indices = nms(boxes, scores, class_ids, iou_threshold, limit, _diou_above)
    return Kept(boxes[indices], scores[indices], indices)


def weighted(
    boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int, score_threshold: float
) -> Kept:
    """Take the boxes and scores of `classic`, and move each box to the mean, by score, of itself and those it drops.

    Source: Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019 (the blending).
    """
    indices = nms(boxes, scores, class_ids, iou_threshold, limit)
    columns, means = as_columns(boxes), boxes[indices]
    weights, free = scores.astype(np.float64), np.ones(len(scores), dtype=np.bool_)
    for position, best in enumerate(indices):
        joins = iou_above(columns[:, best, None], columns, iou_threshold)
        joins &= free
        if class_ids is not None:
            joins &= class_ids == class_ids[best]
        joins[best] = True  # A box without area does not overlap itself.
        free[joins] = False
        members = np.flatnonzero(joins)
        # In float64 the mean of one box is that box, and a mean of boxes inside the image lies inside it.
        means[position] = weights[members] @ boxes[members] / weights[members].sum()
    return Kept(means, scores[indices], indices)


Method = Callable[[Floats, Floats, Ints | None, float, int, float], Kept]

METHODS: dict[str, Method] = {"classic": classic, "soft": soft, "diou": diou, "weighted": weighted}
"""The setting `suppression` and what it means."""


def _diou_above(a: Floats, b: Floats, threshold: float) -> Bools:
    """Return whether IoU minus squared distance of centers over squared diagonal of both is above the threshold."""
    intersection, union = overlap(a, b)
    # The sum of a box's sides is twice its center.
    distance = (a[0] + a[2] - (b[0] + b[2])) ** 2 + (a[1] + a[3] - (b[1] + b[3])) ** 2
    diagonal = (np.maximum(a[2], b[2]) - np.minimum(a[0], b[0])) ** 2
    diagonal += (np.maximum(a[3], b[3]) - np.minimum(a[1], b[1])) ** 2
    # Two points in one place have no diagonal, and no distance either.
    penalty = distance / np.maximum(4 * diagonal, np.finfo(np.float32).tiny)
    above: Bools = intersection > (threshold + penalty) * union
    return above
