import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import Floats, Ints
from detector.ops.nms import nms
from detector.ops.suppression import METHODS, Kept, suppress
from detector.options import DetectOptions, SuppressionName

methods = pytest.mark.parametrize("method", METHODS)


def crowded(n: int, seed: int, clusters: int, levels: int, classes: int) -> tuple[Floats, Floats, Ints]:
    """Return boxes [n, 4], scores [n] and class ids [n] of boxes that overlap a lot.

    The boxes have integer corners around a few centers; some are equal, some have no area. There are `levels` different
    scores.
    """
    rng = np.random.default_rng(seed)
    centers = rng.integers(0, 60, (clusters, 2))[rng.integers(clusters, size=n)]
    top_left = centers + rng.integers(-4, 5, (n, 2))
    boxes = np.concatenate([top_left, top_left + rng.integers(0, 20, (n, 2))], axis=1)
    scores = rng.integers(1, levels + 1, n) / levels
    return boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, classes, n)


def distinct(n: int, seed: int, clusters: int, classes: int) -> tuple[Floats, Floats, Ints]:
    """Like `crowded`, but all scores are different."""
    boxes, _, class_ids = crowded(n, seed, clusters, 1, classes)
    return boxes, np.random.default_rng(seed).permutation(np.linspace(0.1, 0.9, n)).astype(np.float32), class_ids


def run(
    boxes: Floats,
    scores: Floats,
    class_ids: Ints | None,
    method: SuppressionName,
    iou_threshold: float = 0.5,
    limit: int = 300,
    score_threshold: float = 0.05,
) -> Kept:
    options = DetectOptions(
        suppression=method,
        iou_threshold=iou_threshold,
        max_detections=limit,
        score_threshold=score_threshold,
    )
    return suppress(boxes, scores, class_ids, options)


def assert_same(a: Kept, b: Kept) -> None:
    assert a.indices.tolist() == b.indices.tolist()
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6)
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-6, atol=1e-6)


def slow_areas(a: Floats, b: Floats) -> tuple[np.float32, np.float32]:
    """Return the areas of intersection and union of two boxes [4]."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, np.float32(0)) * max(height, np.float32(0))
    return intersection, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection


def slow_above(a: Floats, b: Floats, threshold: float, method: str) -> bool:
    """Return whether the IoU or DIoU is above the threshold.

    In float32 and without a division by the union, because some values are equal to the threshold.
    """
    intersection, union = slow_areas(a, b)
    penalty = np.float32(0)
    if method == "diou":
        distance = (a[0] + a[2] - (b[0] + b[2])) ** 2 + (a[1] + a[3] - (b[1] + b[3])) ** 2
        diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
        penalty = distance / (4 * diagonal) if diagonal > 0 else penalty
    return bool(intersection > (np.float32(threshold) + penalty) * union)


def slow_hard(
    boxes: Floats, scores: Floats, class_ids: Ints | None, method: str, iou_threshold: float, limit: int
) -> Kept:
    """Keep the best box and remove the boxes that it overlaps, for `weighted` after averaging them; repeat."""
    remaining = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    means = []
    while remaining and len(kept) < limit:
        best, *rest = remaining
        removed = [
            i
            for i in rest
            if (class_ids is None or class_ids[i] == class_ids[best])
            and slow_above(boxes[best], boxes[i], iou_threshold, method)
        ]
        cluster = [best, *removed] if method == "weighted" else [best]
        total = sum(float(scores[i]) for i in cluster)
        means.append([sum(float(scores[i]) * float(boxes[i][side]) for i in cluster) / total for side in range(4)])
        kept.append(best)
        remaining = [i for i in rest if i not in removed]
    indices = np.array(kept, dtype=np.int64)
    return Kept(np.array(means, np.float32).reshape(-1, 4), scores[indices], indices)


def slow_soft(boxes: Floats, scores: Floats, class_ids: Ints | None, limit: int, score_threshold: float) -> Kept:
    """The algorithm in figure 2 of the paper: keep the best box, lower the scores of boxes that overlap it, repeat."""
    remaining, current = list(range(len(scores))), scores.copy()
    kept: list[int] = []
    while remaining and len(kept) < limit:
        best = max(remaining, key=lambda i: (current[i], -i))
        if current[best] <= score_threshold:
            break
        remaining.remove(best)
        kept.append(best)
        for i in remaining:
            intersection, union = slow_areas(boxes[best], boxes[i])
            if (class_ids is None or class_ids[i] == class_ids[best]) and union > 0:
                iou = intersection / union
                # np.exp of an array, as in `soft`, so that equal scores are equal there too.
                current[i] *= np.exp(np.array([iou * iou / np.float32(-0.5)]))[0]
    indices = np.array(kept, dtype=np.int64)
    return Kept(boxes[indices], current[indices], indices)


@given(
    n=st.integers(0, 30),
    seed=st.integers(0, 10**6),
    clusters=st.integers(1, 20),
    levels=st.sampled_from([1, 3, 10**4]),
    classes=st.sampled_from([None, 1, 3, 10]),
    iou_threshold=st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.7, 1.0]),
    limit=st.integers(1, 40),
    score_threshold=st.sampled_from([0.0, 0.05, 0.25]),
)
@settings(max_examples=60)
@methods
def test_every_method_equals_a_plain_loop(
    method: SuppressionName,
    n: int,
    seed: int,
    clusters: int,
    levels: int,
    classes: int | None,
    iou_threshold: float,
    limit: int,
    score_threshold: float,
) -> None:
    boxes, scores, ids = crowded(n, seed, clusters, levels, classes or 1)
    class_ids = None if classes is None else ids
    kept = run(boxes, scores, class_ids, method, iou_threshold, limit, score_threshold)
    if method == "soft":
        assert_same(kept, slow_soft(boxes, scores, class_ids, limit, score_threshold))
    else:
        assert_same(kept, slow_hard(boxes, scores, class_ids, method, iou_threshold, limit))
    assert kept.boxes.dtype == kept.scores.dtype == np.float32
    assert kept.indices.dtype == np.int64


@pytest.mark.parametrize("classes", [1, 20])
@pytest.mark.parametrize("method", ["diou", "weighted"])
def test_many_boxes_give_the_result_of_a_plain_loop(method: SuppressionName, classes: int) -> None:
    # More boxes than a block of `nms`; and enough classes for its rounds.
    boxes, scores, class_ids = crowded(330, 7, 8, 10**4, classes)
    assert_same(run(boxes, scores, class_ids, method), slow_hard(boxes, scores, class_ids, method, 0.5, 300))


@methods
def test_a_limit_keeps_the_first_boxes_of_the_unlimited_result(method: SuppressionName) -> None:
    boxes, scores, class_ids = crowded(400, 0, 60, 100, 5)
    unlimited = run(boxes, scores, class_ids, method, limit=400)
    assert len(unlimited.indices) > 100
    for limit in (1, 10, 100, 10**6):
        limited = run(boxes, scores, class_ids, method, limit=limit)
        expected = Kept(unlimited.boxes[:limit], unlimited.scores[:limit], unlimited.indices[:limit])
        assert_same(limited, expected)


@methods
def test_class_ids_of_none_mean_a_single_class(method: SuppressionName) -> None:
    boxes, scores, _ = crowded(300, 1, 10, 100, 1)
    assert_same(run(boxes, scores, None, method), run(boxes, scores, np.full(300, 3), method))


@methods
def test_boxes_of_different_classes_do_not_suppress_each_other(method: SuppressionName) -> None:
    boxes, scores, class_ids = distinct(300, 2, 10, 4)
    together = run(boxes, scores, class_ids, method)
    for class_id in range(4):
        members = np.flatnonzero(class_ids == class_id)
        alone = run(boxes[members], scores[members], None, method)
        of_class = class_ids[together.indices] == class_id
        assert_same(
            Kept(together.boxes[of_class], together.scores[of_class], together.indices[of_class]),
            Kept(alone.boxes, alone.scores, members[alone.indices]),
        )


@methods
def test_the_order_of_boxes_does_not_matter_if_scores_differ(method: SuppressionName) -> None:
    boxes, scores, class_ids = distinct(200, 3, 10, 3)
    shuffle = np.random.default_rng(4).permutation(200)
    shuffled = run(boxes[shuffle], scores[shuffle], class_ids[shuffle], method)
    assert_same(run(boxes, scores, class_ids, method), Kept(shuffled.boxes, shuffled.scores, shuffle[shuffled.indices]))


@methods
def test_boxes_without_overlap_are_returned_sorted_by_score(method: SuppressionName) -> None:
    left = 2 * np.arange(200, dtype=np.float32)
    boxes = np.stack([left, left + 1 / 3, left + 1, left + 1], axis=1)
    scores = np.random.default_rng(0).uniform(0.1, 1, 200).astype(np.float32)
    kept = run(boxes, scores, None, method)
    order = np.argsort(-scores)
    assert np.array_equal(kept.indices, order)
    assert np.array_equal(kept.boxes, boxes[order])
    assert np.array_equal(kept.scores, scores[order])


@methods
def test_suppression_does_not_change_its_arguments(method: SuppressionName) -> None:
    boxes, scores, class_ids = crowded(200, 5, 3, 100, 2)
    kept = run(boxes, scores, class_ids, method)
    kept.boxes[:] = kept.scores[:] = kept.indices[:] = 7
    for argument, original in zip((boxes, scores, class_ids), crowded(200, 5, 3, 100, 2), strict=True):
        np.testing.assert_array_equal(argument, original)


@methods
def test_suppression_of_no_boxes_is_empty(method: SuppressionName) -> None:
    kept = run(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), method)
    assert (kept.boxes.shape, kept.scores.shape, kept.indices.shape) == ((0, 4), (0,), (0,))


@methods
def test_boxes_without_area_do_not_suppress_each_other(method: SuppressionName) -> None:
    kept = run(np.ones((3, 4), np.float32), np.full(3, 0.5, np.float32), None, method)
    assert_same(kept, Kept(np.ones((3, 4), np.float32), np.full(3, 0.5, np.float32), np.arange(3)))


@pytest.mark.filterwarnings("ignore:invalid value")
@methods
def test_nan_boxes_are_kept_and_change_no_other_box(method: SuppressionName) -> None:
    boxes, scores, class_ids = distinct(200, 6, 10, 3)
    is_nan = np.arange(0, 200, 7)
    boxes[is_nan] = np.nan
    kept = run(boxes, scores, class_ids, method)
    assert set(is_nan) <= set(kept.indices.tolist())
    valid = np.setdiff1d(np.arange(200), is_nan)
    alone = run(boxes[valid], scores[valid], class_ids[valid], method)
    kept_valid = ~np.isin(kept.indices, is_nan)
    assert_same(
        Kept(kept.boxes[kept_valid], kept.scores[kept_valid], kept.indices[kept_valid]),
        Kept(alone.boxes, alone.scores, valid[alone.indices]),
    )


@methods
def test_only_one_of_equal_boxes_keeps_a_high_score(method: SuppressionName) -> None:
    kept = run(np.tile(np.array([[3, 4, 30, 50]], np.float32), (50, 1)), np.full(50, 0.9, np.float32), None, method)
    assert (kept.scores[0], kept.indices[0]) == (np.float32(0.9), 0)
    np.testing.assert_array_equal(kept.boxes[0], [3, 4, 30, 50])
    assert (kept.scores[1:] < 0.15).all()


def test_classic_equals_nms() -> None:
    boxes, scores, class_ids = crowded(300, 8, 10, 50, 3)
    indices = nms(boxes, scores, class_ids, 0.5, 20)
    assert_same(run(boxes, scores, class_ids, "classic", limit=20), Kept(boxes[indices], scores[indices], indices))


def test_soft_lowers_scores_and_removes_boxes_at_the_threshold() -> None:
    boxes, scores, class_ids = crowded(300, 9, 10, 50, 3)
    all_boxes = run(boxes, scores, class_ids, "soft", score_threshold=0.0)
    assert len(all_boxes.indices) == 300
    assert (all_boxes.scores <= scores[all_boxes.indices]).all()
    assert (np.diff(all_boxes.scores) <= 0).all()
    threshold = float(all_boxes.scores[150])
    above = all_boxes.scores > threshold
    kept = run(boxes, scores, class_ids, "soft", score_threshold=threshold)
    assert_same(kept, Kept(all_boxes.boxes[above], all_boxes.scores[above], all_boxes.indices[above]))


def test_the_penalty_of_soft_matches_the_paper() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], np.float32)  # IoU 0.5
    kept = run(boxes, np.array([0.9, 0.8], np.float32), None, "soft")
    np.testing.assert_allclose(kept.scores, [0.9, 0.8 * math.exp(-(0.5**2) / 0.5)], rtol=1e-6)


def test_diou_of_boxes_with_equal_centers_equals_classic() -> None:
    rng = np.random.default_rng(10)
    half = rng.integers(0, 30, (200, 2)).astype(np.float32)
    boxes = np.concatenate([40 - half, 40 + half], axis=1)
    scores, class_ids = rng.random(200, dtype=np.float32), rng.integers(0, 5, 200)
    for iou in (0.3, 0.5, 0.8):
        assert_same(run(boxes, scores, class_ids, "diou", iou), run(boxes, scores, class_ids, "classic", iou))


def test_weighted_keeps_scores_and_indices_of_classic() -> None:
    boxes, scores, class_ids = crowded(300, 11, 5, 50, 1)
    classic, weighted = (run(boxes, scores, class_ids, method) for method in ("classic", "weighted"))
    assert np.array_equal(weighted.indices, classic.indices)
    assert np.array_equal(weighted.scores, classic.scores)
    assert (weighted.boxes >= boxes.min(axis=0)).all()
    assert (weighted.boxes <= boxes.max(axis=0)).all()


def test_weighted_averages_a_box_with_those_it_removes() -> None:
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [40, 40, 50, 50]], np.float32)
    kept = run(boxes, np.array([0.6, 0.3, 0.5], np.float32), None, "weighted")
    np.testing.assert_allclose(kept.boxes, [[2 / 3, 0.0, 32 / 3, 10.0], [40.0, 40.0, 50.0, 50.0]], rtol=1e-6)
    np.testing.assert_allclose(kept.scores, [0.6, 0.5])


def test_soft_and_diou_keep_an_overlapping_object_that_classic_removes() -> None:
    # Two people side by side (IoU 0.54), and a second detection of the first (IoU 0.9).
    boxes = np.array([[0, 0, 20, 60], [6, 0, 26, 60], [1, 0, 21, 60]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert run(boxes, scores, None, "classic", 0.535).indices.tolist() == [0]
    assert run(boxes, scores, None, "diou", 0.535).indices.tolist() == [0, 1]
    assert run(boxes, scores, None, "soft", score_threshold=0.25).indices.tolist() == [0, 1]


def test_weighted_is_more_accurate_than_the_best_box() -> None:
    rng, true_box = np.random.default_rng(12), np.array([20, 20, 80, 100])
    errors = []
    for _ in range(20):
        boxes = (true_box + rng.normal(0, 3, (10, 4))).astype(np.float32)
        scores = rng.uniform(0.5, 1, 10).astype(np.float32)
        errors.append([np.abs(run(boxes, scores, None, method).boxes[0] - true_box).mean() for method in METHODS])
    mean = dict(zip(METHODS, np.mean(errors, axis=0), strict=True))
    assert mean["weighted"] < 0.6 * mean["classic"]
