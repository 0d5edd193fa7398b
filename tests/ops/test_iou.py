import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from detector.arrays import Floats
from detector.boxes import pairwise_iou
from detector.ops.iou import elementwise_giou, elementwise_iou

# Multiples of 1/2, so that every area is exact in float32. `ordered` sorts the corners.
box_pairs = st.integers(0, 8).flatmap(
    lambda n: arrays(np.float32, (2, n, 4), elements=st.integers(-40, 40).map(lambda n: n / 2))
)


def ordered(boxes: Floats) -> Tensor:
    """Return the boxes with their corners in order."""
    return torch.from_numpy(np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(boxes.shape))


def slow_giou(a: list[float], b: list[float]) -> float:
    """Algorithm 1 of the paper, line by line; -1, the worst value, if the enclosing box has no area."""
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = width * height if width > 0 and height > 0 else 0.0
    enclosing = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    union = area_a + area_b - intersection
    iou = intersection / union if union else 0.0
    return iou - (enclosing - union) / enclosing if enclosing else -1.0


@given(box_pairs)
def test_iou_equals_the_diagonal_of_pairwise_iou(pair: Floats) -> None:
    a, b = ordered(pair)
    expected = np.diag(pairwise_iou(a.numpy(), b.numpy())) if len(a) else np.zeros(0)
    np.testing.assert_allclose(elementwise_iou(a, b), expected, rtol=1e-6)


@given(box_pairs)
def test_giou_matches_the_paper_and_is_symmetric_and_bounded(pair: Floats) -> None:
    a, b = ordered(pair)
    giou = elementwise_giou(a, b)
    expected = [slow_giou(one, other) for one, other in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(giou, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(giou, elementwise_giou(b, a))
    assert ((giou >= -1) & (giou <= 1)).all()
    assert (giou <= elementwise_iou(a, b) + 1e-6).all()


def test_giou_is_one_for_equal_boxes_and_falls_with_distance() -> None:
    box = torch.tensor([2.0, 3.0, 10.0, 9.0])
    assert elementwise_iou(box, box) == elementwise_giou(box, box) == 1
    near, far = elementwise_giou(box, box + 20), elementwise_giou(box, box + 200)
    assert far < near < 0


def test_leading_shapes_broadcast() -> None:
    a = torch.rand(3, 1, 5, 4).cumsum(-1)
    b = torch.rand(2, 5, 4).cumsum(-1)
    for operator in (elementwise_iou, elementwise_giou):
        assert operator(a, b).shape == (3, 2, 5)
        assert torch.equal(operator(a, b)[1, 1], operator(a[1, 0], b[1]))


@pytest.mark.parametrize("other", [[5.0, 5.0, 5.0, 5.0], [9.0, 5.0, 9.0, 8.0], [0.0, 0.0, 10.0, 10.0]])
def test_boxes_without_area_have_finite_values_and_gradients(other: list[float]) -> None:
    box = torch.tensor([5.0, 5.0, 5.0, 5.0], requires_grad=True)
    for operator in (elementwise_iou, elementwise_giou):
        value = operator(box, torch.tensor(other))
        (gradient,) = torch.autograd.grad(value, box)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_the_giou_gradient_moves_boxes_without_overlap_closer() -> None:
    box = torch.tensor([0.0, 0.0, 4.0, 4.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(elementwise_giou(box, torch.tensor([10.0, 0.0, 14.0, 4.0])), box)
    assert gradient[2] > 0
