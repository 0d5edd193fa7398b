"""Weighted boxes fusion (WBF): one box for each object, from the boxes that several detectors give.

In contrast to NMS, no box is thrown away: the coordinates of overlapping boxes are averaged, and the score of a box
that few of the detectors give becomes lower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.arrays import Doubles, Floats, Ints

FUSION_IOU = 0.55
"""Default IoU above which boxes of several detectors are the same object, as in the paper."""


@dataclass(frozen=True, eq=False)
class FusedBoxes:
    """The K boxes that result from weighted boxes fusion, best first.

    Attributes:
        boxes: [K, 4] float32 (x1, y1, x2, y2).
        scores: [K] float32.
        class_ids: [K] int64.
    """

    boxes: Floats
    scores: Floats
    class_ids: Ints


def fuse_boxes(
    boxes: Floats, scores: Floats, class_ids: Ints, sources: Ints, known: Sequence[int], iou_threshold: float
) -> FusedBoxes:
    """Fuse the boxes of several detectors in one image.

    From the highest score to the lowest, each box joins the cluster of its class whose fused box has the highest IoU
    with it, if that IoU is above the threshold; else it starts a new cluster. The fused box of a cluster is the mean of
    its boxes, weighted by their scores. Its score is the mean of their scores, times T / N if the number T of boxes is
    smaller than the number N of detectors that know the class.

    One change of the published method: a box does not join a cluster that has a box of the same detector. The NMS of
    this detector has kept both as different objects, and a second box with a low score would lower the mean.

    Args:
        boxes: [M, 4] (x1, y1, x2, y2), the boxes of all detectors.
        scores: [M], above 0.
        class_ids: [M].
        sources: [M] index of the detector that gives the box.
        known: number of detectors that know each class, in the order of class ids.
        iou_threshold: 0..1.

    Source: Solovyev, Wang and Gabruseva, Weighted boxes fusion, 2021, section 3.
    """
    order = np.argsort(-scores, kind="stable")
    fused: list[tuple[Floats, float, int]] = []
    for class_id in np.unique(class_ids):
        own = order[class_ids[order] == class_id]
        corners, weights = boxes[own].astype(np.float64), scores[own].astype(np.float64)
        means = np.zeros((len(own), 4))  # the fused box of each cluster
        sums, totals, counts = np.zeros((len(own), 4)), np.zeros(len(own)), np.zeros(len(own), np.int64)
        taken = np.zeros((len(own), int(sources.max()) + 1), np.bool_)  # clusters that have a box of a detector
        clusters = 0
        for box, weight, source in zip(corners, weights, sources[own], strict=True):
            cluster = clusters
            if clusters:
                iou = np.where(taken[:clusters, source], -1, _iou(box, means[:clusters]))
                if iou[best := int(iou.argmax())] > iou_threshold:
                    cluster = best
            clusters = max(clusters, cluster + 1)
            sums[cluster] += weight * box
            totals[cluster] += weight
            counts[cluster] += 1
            taken[cluster, source] = True
            # A single box stays exactly as it is.
            means[cluster] = sums[cluster] / totals[cluster] if counts[cluster] > 1 else box
        # The mean of T scores, times T / N: a cluster has at most one box of each detector.
        final = totals[:clusters] / known[int(class_id)]
        fused += zip(means[:clusters].astype(np.float32), final.tolist(), [int(class_id)] * clusters, strict=True)
    fused.sort(key=lambda own: -own[1])
    return FusedBoxes(
        np.array([box for box, _, _ in fused], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in fused], np.float32),
        np.array([class_id for _, _, class_id in fused], np.int64),
    )


def _iou(box: Doubles, others: Doubles) -> Doubles:
    """Return the IoU [K] of a box [4] with other boxes [K, 4]; the IoU of two boxes without area is 0."""
    wh = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0)
    intersection = wh[:, 0] * wh[:, 1]
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - intersection
    iou: Doubles = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
