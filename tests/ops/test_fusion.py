"""Weighted boxes fusion: equal to a slow, obvious reference, and its properties."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.ops.fusion import fuse_boxes

Box = tuple[float, ...]


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def reference(
    boxes: Any, scores: Any, class_ids: Any, sources: Any, known: list[int], threshold: float
) -> list[tuple[float, int, Box]]:
    """Fuse boxes as the paper describes it: lists of clusters, whose fused boxes are computed anew each time.

    But a cluster takes only one box of each detector.
    """
    clusters: list[list[tuple[float, Box]]] = []
    members_of: list[set[int]] = []
    fused: list[tuple[float, int, Box]] = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        box, score, class_id = tuple(boxes[index].tolist()), float(scores[index]), int(class_ids[index])
        overlaps = [
            iou(box, other) if class_id == own and int(sources[index]) not in taken else 0.0
            for (_, own, other), taken in zip(fused, members_of, strict=True)
        ]
        if overlaps and max(overlaps) > threshold:
            position = overlaps.index(max(overlaps))
            clusters[position].append((score, box))
        else:
            position = len(clusters)
            clusters.append([(score, box)])
            members_of.append(set())
            fused.append((score, class_id, box))
        members_of[position].add(int(sources[index]))
        members = clusters[position]
        total = sum(own for own, _ in members)
        mean = tuple(sum(own * corner[side] for own, corner in members) / total for side in range(4))
        fused[position] = (total / len(members), class_id, mean)
    rescaled = [
        (score * min(len(members), known[class_id]) / known[class_id], class_id, box)
        for (score, class_id, box), members in zip(fused, clusters, strict=True)
    ]
    return sorted(rescaled, key=lambda own: -own[0])


@settings(max_examples=150)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 40), threshold=st.sampled_from([0.3, 0.55, 0.8]))
def test_fusion_equals_the_reference(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 4, (count, 2)) * 20 + rng.normal(0, 3, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(15, 30, (count, 2))]).astype(np.float32)
    scores = rng.permutation(np.linspace(0.05, 1, count)).astype(np.float32)  # no ties
    class_ids, known = rng.integers(0, 3, count), [1, 2, 3]
    sources = rng.integers(0, class_ids + 1)  # the first class is known to one detector, the next to two, ...
    found = fuse_boxes(boxes, scores, class_ids, sources, known, threshold)
    expected = reference(boxes, scores, class_ids, sources, known, threshold)
    assert len(found.scores) == len(expected)
    assert found.scores == pytest.approx([score for score, _, _ in expected], abs=1e-5)
    # Fused scores can be equal up to rounding, so their order may differ: compare as sets.
    key = [(*np.round(box, 2), int(own)) for box, own in zip(found.boxes, found.class_ids, strict=True)]
    for _, own, box in expected:
        assert any(own == k[4] and np.allclose(k[:4], box, atol=0.02) for k in key)


def test_two_detectors_that_agree_keep_the_mean_score() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 12]], np.float32)
    fused = fuse_boxes(boxes, np.array([0.9, 0.3], np.float32), np.zeros(2, np.int64), np.arange(2), [2], 0.55)
    assert fused.scores == pytest.approx([0.6])
    assert fused.boxes[0] == pytest.approx([0, 0, 10, 10.5])


def test_object_that_one_of_two_detectors_finds_gets_half_the_score() -> None:
    box, score = np.array([[1, 2, 30, 40]], np.float32), np.array([0.8], np.float32)
    assert fuse_boxes(box, score, np.array([0]), np.array([0]), [2], 0.55).scores == pytest.approx([0.4])
    # The class is known to one detector only: its score is not halved.
    alone = fuse_boxes(box, score, np.array([0]), np.array([1]), [1], 0.55)
    assert alone.scores == pytest.approx([0.8])
    assert np.array_equal(alone.boxes, box)


def test_no_boxes_give_no_boxes() -> None:
    none = np.zeros(0, np.int64)
    fused = fuse_boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none, none, [2], 0.55)
    assert fused.boxes.shape == (0, 4)
    assert len(fused.scores) == len(fused.class_ids) == 0


def test_two_boxes_of_one_detector_stay_two() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 10.5]], np.float32)
    fused = fuse_boxes(
        boxes, np.array([0.9, 0.1, 0.7], np.float32), np.zeros(3, np.int64), np.array([0, 0, 1]), [2], 0.55
    )
    assert fused.scores == pytest.approx([0.8, 0.05])
