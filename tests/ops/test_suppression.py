import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import Floats, Ints
from detector.ops.nms import nms
from detector.ops.suppression import METHODS, Kept, suppress

methods = pytest.mark.parametrize("method", METHODS)


def crowded(n: int, seed: int, clusters: int, levels: int, classes: int) -> tuple[Floats, Floats, Ints]:
    """N whole boxes around a few centers, some equal, some without area; of few different scores where `levels` is."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(0, 60, (clusters, 2))[rng.integers(clusters, size=n)]
    top_left = centers + rng.integers(-4, 5, (n, 2))
    boxes = np.concatenate([top_left, top_left + rng.integers(0, 20, (n, 2))], axis=1)
    scores = rng.integers(1, levels + 1, n) / levels
    return boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, classes, n)


def distinct(n: int, seed: int, clusters: int, classes: int) -> tuple[Floats, Floats, Ints]:
    """As `crowded`, with no score twice."""
    boxes, _, class_ids = crowded(n, seed, clusters, 1, classes)
    return boxes, np.random.default_rng(seed).permutation(np.linspace(0.1, 0.9, n)).astype(np.float32), class_ids


def run(boxes: Floats, scores: Floats, class_ids: Ints | None, method: str, iou: float = 0.5, limit: int = 300) -> Kept:
    return suppress(boxes, scores, class_ids, method, iou, limit, 0.05)


def assert_same(one: Kept, other: Kept) -> None:
    assert one.indices.tolist() == other.indices.tolist()
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)
    np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-6, atol=1e-6)


def slow_overlap(a: Floats, b: Floats) -> tuple[np.float32, np.float32]:
    """The areas of intersection and union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, np.float32(0)) * max(height, np.float32(0))
    return intersection, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection


def slow_above(a: Floats, b: Floats, threshold: float, method: str) -> bool:
    """Whether two boxes overlap too much; in float32 and without a division by the union, since thresholds are met."""
    intersection, union = slow_overlap(a, b)
    penalty = np.float32(0)
    if method == "diou":
        distance = (a[0] + a[2] - (b[0] + b[2])) ** 2 + (a[1] + a[3] - (b[1] + b[3])) ** 2
        diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
        penalty = distance / (4 * diagonal) if diagonal > 0 else penalty
    return bool(intersection > (np.float32(threshold) + penalty) * union)


def slow_hard(
    boxes: Floats, scores: Floats, class_ids: Ints | None, method: str, iou_threshold: float, limit: int
) -> Kept:
    """Take the best; let those it overlaps go with it, for `weighted` into a mean; repeat."""
    remaining = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    means = []
    while remaining and len(kept) < limit:
        best, *others = remaining
        gone = [
            i
            for i in others
            if (class_ids is None or class_ids[i] == class_ids[best])
            and slow_above(boxes[best], boxes[i], iou_threshold, method)
        ]
        cluster = [best, *gone] if method == "weighted" else [best]
        total = sum(float(scores[i]) for i in cluster)
        means.append([sum(float(scores[i]) * float(boxes[i][side]) for i in cluster) / total for side in range(4)])
        kept.append(best)
        remaining = [i for i in others if i not in gone]
    indices = np.array(kept, dtype=np.int64)
    return Kept(np.array(means, np.float32).reshape(-1, 4), scores[indices], indices)


def slow_soft(boxes: Floats, scores: Floats, class_ids: Ints | None, limit: int, score_threshold: float) -> Kept:
    """The paper's figure 2: take the best, lower the score of the others by their overlap with it, repeat."""
    remaining, current = list(range(len(scores))), scores.copy()
    kept: list[int] = []
    while remaining and len(kept) < limit:
        best = max(remaining, key=lambda i: (current[i], -i))
        if current[best] <= score_threshold:
            break
        remaining.remove(best)
        kept.append(best)
        for i in remaining:
            intersection, union = slow_overlap(boxes[best], boxes[i])
            if (class_ids is None or class_ids[i] == class_ids[best]) and union > 0:
                iou = intersection / union
                # Of an array, so that scores which are equal here are equal there too.
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
    limit=st.integers(0, 40),
    score_threshold=st.sampled_from([0.0, 0.05, 0.25]),
)
@settings(max_examples=60)
@methods
def test_every_method_does_what_a_plain_loop_does(
    method: str,
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
    kept = suppress(boxes, scores, class_ids, method, iou_threshold, limit, score_threshold)
    if method == "soft":
        assert_same(kept, slow_soft(boxes, scores, class_ids, limit, score_threshold))
    else:
        assert_same(kept, slow_hard(boxes, scores, class_ids, method, iou_threshold, limit))
    assert kept.boxes.dtype == kept.scores.dtype == np.float32
    assert kept.indices.dtype == np.int64


@pytest.mark.parametrize("classes", [1, 20])
@pytest.mark.parametrize("method", ["diou", "weighted"])
def test_many_boxes_are_treated_as_a_plain_loop_treats_them(method: str, classes: int) -> None:
    # More than a block of `nms`, and as many classes as it takes at once.
    boxes, scores, class_ids = crowded(330, 7, 8, 10**4, classes)
    assert_same(run(boxes, scores, class_ids, method), slow_hard(boxes, scores, class_ids, method, 0.5, 300))


@methods
def test_a_limit_gives_the_first_of_what_would_be_kept_without(method: str) -> None:
    boxes, scores, class_ids = crowded(400, 0, 60, 100, 5)
    whole = run(boxes, scores, class_ids, method, limit=400)
    assert len(whole.indices) > 100
    for limit in (0, 1, 10, 100, 10**6):
        some = run(boxes, scores, class_ids, method, limit=limit)
        assert_same(some, Kept(whole.boxes[:limit], whole.scores[:limit], whole.indices[:limit]))


@methods
def test_boxes_without_classes_count_as_one_class(method: str) -> None:
    boxes, scores, _ = crowded(300, 1, 10, 100, 1)
    assert_same(run(boxes, scores, None, method), run(boxes, scores, np.full(300, 3), method))


@methods
def test_classes_leave_each_other_alone(method: str) -> None:
    boxes, scores, class_ids = distinct(300, 2, 10, 4)
    together = run(boxes, scores, class_ids, method)
    for class_id in range(4):
        its = np.flatnonzero(class_ids == class_id)
        alone = run(boxes[its], scores[its], None, method)
        among = class_ids[together.indices] == class_id
        assert_same(
            Kept(together.boxes[among], together.scores[among], together.indices[among]),
            Kept(alone.boxes, alone.scores, its[alone.indices]),
        )


@methods
def test_the_order_of_the_boxes_does_not_matter_where_scores_differ(method: str) -> None:
    boxes, scores, class_ids = distinct(200, 3, 10, 3)
    shuffle = np.random.default_rng(4).permutation(200)
    again = run(boxes[shuffle], scores[shuffle], class_ids[shuffle], method)
    assert_same(run(boxes, scores, class_ids, method), Kept(again.boxes, again.scores, shuffle[again.indices]))


@methods
def test_boxes_that_do_not_overlap_come_back_as_they_are_best_first(method: str) -> None:
    left = 2 * np.arange(200, dtype=np.float32)
    boxes = np.stack([left, left + 1 / 3, left + 1, left + 1], axis=1)
    scores = np.random.default_rng(0).uniform(0.1, 1, 200).astype(np.float32)
    kept = run(boxes, scores, None, method)
    order = np.argsort(-scores)
    assert np.array_equal(kept.indices, order)
    assert np.array_equal(kept.boxes, boxes[order])
    assert np.array_equal(kept.scores, scores[order])


@methods
def test_nothing_is_written_into_what_came(method: str) -> None:
    boxes, scores, class_ids = crowded(200, 5, 3, 100, 2)
    kept = run(boxes, scores, class_ids, method)
    kept.boxes[:] = kept.scores[:] = kept.indices[:] = 7
    for came, before in zip((boxes, scores, class_ids), crowded(200, 5, 3, 100, 2), strict=True):
        np.testing.assert_array_equal(came, before)


@methods
def test_no_box_gives_no_box(method: str) -> None:
    kept = run(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), method)
    assert (kept.boxes.shape, kept.scores.shape, kept.indices.shape) == ((0, 4), (0,), (0,))


@methods
def test_boxes_without_area_leave_each_other_alone(method: str) -> None:
    kept = run(np.ones((3, 4), np.float32), np.full(3, 0.5, np.float32), None, method)
    assert_same(kept, Kept(np.ones((3, 4), np.float32), np.full(3, 0.5, np.float32), np.arange(3)))


@pytest.mark.filterwarnings("ignore:invalid value")
@methods
def test_a_box_that_is_no_number_stays_and_harms_no_other(method: str) -> None:
    boxes, scores, class_ids = distinct(200, 6, 10, 3)
    broken = np.arange(0, 200, 7)
    boxes[broken] = np.nan
    kept = run(boxes, scores, class_ids, method)
    assert set(broken) <= set(kept.indices.tolist())
    others = np.setdiff1d(np.arange(200), broken)
    alone = run(boxes[others], scores[others], class_ids[others], method)
    sound = ~np.isin(kept.indices, broken)
    assert_same(
        Kept(kept.boxes[sound], kept.scores[sound], kept.indices[sound]),
        Kept(alone.boxes, alone.scores, others[alone.indices]),
    )


@methods
def test_of_a_crowd_of_equal_boxes_one_is_clearly_best(method: str) -> None:
    kept = run(np.tile(np.array([[3, 4, 30, 50]], np.float32), (50, 1)), np.full(50, 0.9, np.float32), None, method)
    assert (kept.scores[0], kept.indices[0]) == (np.float32(0.9), 0)
    np.testing.assert_array_equal(kept.boxes[0], [3, 4, 30, 50])
    assert (kept.scores[1:] < 0.15).all()


def test_classic_is_nms() -> None:
    boxes, scores, class_ids = crowded(300, 8, 10, 50, 3)
    indices = nms(boxes, scores, class_ids, 0.5, 20)
    assert_same(run(boxes, scores, class_ids, "classic", limit=20), Kept(boxes[indices], scores[indices], indices))


def test_soft_lowers_scores_and_what_falls_to_the_floor_goes() -> None:
    boxes, scores, class_ids = crowded(300, 9, 10, 50, 3)
    every = suppress(boxes, scores, class_ids, "soft", 0.5, 300, 0.0)
    assert len(every.indices) == 300
    assert (every.scores <= scores[every.indices]).all()
    assert (np.diff(every.scores) <= 0).all()
    floor = float(every.scores[150])
    above = every.scores > floor
    kept = suppress(boxes, scores, class_ids, "soft", 0.5, 300, floor)
    assert_same(kept, Kept(every.boxes[above], every.scores[above], every.indices[above]))


def test_the_penalty_of_soft_is_the_papers() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], np.float32)  # IoU 0.5
    kept = run(boxes, np.array([0.9, 0.8], np.float32), None, "soft")
    np.testing.assert_allclose(kept.scores, [0.9, 0.8 * math.exp(-(0.5**2) / 0.5)], rtol=1e-6)


def test_diou_of_boxes_with_one_center_is_classic() -> None:
    rng = np.random.default_rng(10)
    half = rng.integers(0, 30, (200, 2)).astype(np.float32)
    boxes = np.concatenate([40 - half, 40 + half], axis=1)
    scores, class_ids = rng.random(200, dtype=np.float32), rng.integers(0, 5, 200)
    for iou in (0.3, 0.5, 0.8):
        assert_same(run(boxes, scores, class_ids, "diou", iou), run(boxes, scores, class_ids, "classic", iou))


def test_weighted_keeps_scores_and_indices_of_classic_and_its_boxes_within_those_that_came() -> None:
    boxes, scores, class_ids = crowded(300, 11, 5, 50, 1)
    classic, weighted = (run(boxes, scores, class_ids, method) for method in ("classic", "weighted"))
    assert np.array_equal(weighted.indices, classic.indices)
    assert np.array_equal(weighted.scores, classic.scores)
    assert (weighted.boxes >= boxes.min(axis=0)).all()
    assert (weighted.boxes <= boxes.max(axis=0)).all()


def test_weighted_is_the_mean_by_score_of_a_box_and_those_it_drops() -> None:
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [40, 40, 50, 50]], np.float32)
    kept = run(boxes, np.array([0.6, 0.3, 0.5], np.float32), None, "weighted")
    np.testing.assert_allclose(kept.boxes, [[2 / 3, 0.0, 32 / 3, 10.0], [40.0, 40.0, 50.0, 50.0]], rtol=1e-6)
    np.testing.assert_allclose(kept.scores, [0.6, 0.5])


def test_of_two_objects_that_overlap_classic_loses_one_and_soft_and_diou_keep_it() -> None:
    # Two people side by side, and a second answer for the first of them: IoU 0.54 and 0.9.
    boxes = np.array([[0, 0, 20, 60], [6, 0, 26, 60], [1, 0, 21, 60]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert run(boxes, scores, None, "classic", iou=0.535).indices.tolist() == [0]
    assert run(boxes, scores, None, "diou", iou=0.535).indices.tolist() == [0, 1]
    assert suppress(boxes, scores, None, "soft", 0.5, 300, 0.25).indices.tolist() == [0, 1]


def test_where_boxes_scatter_round_an_object_weighted_lies_nearer_to_it_than_the_best() -> None:
    rng, thing = np.random.default_rng(12), np.array([20, 20, 80, 100])
    errors = []
    for _ in range(20):
        boxes = (thing + rng.normal(0, 3, (10, 4))).astype(np.float32)
        scores = rng.uniform(0.5, 1, 10).astype(np.float32)
        errors.append([np.abs(run(boxes, scores, None, method).boxes[0] - thing).mean() for method in METHODS])
    mean = dict(zip(METHODS, np.mean(errors, axis=0), strict=True))
    assert mean["weighted"] < 0.6 * mean["classic"]
