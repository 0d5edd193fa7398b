import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import Bools, Floats, Ints
from detector.ops.nms import nms

# The IoU of small boxes with integer corners equals 0, 1/4, 1/2, 3/4, 1 exactly; the other thresholds are rounded.
thresholds = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.7, 0.75, 1.0])


def slow_nms(
    boxes: Floats, scores: Floats, class_ids: Ints | None, iou_threshold: float, limit: int | None = None
) -> list[int]:
    """Textbook NMS: keep the best box, remove the boxes that overlap it, repeat."""
    remaining = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    while remaining and (limit is None or len(kept) < limit):
        best, rest = remaining[0], np.array(remaining[1:], dtype=np.int64)
        kept.append(best)
        overlaps = slow_overlaps(boxes[[best]], boxes[rest], iou_threshold)
        same_class = np.full(len(rest), True) if class_ids is None else class_ids[rest] == class_ids[best]
        remaining = rest[~(overlaps & same_class)].tolist()
    return kept


def slow_overlaps(box: Floats, boxes: Floats, iou_threshold: float) -> Bools:
    """Return a mask [N]: True where the IoU is above the threshold, in float32 and without a division."""
    width = np.minimum(box[:, 2], boxes[:, 2]) - np.maximum(box[:, 0], boxes[:, 0])
    height = np.minimum(box[:, 3], boxes[:, 3]) - np.maximum(box[:, 1], boxes[:, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    area, areas = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (box, boxes))
    above: Bools = intersection > iou_threshold * (area + areas - intersection)
    return above


def crowded(n: int, seed: int, clusters: int, levels: int, classes: int = 3) -> tuple[Floats, Floats, Ints]:
    """Return boxes [n, 4], scores [n] and class ids [n] of boxes that overlap a lot.

    The boxes have integer corners around a few centers; some are equal, some have no area. There are `levels` different
    scores. Low class ids are more frequent.
    """
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
def test_nms_equals_textbook_nms(
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
def test_nms_of_many_boxes_equals_textbook_nms(n: int, clusters: int, levels: int, classes: int) -> None:
    boxes, scores, class_ids = crowded(n, n, clusters, levels, classes)
    assert nms(boxes, scores, class_ids, 0.5).tolist() == slow_nms(boxes, scores, class_ids, 0.5)


@pytest.mark.parametrize("classes", [3, 20])
def test_a_limit_keeps_the_first_boxes_of_the_unlimited_result(classes: int) -> None:
    boxes, scores, class_ids = crowded(600, 0, 200, 10**4, classes)
    unlimited = nms(boxes, scores, class_ids, 0.9)
    assert len(unlimited) > 300
    for limit in (1, 74, 75, 100, 160, 300, 10**6):
        np.testing.assert_array_equal(nms(boxes, scores, class_ids, 0.9, limit), unlimited[:limit])


def test_separate_boxes_are_kept_up_to_the_limit() -> None:
    # Many classes whose only box comes first or last, and many boxes of one class in between.
    left = 2 * np.arange(200, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 1, 0 * left + 1], axis=1)
    class_ids = np.array([*range(24), *[0] * 170, *range(24, 30)])
    for limit in range(1, 201):
        assert nms(boxes, -left, class_ids, 0.5, limit).tolist() == list(range(limit))


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 65535], [0, 1, 2, 3, 65536], [0, 1, 2, 3, -65536], [-1, 0, 1, 2, 2**40]])
def test_the_values_of_class_ids_do_not_matter(ids: list[int]) -> None:
    # Ids that fit are converted to 16 bits; ids that do not fit must not be mixed up with other classes.
    boxes, scores, class_ids = crowded(400, 1, 20, 10**4, 5)
    replaced = np.array(ids)[class_ids]
    assert nms(boxes, scores, replaced, 0.5).tolist() == nms(boxes, scores, class_ids, 0.5).tolist()


def test_nms_of_a_chain_keeps_every_second_box() -> None:
    # Each box overlaps only its neighbors, so each decision depends on all boxes before it, across several blocks.
    left = np.arange(600, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 2, 0 * left + 1], axis=1)
    scores = np.linspace(1, 0.1, 600, dtype=np.float32)
    assert nms(boxes, scores, None, 0.3).tolist() == list(range(0, 600, 2))


def test_nms_keeps_the_order_of_equal_scores() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [0, 0, 9, 9], [40, 0, 49, 9]], dtype=np.float32)
    assert nms(boxes, np.full(4, 0.5, np.float32), None, 0.5).tolist() == [0, 1, 3]


def test_an_iou_equal_to_the_threshold_does_not_suppress() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 2]], dtype=np.float32)
    scores = np.array([0.9, 0.8], dtype=np.float32)
    assert nms(boxes, scores, None, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, None, 0.49).tolist() == [0]


def test_the_order_of_boxes_does_not_matter_if_scores_differ() -> None:
    boxes, _, class_ids = crowded(300, 3, 5, 1)
    scores = np.random.default_rng(3).permutation(np.linspace(0.1, 0.9, 300)).astype(np.float32)
    kept = set(nms(boxes, scores, class_ids, 0.5).tolist())
    shuffle = np.random.default_rng(4).permutation(300)
    again: Ints = shuffle[nms(boxes[shuffle], scores[shuffle], class_ids[shuffle], 0.5)]
    assert set(again.tolist()) == kept


def test_nms_of_kept_boxes_keeps_them_all() -> None:
    boxes, scores, class_ids = crowded(400, 5, 8, 10**4)
    kept = nms(boxes, scores, class_ids, 0.5)
    assert nms(boxes[kept], scores[kept], class_ids[kept], 0.5).tolist() == list(range(len(kept)))


def test_nms_of_no_boxes_is_empty() -> None:
    kept = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5, 10)
    assert kept.tolist() == []


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("classes", [1, 20])
def test_nan_boxes_are_kept_and_suppress_nothing(classes: int) -> None:
    boxes, scores, class_ids = crowded(400, 2, 20, 10**4, classes)
    boxes[::7] = np.nan
    kept = nms(boxes, scores, class_ids, 0.5).tolist()
    assert kept == slow_nms(boxes, scores, class_ids, 0.5)
    assert set(range(0, 400, 7)) <= set(kept)


def test_boxes_without_area_do_not_suppress_each_other() -> None:
    assert nms(np.ones((3, 4), np.float32), np.ones(3, np.float32), None, 0.5).tolist() == [0, 1, 2]
