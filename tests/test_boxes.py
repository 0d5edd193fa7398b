import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detector import boxes
from detector.arrays import Floats

# Whole and half numbers: every product below is exact in float32, so references must agree to the last digit.
corners = st.integers(-60, 60).map(lambda n: n / 2)


def any_boxes(low: int = 0, high: int = 6) -> st.SearchStrategy[Floats]:
    """Boxes [N, 4], also empty ones and some with swapped corners."""
    return st.integers(low, high).flatmap(lambda n: arrays(np.float32, (n, 4), elements=corners))


def proper(some: Floats) -> Floats:
    """The same boxes with their corners in order."""
    pairs = np.sort(some.reshape(-1, 2, 2), axis=1)
    return pairs.reshape(-1, 4)


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = width * height if width > 0 and height > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


@given(any_boxes().map(proper), any_boxes().map(proper))
def test_pairwise_iou_is_that_of_the_double_loop(a: Floats, b: Floats) -> None:
    expected = [[slow_iou(one, other) for other in b.tolist()] for one in a.tolist()]
    iou = boxes.pairwise_iou(a, b)
    assert iou.shape == (len(a), len(b))
    np.testing.assert_allclose(iou, np.reshape(expected, iou.shape), rtol=1e-6)


@given(any_boxes().map(proper), any_boxes().map(proper), corners)
def test_iou_is_symmetric_bounded_and_the_same_wherever_the_boxes_lie(a: Floats, b: Floats, shift: float) -> None:
    iou = boxes.pairwise_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou, boxes.pairwise_iou(b, a).T)
    np.testing.assert_array_equal(iou, boxes.pairwise_iou(a + np.float32(shift), b + np.float32(shift)))
    np.testing.assert_array_equal(np.diag(boxes.pairwise_iou(a, a)), boxes.area(a) > 0)


@given(any_boxes())
def test_conversions_there_and_back_are_exact(some: Floats) -> None:
    np.testing.assert_array_equal(boxes.from_xywh(boxes.to_xywh(some)), some)
    np.testing.assert_array_equal(boxes.from_cxcywh(boxes.to_cxcywh(some)), some)


def test_conversions_take_any_leading_shape() -> None:
    some = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for there, back in ((boxes.to_xywh, boxes.from_xywh), (boxes.to_cxcywh, boxes.from_cxcywh)):
        assert there(some).shape == some.shape
        np.testing.assert_array_equal(back(there(some)), some)


def test_decimals_of_a_file_are_rounded_once() -> None:
    x, width = np.random.default_rng(0).uniform(0, 1000, (2, 1000))
    zero = np.zeros_like(x)
    right = boxes.from_xywh(np.stack([x, zero, width, zero], axis=1))[:, 2]
    np.testing.assert_array_equal(right, (x + width).astype(np.float32))
    assert (right != x.astype(np.float32) + width.astype(np.float32)).any(), "the numbers show nothing"


@given(any_boxes(), st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_clipping_keeps_what_lies_inside_and_does_nothing_the_second_time(some: Floats, hw: tuple[int, int]) -> None:
    clipped = boxes.clip(some, hw)
    assert clipped.dtype == np.float32
    assert ((clipped >= 0) & (clipped <= np.array([hw[1], hw[0]] * 2))).all()
    np.testing.assert_array_equal(boxes.clip(clipped, hw), clipped)
    # The share inside is the intersection with the image.
    image = np.array([[0, 0, hw[1], hw[0]]], dtype=np.float32)
    some = proper(some)
    area = boxes.area(boxes.clip(some, hw))
    union = boxes.area(some) + boxes.area(image) - area
    np.testing.assert_allclose(boxes.pairwise_iou(some, image)[:, 0], area / union, rtol=1e-6)


@pytest.mark.parametrize("box", [[-9, 2, -1, 4], [31, 2, 40, 4], [2, -9, 4, 0], [2, 20, 4, 30]])
def test_a_box_outside_the_image_is_clipped_to_no_area(box: list[float]) -> None:
    assert boxes.area(boxes.clip(np.array([box], np.float32), (20, 30))) == 0


def test_swapped_corners_have_no_area_and_no_overlap() -> None:
    swapped = np.array([[5, 5, 1, 1], [5, 1, 1, 5]], dtype=np.float32)
    around = np.array([[0, 0, 9, 9]], dtype=np.float32)
    assert boxes.area(swapped).tolist() == [0, 0]
    assert boxes.pairwise_iou(swapped, around).tolist() == [[0], [0]]
