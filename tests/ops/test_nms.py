import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.ops.nms import Floats, Ints, nms

# Whole coordinates and these thresholds: overlap and threshold compare exactly, so ties at the threshold are tested.
thresholds = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def slow_nms(
    boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int | None = None
) -> list[int]:
    """The textbook: take the best, drop what overlaps it, repeat."""
    remaining = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    while remaining and (limit is None or len(kept) < limit):
        best, *others = remaining
        kept.append(best)
        remaining = [
            i
            for i in others
            if (class_ids is not None and class_ids[i] != class_ids[best])
            or slow_iou(boxes[i].tolist(), boxes[best].tolist()) <= iou_threshold
        ]
    return kept


def slow_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = width * height if width > 0 and height > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


def crowded(n: int, seed: int, clusters: int, levels: int) -> tuple[Floats, Floats, Ints]:
    """N boxes around a few centres, of few different scores and 3 classes."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 60, (clusters, 2))[rng.integers(clusters, size=n)]
    top_left = centres + rng.integers(-4, 5, (n, 2))
    boxes = np.concatenate([top_left, top_left + rng.integers(0, 20, (n, 2))], axis=1)
    scores = rng.integers(1, levels + 1, n) / levels
    return boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, 3, n)


@given(
    n=st.integers(0, 40),
    seed=st.integers(0, 10**6),
    clusters=st.integers(1, 6),
    levels=st.sampled_from([1, 3, 10**4]),
    by_class=st.booleans(),
    iou_threshold=thresholds,
    limit=st.none() | st.integers(1, 20),
)
@settings(deadline=None, max_examples=150)
def test_a_few_boxes_are_kept_as_the_textbook_keeps_them(
    n: int, seed: int, clusters: int, levels: int, by_class: bool, iou_threshold: float, limit: int | None
) -> None:
    boxes, scores, class_ids = crowded(n, seed, clusters, levels)
    classes = class_ids if by_class else None
    kept = nms(boxes, scores, classes, iou_threshold, limit)
    assert kept.tolist() == slow_nms(boxes, scores, classes, iou_threshold, limit)


@pytest.mark.parametrize("n", [255, 256, 257, 512, 900])
@pytest.mark.parametrize(("clusters", "levels"), [(1, 1), (4, 50), (60, 10**4)])
@pytest.mark.parametrize("by_class", [False, True])
def test_many_boxes_are_kept_as_the_textbook_keeps_them(n: int, clusters: int, levels: int, by_class: bool) -> None:
    boxes, scores, class_ids = crowded(n, n, clusters, levels)
    classes = class_ids if by_class else None
    assert nms(boxes, scores, classes, 0.5).tolist() == slow_nms(boxes, scores, classes, 0.5)


def test_a_limit_gives_the_first_of_what_would_be_kept_without() -> None:
    boxes, scores, class_ids = crowded(600, 0, 200, 10**4)
    whole = nms(boxes, scores, class_ids, 0.9)
    assert len(whole) > 300
    for limit in (1, 100, 256, 300, 10**6):
        np.testing.assert_array_equal(nms(boxes, scores, class_ids, 0.9, limit), whole[:limit])


def test_a_chain_is_broken_at_every_second_box() -> None:
    # Each box suppresses only its neighbour: what stays hangs on the whole chain before it, over two blocks.
    left = np.arange(600, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 2, 0 * left + 1], axis=1)
    scores = np.linspace(1, 0.1, 600, dtype=np.float32)
    assert nms(boxes, scores, None, 0.3).tolist() == list(range(0, 600, 2))


def test_equal_scores_keep_their_order_and_the_first_of_equal_boxes_stays() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [0, 0, 9, 9], [40, 0, 49, 9]], dtype=np.float32)
    assert nms(boxes, np.full(4, 0.5, np.float32), None, 0.5).tolist() == [0, 1, 3]


def test_an_overlap_of_just_the_threshold_does_not_suppress() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], dtype=np.float32)
    scores = np.array([0.9, 0.8], dtype=np.float32)
    assert nms(boxes, scores, None, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, None, 0.49).tolist() == [0]


def test_the_order_of_the_boxes_does_not_matter_where_scores_differ() -> None:
    boxes, _, class_ids = crowded(300, 3, 5, 1)
    scores = np.random.default_rng(3).permutation(np.linspace(0.1, 0.9, 300)).astype(np.float32)
    kept = set(nms(boxes, scores, class_ids, 0.5).tolist())
    shuffle = np.random.default_rng(4).permutation(300)
    again: npt.NDArray[np.int64] = shuffle[nms(boxes[shuffle], scores[shuffle], class_ids[shuffle], 0.5)]
    assert set(again.tolist()) == kept


def test_what_stays_is_not_thinned_any_further() -> None:
    boxes, scores, class_ids = crowded(400, 5, 8, 10**4)
    kept = nms(boxes, scores, class_ids, 0.5)
    assert nms(boxes[kept], scores[kept], class_ids[kept], 0.5).tolist() == list(range(len(kept)))


def test_no_box_gives_no_index() -> None:
    kept = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5, 10)
    assert kept.tolist() == []


def test_boxes_without_area_do_not_suppress_each_other() -> None:
    assert nms(np.ones((3, 4), np.float32), np.ones(3, np.float32), None, 0.5).tolist() == [0, 1, 2]
