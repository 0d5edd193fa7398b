"""Non-maximum suppression: of boxes that overlap, the best stays.

NumPy, since a few hundred small boxes cost less there than on any device, and a runtime without torch needs it too.
Inside, boxes are columns x1, y1, x2, y2, area by rank of score, since arithmetic is fastest on contiguous rows.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from detector.arrays import Bools, Floats, Ints

ClassIds = npt.NDArray[np.int64 | np.uint16]
Above = Callable[[Floats, Floats, float], Bools]
"""Whether boxes as columns, [5, ...] and [5, ...], overlap by more than a threshold; the same either way round."""

# Measured: so many boxes against so many stay in the cache, and outweigh the cost of calling NumPy.
_BLOCK = 160
_FEW_CLASSES = 3
_BETTER_BY_WORSE = np.triu(np.ones((_BLOCK, _BLOCK), dtype=np.bool_), k=1)


def as_columns(boxes: Floats) -> Floats:
    """Return boxes [N, 4] as columns [5, N]: x1, y1, x2, y2, area."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])


def overlap(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the areas of intersection and of union of boxes as columns, [5, ...] and [5, ...]."""
    intersection, height = np.minimum(a[2], b[2]), np.minimum(a[3], b[3])
    intersection -= np.maximum(a[0], b[0])
    height -= np.maximum(a[1], b[1])
    np.clip(intersection, 0, np.inf, out=intersection)  # Twice as fast as np.maximum with a number.
    np.clip(height, 0, np.inf, out=height)
    intersection *= height
    union = a[4] + b[4]
    union -= intersection
    return intersection, union


def iou_above(a: Floats, b: Floats, threshold: float) -> Bools:
    """Return whether the IoU of boxes as columns, [5, ...] and [5, ...], is above the threshold."""
    intersection, union = overlap(a, b)
    above: Bools = intersection > threshold * union
    return above


def nms(
    boxes: Floats,
    scores: Floats,
    class_ids: Ints | None,
    iou_threshold: float,
    limit: int | None = None,
    above: Above = iou_above,
) -> Ints:
    """Return the indices of the boxes that stay, best first.

    The four steps: sort by score; take the best box; drop every remaining box of its class that overlaps it by
    more than the threshold; repeat. Equal scores keep their order. The result is that of this plain loop; to leave
    the work to array arithmetic, many classes take their best boxes at the same time, and few classes are worked off
    in blocks of boxes. Memory grows with N; time, at worst, with N times the number of boxes that stay.

    Args:
        boxes: [N, 4] corners.
        scores: [N].
        class_ids: [N]; boxes of different classes do not suppress each other. None: all count as one class.
        iou_threshold: overlap above which the lower score goes, 0..1.
        limit: stop after this many boxes.
        above: which measure of overlap the threshold is for.
    """
    order = np.argsort(-scores, kind="stable")
    n = len(order)
    columns = as_columns(boxes.take(order, axis=0))
    classes: ClassIds = np.zeros(n, dtype=np.int64) if class_ids is None else class_ids[order]
    kept, undecided = np.zeros(0, dtype=np.int64), np.arange(n)
    if n > _BLOCK:
        if classes.min() >= 0 and classes.max() < 2**16:
            classes = classes.astype(np.uint16)  # NumPy sorts 16 bits by radix, and compares them faster.
        # A round looks at every box, a block at those down to it, which are few where a low limit ends the work.
        if limit is None or n <= 8 * limit:
            kept, undecided = _in_rounds(columns, classes, iou_threshold, limit, above)
    kept = np.concatenate([kept, _in_blocks(columns, classes, undecided, iou_threshold, limit, above)])
    return order[np.sort(kept)[:limit]]


def _in_rounds(
    columns: Floats, classes: ClassIds, iou_threshold: float, limit: int | None, above: Above
) -> tuple[Ints, Ints]:
    """Let every class take its best box at once, round by round, until few boxes or few classes remain.

    Returns:
        The ranks of boxes that stay, in any order; and, ascending, the ranks of those still to be decided.
    """
    ranks = np.argsort(classes, kind="stable")
    columns, classes = columns.take(ranks, axis=1), classes[ranks]
    kept = np.zeros(0, dtype=np.int64)
    while len(ranks) > _BLOCK:
        best = np.flatnonzero(np.append(True, classes[1:] != classes[:-1]))
        if len(best) <= _FEW_CLASSES:
            break
        kept = np.concatenate([kept, ranks[best]])
        best_of_class = columns.take(best, axis=1).repeat(np.diff(best, append=len(ranks)), axis=1)
        undecided = ~above(best_of_class, columns, iou_threshold)
        undecided[best] = False
        if limit is not None and len(kept) >= limit:
            # What ranks below `limit` boxes that stay can no longer be among the first `limit`.
            undecided &= ranks < np.partition(kept, limit - 1)[limit - 1]
        remaining = np.flatnonzero(undecided)
        ranks, columns, classes = ranks[remaining], columns.take(remaining, axis=1), classes[remaining]
    return kept, np.sort(ranks)


def _in_blocks(
    columns: Floats, classes: ClassIds, ranks: Ints, iou_threshold: float, limit: int | None, above: Above
) -> Ints:
    """Decide the boxes of these ascending ranks block by block; return the ranks of those that stay, ascending."""

    def suppresses(better: Ints, others: Ints) -> Bools:
        rows, across = columns.take(better, axis=1)[:, :, None], columns.take(others, axis=1)[:, None, :]
        suppressed = above(rows, across, iou_threshold)
        suppressed &= classes[better][:, None] == classes[others]
        return suppressed

    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(ranks), _BLOCK):
        block = ranks[start : start + _BLOCK]
        for chunk in range(0, len(kept), _BLOCK):
            block = block[~suppresses(kept[chunk : chunk + _BLOCK], block).any(axis=0)]
        # Inside the block a box stays unless a better one that stays overlaps it: iterate until nothing changes.
        # A box depends on better ones only, so after k rounds the first k are final.
        inside = suppresses(block, block) & _BETTER_BY_WORSE[: len(block), : len(block)]
        stays, before = ~inside.any(axis=0), None
        while before is None or not np.array_equal(stays, before):
            stays, before = ~inside[stays].any(axis=0), stays
        kept = np.concatenate([kept, block[stays]])
        if limit is not None and len(kept) >= limit:
            break
    return kept
