"""Non-maximum suppression (NMS): of overlapping boxes, only the box with the highest score is kept.

NMS uses NumPy instead of torch: for a few hundred boxes, NumPy takes less time than torch on any device, and runtimes
without torch need NMS too.

Boxes are sorted by score once. The rank of a box is its index in this order, so a smaller rank means a better box. The
coordinates are stored as `BoxColumns`, because NumPy is fastest on contiguous memory.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from detector.arrays import Bools, Floats, Ints

BoxColumns = Floats
"""[5, ...]: x1, y1, x2, y2 and area of boxes. Each of the five arrays is contiguous in memory."""

OverlapTest = Callable[[BoxColumns, BoxColumns, float], Bools]
"""`test(a, b, threshold)` returns a mask [...]: True where box `a` and box `b` overlap by more than the threshold.

The result must be the same if `a` and `b` are exchanged.
"""

_Int64OrUint16 = npt.NDArray[np.int64 | np.uint16]

_BLOCK = 160
"""Number of boxes in a block; all pairs of two blocks are compared at once. Measured: arrays of 160 x 160 pairs fit
into the CPU cache, and are so large that the overhead of calling NumPy does not matter."""

_FEW_CLASSES = 3
"""Up to this number of classes, comparing blocks of boxes is faster than rounds over the best box of each class."""

_BETTER_BY_WORSE = np.triu(np.ones((_BLOCK, _BLOCK), dtype=np.bool_), k=1)
"""Mask [_BLOCK, _BLOCK]: True at (i, j) if box i of a block is better than box j, that is, if i < j."""


def box_columns(boxes: Floats) -> BoxColumns:
    """Return boxes [N, 4] as `BoxColumns` [5, N]."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])


def intersection_and_union(a: BoxColumns, b: BoxColumns) -> tuple[Floats, Floats]:
    """Return the areas [...] of the intersection and of the union of boxes `a` [5, ...] and `b` [5, ...], broadcast."""
    intersection, height = np.minimum(a[2], b[2]), np.minimum(a[3], b[3])
    intersection -= np.maximum(a[0], b[0])
    height -= np.maximum(a[1], b[1])
    np.clip(intersection, 0, np.inf, out=intersection)  # twice as fast as np.maximum
    np.clip(height, 0, np.inf, out=height)
    intersection *= height
    union = a[4] + b[4]
    union -= intersection
    return intersection, union


def iou_above(a: BoxColumns, b: BoxColumns, threshold: float) -> Bools:
    """Return a mask [...]: True where the IoU of boxes `a` [5, ...] and `b` [5, ...] is above the threshold."""
    intersection, union = intersection_and_union(a, b)
    above: Bools = intersection > threshold * union
    return above


def nms(
    boxes: Floats,
    scores: Floats,
    class_ids: Ints | None,
    iou_threshold: float,
    limit: int | None = None,
    overlaps: OverlapTest = iou_above,
) -> Ints:
    """Return the indices [K] of the boxes that are kept, best first.

    The result is the same as that of this loop: sort the boxes by score; keep the best box; remove each remaining box
    of the same class that overlaps the best box by more than the threshold; repeat. Boxes of equal score stay in their
    order.

    The implementation uses array arithmetic and decides many boxes at the same time: `_in_rounds` if there are many
    classes, else `_in_blocks`. Memory grows with N. Time grows at most with N times K.

    Args:
        boxes: [N, 4] (x1, y1, x2, y2).
        scores: [N].
        class_ids: [N]; boxes of different classes do not suppress each other. None: all boxes have the same class.
        iou_threshold: if two boxes overlap by more than this, the box with the lower score is removed, 0..1.
        limit: largest number of boxes that are kept; None: no limit.
        overlaps: function that tests whether two boxes overlap by more than the threshold.
    """
    order = np.argsort(-scores, kind="stable")
    n = len(order)
    columns = box_columns(boxes.take(order, axis=0))
    classes: _Int64OrUint16 = np.zeros(n, dtype=np.int64) if class_ids is None else class_ids[order]
    kept, undecided = np.zeros(0, dtype=np.int64), np.arange(n)
    if n > _BLOCK:
        if classes.min() >= 0 and classes.max() < 2**16:
            classes = classes.astype(np.uint16)  # NumPy sorts (radix sort) and compares 16-bit integers faster.
        # A round processes all boxes. Blocks stop at the limit, so blocks are faster if the limit is low.
        if limit is None or n <= 8 * limit:
            kept, undecided = _in_rounds(columns, classes, iou_threshold, limit, overlaps)
    kept = np.concatenate([kept, _in_blocks(columns, classes, undecided, iou_threshold, limit, overlaps)])
    return order[np.sort(kept)[:limit]]


def _in_rounds(
    columns: BoxColumns, classes: _Int64OrUint16, iou_threshold: float, limit: int | None, overlaps: OverlapTest
) -> tuple[Ints, Ints]:
    """Keep the best box of each class in each round, until few boxes or few classes are undecided; return ranks.

    Args:
        columns: [5, N] sorted by score.
        classes: [N] sorted by score.
        iou_threshold: as in `nms`.
        limit: as in `nms`.
        overlaps: as in `nms`.

    Returns:
        The ranks of the boxes that are kept, in any order; and the ranks of the boxes that are still undecided,
        ascending.
    """
    # Sorted by class, then by rank: the first box of each class is the best box of the class.
    ranks = np.argsort(classes, kind="stable")
    columns, classes = columns.take(ranks, axis=1), classes[ranks]
    kept = np.zeros(0, dtype=np.int64)
    while len(ranks) > _BLOCK:
        best = np.flatnonzero(np.append(True, classes[1:] != classes[:-1]))
        if len(best) <= _FEW_CLASSES:
            break
        kept = np.concatenate([kept, ranks[best]])
        best_of_class = columns.take(best, axis=1).repeat(np.diff(best, append=len(ranks)), axis=1)
        undecided = ~overlaps(best_of_class, columns, iou_threshold)
        undecided[best] = False
        if limit is not None and len(kept) >= limit:
            # At least `limit` kept boxes are better than the boxes removed here, so these cannot be in the result.
            undecided &= ranks < np.partition(kept, limit - 1)[limit - 1]
        remaining = np.flatnonzero(undecided)
        ranks, columns, classes = ranks[remaining], columns.take(remaining, axis=1), classes[remaining]
    return kept, np.sort(ranks)


def _in_blocks(
    columns: BoxColumns,
    classes: _Int64OrUint16,
    ranks: Ints,
    iou_threshold: float,
    limit: int | None,
    overlaps: OverlapTest,
) -> Ints:
    """Decide undecided boxes block by block, best first, and return the ranks of the boxes that are kept.

    Args:
        columns: [5, N] sorted by score.
        classes: [N] sorted by score.
        ranks: [U] ranks of the undecided boxes, ascending.
        iou_threshold: as in `nms`.
        limit: as in `nms`.
        overlaps: as in `nms`.

    Returns:
        The ranks of the boxes that are kept, ascending.
    """

    def suppression_matrix(better: Ints, worse: Ints) -> Bools:
        """Return a mask [len(better), len(worse)]: True where box i of `better`, if kept, removes box j of `worse`."""
        rows, across = columns.take(better, axis=1)[:, :, None], columns.take(worse, axis=1)[:, None, :]
        suppresses = overlaps(rows, across, iou_threshold)
        suppresses &= classes[better][:, None] == classes[worse]
        return suppresses

    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(ranks), _BLOCK):
        block = ranks[start : start + _BLOCK]
        # Remove boxes that overlap a kept box of an earlier block.
        for chunk in range(0, len(kept), _BLOCK):
            block = block[~suppression_matrix(kept[chunk : chunk + _BLOCK], block).any(axis=0)]
        # Inside the block, a box is removed if it overlaps a better box that is kept: iterate until nothing changes.
        # A box depends only on better boxes, so the first k boxes are final after k iterations.
        matrix = suppression_matrix(block, block) & _BETTER_BY_WORSE[: len(block), : len(block)]
        keep, previous = ~matrix.any(axis=0), None
        while previous is None or not np.array_equal(keep, previous):
            keep, previous = ~matrix[keep].any(axis=0), keep
        kept = np.concatenate([kept, block[keep]])
        if limit is not None and len(kept) >= limit:
            break
    return kept
