"""Non-maximum suppression: of boxes that overlap, the best stays.

NumPy, since a few hundred small boxes cost less there than on any device, and a runtime without torch needs it too.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 256


def nms(boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int | None = None) -> Ints:
    """Return the indices of the boxes that stay, best first.

    The four steps: sort by score; take the best box; drop every remaining box of its class that overlaps it by
    more than the threshold; repeat. Equal scores keep their order. Boxes are worked off in blocks, so that the loop
    in Python is over blocks and the rest is array arithmetic; the result is that of the plain loop.

    Args:
        boxes: [N, 4] corners.
        scores: [N].
        class_ids: [N]; boxes of different classes do not suppress each other. None: all count as one class.
        iou_threshold: overlap above which the lower score goes, 0..1.
        limit: stop after this many boxes.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    classes = np.zeros(len(order), dtype=np.int64) if class_ids is None else class_ids[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        if len(kept):
            block = block[~_overlaps(boxes, areas, classes, block, kept, iou_threshold).any(axis=1)]
        # Inside the block a box stays unless a better one that stays overlaps it: iterate until nothing changes.
        # Row i depends on rows < i only, so after k rounds the first k rows are final.
        better = np.tril(_overlaps(boxes, areas, classes, block, block, iou_threshold), -1)
        stays, before = ~better.any(axis=1), None
        while before is None or not np.array_equal(stays, before):
            stays, before = ~(better & stays).any(axis=1), stays
        kept = np.concatenate([kept, block[stays]])
        if limit is not None and len(kept) >= limit:
            kept = kept[:limit]
            break
    return order[kept]


def _overlaps(
    boxes: Floats, areas: Floats, classes: Ints, rows: Ints, columns: Ints, iou_threshold: float
) -> npt.NDArray[np.bool_]:
    """Return [rows, columns]: whether two boxes are of one class and their IoU is above the threshold."""
    a, b = boxes[rows], boxes[columns]
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = areas[rows][:, None] + areas[columns][None, :] - intersection
    above: npt.NDArray[np.bool_] = (intersection > iou_threshold * union) & (
        classes[rows][:, None] == classes[columns][None, :]
    )
    return above
