import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detector import boxes
from detector.arrays import Floats

# Multiples of 1/2, because then every product in this file is exact in float32, and results equal the references.
corners = st.integers(-60, 60).map(lambda n: n / 2)


def any_boxes(low: int = 0, high: int = 6) -> st.SearchStrategy[Floats]:
    """Return a strategy for boxes [N, 4] with `low` to `high` boxes, some without area, some with swapped corners."""
    return st.integers(low, high).flatmap(lambda n: arrays(np.float32, (n, 4), elements=corners))


def ordered(array: Floats) -> Floats:
    """Return the boxes [N, 4] with sorted corners, so that x1 <= x2 and y1 <= y2."""
    return np.sort(array.reshape(-1, 2, 2), axis=1).reshape(-1, 4)


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = width * height if width > 0 and height > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


@given(any_boxes().map(ordered), any_boxes().map(ordered))
def test_pairwise_iou_equals_a_double_loop(a: Floats, b: Floats) -> None:
    expected = [[slow_iou(box_a, box_b) for box_b in b.tolist()] for box_a in a.tolist()]
    iou = boxes.pairwise_iou(a, b)
    assert iou.shape == (len(a), len(b))
    np.testing.assert_allclose(iou, np.reshape(expected, iou.shape), rtol=1e-6)


@given(any_boxes().map(ordered), any_boxes().map(ordered), corners)
def test_iou_is_symmetric_bounded_and_translation_invariant(a: Floats, b: Floats, shift: float) -> None:
    iou = boxes.pairwise_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou, boxes.pairwise_iou(b, a).T)
    np.testing.assert_array_equal(iou, boxes.pairwise_iou(a + np.float32(shift), b + np.float32(shift)))
    np.testing.assert_array_equal(np.diag(boxes.pairwise_iou(a, a)), boxes.area(a) > 0)


@given(any_boxes())
def test_conversions_round_trip_exactly(array: Floats) -> None:
    np.testing.assert_array_equal(boxes.from_xywh(boxes.to_xywh(array)), array)
    np.testing.assert_array_equal(boxes.from_cxcywh(boxes.to_cxcywh(array)), array)


def test_conversions_accept_any_leading_shape() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for convert, invert in ((boxes.to_xywh, boxes.from_xywh), (boxes.to_cxcywh, boxes.from_cxcywh)):
        assert convert(array).shape == array.shape
        np.testing.assert_array_equal(invert(convert(array)), array)


def test_float64_input_is_rounded_only_once() -> None:
    x, width = np.random.default_rng(0).uniform(0, 1000, (2, 1000))
    zero = np.zeros_like(x)
    right = boxes.from_xywh(np.stack([x, zero, width, zero], axis=1))[:, 2]
    np.testing.assert_array_equal(right, (x + width).astype(np.float32))
    assert (right != x.astype(np.float32) + width.astype(np.float32)).any(), "the test data must show the difference"


@given(any_boxes(), st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_clipping_keeps_the_part_inside_and_is_idempotent(array: Floats, hw: tuple[int, int]) -> None:
    clipped = boxes.clip(array, hw)
    assert clipped.dtype == np.float32
    assert ((clipped >= 0) & (clipped <= np.array([hw[1], hw[0]] * 2))).all()
    np.testing.assert_array_equal(boxes.clip(clipped, hw), clipped)
    # A clipped box is the intersection of the box with the image.
    image = np.array([[0, 0, hw[1], hw[0]]], dtype=np.float32)
    array = ordered(array)
    area = boxes.area(boxes.clip(array, hw))
    union = boxes.area(array) + boxes.area(image) - area
    np.testing.assert_allclose(boxes.pairwise_iou(array, image)[:, 0], area / union, rtol=1e-6)


@pytest.mark.parametrize("box", [[-9, 2, -1, 4], [31, 2, 40, 4], [2, -9, 4, 0], [2, 20, 4, 30]])
def test_a_box_outside_the_image_is_clipped_to_zero_area(box: list[float]) -> None:
    assert boxes.area(boxes.clip(np.array([box], np.float32), (20, 30))) == 0


def test_boxes_with_swapped_corners_have_no_area_and_no_iou() -> None:
    swapped = np.array([[5, 5, 1, 1], [5, 1, 1, 5]], dtype=np.float32)
    around = np.array([[0, 0, 9, 9]], dtype=np.float32)
    assert boxes.area(swapped).tolist() == [0, 0]
    assert boxes.pairwise_iou(swapped, around).tolist() == [[0], [0]]
