import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import Bools, Floats, Ints
from detector.ops.nms import nms

# 0, 1/4, 1/2, 3/4, 1 compare exactly with the overlaps of small whole boxes; the others round.
thresholds = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.7, 0.75, 1.0])


def slow_nms(
    boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int | None = None
) -> list[int]:
    """The textbook: take the best, drop what overlaps it, repeat."""
    remaining = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    while remaining and (limit is None or len(kept) < limit):
        best, others = remaining[0], np.array(remaining[1:], dtype=np.int64)
        kept.append(best)
        overlaps = slow_overlaps(boxes[[best]], boxes[others], iou_threshold)
        same_class = np.full(len(others), True) if class_ids is None else class_ids[others] == class_ids[best]
        remaining = others[~(overlaps & same_class)].tolist()
    return kept


def slow_overlaps(one: Floats, many: Floats, iou_threshold: float) -> Bools:
    """Whether the IoU is above the threshold, in float32 and without a division."""
    width = np.minimum(one[:, 2], many[:, 2]) - np.maximum(one[:, 0], many[:, 0])
    height = np.minimum(one[:, 3], many[:, 3]) - np.maximum(one[:, 1], many[:, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    area, areas = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (one, many))
    above: Bools = intersection > iou_threshold * (area + areas - intersection)
    return above


def crowded(n: int, seed: int, clusters: int, levels: int, classes: int = 3) -> tuple[Floats, Floats, Ints]:
    """N whole boxes around a few centers, some equal, some without area; of few different scores; low classes crowd."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(0, 60, (clusters, 2))[rng.integers(clusters, size=n)]
    top_left = centers + rng.integers(-4, 5, (n, 2))
    boxes = np.concatenate([top_left, top_left + rng.integers(0, 20, (n, 2))], axis=1)
    scores = rng.integers(1, levels + 1, n) / levels
    class_ids = np.minimum(rng.integers(0, classes, n), rng.integers(0, classes, n))
    return boxes.astype(np.float32), scores.astype(np.float32), class_ids


@given(
    n=st.integers(0, 40) | st.integers(150, 400),
    seed=st.integers(0, 10**6),
    clusters=st.integers(1, 60),
    levels=st.sampled_from([1, 3, 10**4]),
    classes=st.sampled_from([None, 1, 3, 10, 80]),
    unit=st.sampled_from([1, 0.1]),
    iou_threshold=thresholds,
    limit=st.none() | st.integers(1, 100),
)
@settings(max_examples=200)
def test_boxes_are_kept_as_the_textbook_keeps_them(
    n: int,
    seed: int,
    clusters: int,
    levels: int,
    classes: int | None,
    unit: float,
    iou_threshold: float,
    limit: int | None,
) -> None:
    boxes, scores, ids = crowded(n, seed, clusters, levels, classes or 1)
    boxes, class_ids = boxes * np.float32(unit), None if classes is None else ids
    kept = nms(boxes, scores, class_ids, iou_threshold, limit)
    assert kept.tolist() == slow_nms(boxes, scores, class_ids, iou_threshold, limit)


@pytest.mark.parametrize("n", [159, 160, 161, 320, 900])
@pytest.mark.parametrize(("clusters", "levels"), [(1, 1), (4, 50), (60, 10**4)])
@pytest.mark.parametrize("classes", [1, 3, 4, 20])
def test_many_boxes_are_kept_as_the_textbook_keeps_them(n: int, clusters: int, levels: int, classes: int) -> None:
    boxes, scores, class_ids = crowded(n, n, clusters, levels, classes)
    assert nms(boxes, scores, class_ids, 0.5).tolist() == slow_nms(boxes, scores, class_ids, 0.5)


@pytest.mark.parametrize("classes", [3, 20])
def test_a_limit_gives_the_first_of_what_would_be_kept_without(classes: int) -> None:
    boxes, scores, class_ids = crowded(600, 0, 200, 10**4, classes)
    whole = nms(boxes, scores, class_ids, 0.9)
    assert len(whole) > 300
    for limit in (1, 74, 75, 100, 160, 300, 10**6):
        np.testing.assert_array_equal(nms(boxes, scores, class_ids, 0.9, limit), whole[:limit])


def test_boxes_apart_stay_down_to_the_limit() -> None:
    # Many classes with their best box first or last, and between them many boxes of one.
    left = 2 * np.arange(200, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 1, 0 * left + 1], axis=1)
    class_ids = np.array([*range(24), *[0] * 170, *range(24, 30)])
    for limit in range(1, 201):
        assert nms(boxes, -left, class_ids, 0.5, limit).tolist() == list(range(limit))


@pytest.mark.parametrize(
    "names", [[0, 1, 2, 3, 65535], [0, 1, 2, 3, 65536], [0, 1, 2, 3, -65536], [-1, 0, 1, 2, 2**40]]
)
def test_what_a_class_id_is_does_not_matter(names: list[int]) -> None:
    # Ids that fit are narrowed to 16 bits; those that do not must not come out as another class.
    boxes, scores, class_ids = crowded(400, 1, 20, 10**4, 5)
    renamed = np.array(names)[class_ids]
    assert nms(boxes, scores, renamed, 0.5).tolist() == nms(boxes, scores, class_ids, 0.5).tolist()


def test_a_chain_is_broken_at_every_second_box() -> None:
    # Each box suppresses only its neighbor: what stays hangs on the whole chain before it, over two blocks.
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
    again: Ints = shuffle[nms(boxes[shuffle], scores[shuffle], class_ids[shuffle], 0.5)]
    assert set(again.tolist()) == kept


def test_what_stays_is_not_thinned_any_further() -> None:
    boxes, scores, class_ids = crowded(400, 5, 8, 10**4)
    kept = nms(boxes, scores, class_ids, 0.5)
    assert nms(boxes[kept], scores[kept], class_ids[kept], 0.5).tolist() == list(range(len(kept)))


def test_no_box_gives_no_index() -> None:
    kept = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5, 10)
    assert kept.tolist() == []


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("classes", [1, 20])
def test_a_box_that_is_no_number_stays_and_suppresses_nothing(classes: int) -> None:
    boxes, scores, class_ids = crowded(400, 2, 20, 10**4, classes)
    boxes[::7] = np.nan
    kept = nms(boxes, scores, class_ids, 0.5).tolist()
    assert kept == slow_nms(boxes, scores, class_ids, 0.5)
    assert set(range(0, 400, 7)) <= set(kept)


def test_boxes_without_area_do_not_suppress_each_other() -> None:
    assert nms(np.ones((3, 4), np.float32), np.ones(3, np.float32), None, 0.5).tolist() == [0, 1, 2]
