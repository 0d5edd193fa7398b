"""Non-maximum suppression (NMS): of boxes that overlap, only the one with the highest score is kept.

NumPy instead of torch: a few hundred small boxes take less time there than on any device, and runtimes without torch
need NMS too.

Layout: boxes are sorted by score once, so a smaller index (the rank) means a better box. Their coordinates are stored
as `BoxColumns`, because NumPy is fastest on contiguous memory.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from detector.arrays import Bools, Floats, Ints

BoxColumns = Floats
"""[5, ...]: x1, y1, x2, y2 and area of boxes, each of the five contiguous in memory."""

OverlapTest = Callable[[BoxColumns, BoxColumns, float], Bools]
"""`test(a, b, threshold)` returns a mask [...]: True where box `a` and box `b` overlap by more than the threshold.

Must be symmetric in `a` and `b`.
"""

_Int64OrUint16 = npt.NDArray[np.int64 | np.uint16]

_BLOCK = 160
"""Number of boxes compared at once with as many others. Measured: the arrays of 160 x 160 pairs fit into the CPU cache,
and are large enough that the overhead of calling NumPy does not matter."""

_FEW_CLASSES = 3
"""Up to this number of classes, comparing blocks of boxes is faster than one round per best box of each class."""

_BETTER_BY_WORSE = np.triu(np.ones((_BLOCK, _BLOCK), dtype=np.bool_), k=1)
"""Mask of the pairs (i, j) of a block in which box i is better than box j."""


def box_columns(boxes: Floats) -> BoxColumns:
    """Convert boxes [N, 4] to `BoxColumns` [5, N]."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])


def intersection_and_union(a: BoxColumns, b: BoxColumns) -> tuple[Floats, Floats]:
    """Return the areas [...] of intersection and union of boxes `a` [5, ...] and `b` [5, ...], which broadcast."""
    intersection, height = np.minimum(a[2], b[2]), np.minimum(a[3], b[3])
    intersection -= np.maximum(a[0], b[0])
    height -= np.maximum(a[1], b[1])
    np.clip(intersection, 0, np.inf, out=intersection)  # Twice as fast as np.maximum with a number.
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

    The result is that of the plain loop: sort by score; keep the best box; remove every remaining box of its class that
    overlaps it by more than the threshold; repeat. Boxes of equal score stay in their order.

    To use array arithmetic instead of that loop, many boxes are decided at the same time, in two ways: `_in_rounds` if
    there are many classes, `_in_blocks` otherwise. Memory grows with N. Time grows at most with N times K.

    Args:
        boxes: [N, 4] (x1, y1, x2, y2).
        scores: [N].
        class_ids: [N]; boxes of different classes do not suppress each other. None: all boxes are of one class.
        iou_threshold: overlap above which the box with the lower score is removed, 0..1.
        limit: largest number of boxes that are kept; None: no limit.
        overlaps: the measure of overlap that is compared with the threshold.
    """
    order = np.argsort(-scores, kind="stable")
    n = len(order)
    columns = box_columns(boxes.take(order, axis=0))
    classes: _Int64OrUint16 = np.zeros(n, dtype=np.int64) if class_ids is None else class_ids[order]
    kept, undecided = np.zeros(0, dtype=np.int64), np.arange(n)
    if n > _BLOCK:
        if classes.min() >= 0 and classes.max() < 2**16:
            classes = classes.astype(np.uint16)  # NumPy radix-sorts 16-bit integers, and compares them faster.
        # A round processes all boxes; blocks stop at the limit, so they are faster if it is low.
        if limit is None or n <= 8 * limit:
            kept, undecided = _in_rounds(columns, classes, iou_threshold, limit, overlaps)
    kept = np.concatenate([kept, _in_blocks(columns, classes, undecided, iou_threshold, limit, overlaps)])
    return order[np.sort(kept)[:limit]]


def _in_rounds(
    columns: BoxColumns, classes: _Int64OrUint16, iou_threshold: float, limit: int | None, overlaps: OverlapTest
) -> tuple[Ints, Ints]:
    """Run rounds in which every class keeps its best box, until few boxes or few classes remain.

    Args:
        columns: [5, N] sorted by score.
        classes: [N] sorted by score.
        iou_threshold: as in `nms`.
        limit: as in `nms`.
        overlaps: as in `nms`.

    Returns:
        The ranks of the boxes that are kept, in any order; and the ranks of those still undecided, ascending.
    """
    # Sorted by class, then by rank: the first box of each class is its best one.
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
            # At least `limit` kept boxes are better than these, so they cannot be among the first `limit`.
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
    """Decide boxes block by block, best first.

    Args:
        columns: [5, N] sorted by score.
        classes: [N] sorted by score.
        ranks: [U] of the undecided boxes, ascending.
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
        # Inside the block, a box is kept unless a better box that is kept overlaps it: iterate until nothing changes.
        # A box depends only on better ones, so the first k boxes are final after k iterations.
        matrix = suppression_matrix(block, block) & _BETTER_BY_WORSE[: len(block), : len(block)]
        keep, previous = ~matrix.any(axis=0), None
        while previous is None or not np.array_equal(keep, previous):
            keep, previous = ~matrix[keep].any(axis=0), keep
        kept = np.concatenate([kept, block[keep]])
        if limit is not None and len(kept) >= limit:
            break
    return kept
