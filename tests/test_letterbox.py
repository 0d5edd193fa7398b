import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detector.arrays import Floats, ImageArray
from detector.letterbox import FILL, Letterbox

HW = tuple[int, int]
image_sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
input_sizes = st.tuples(*[st.integers(1, 20).map(lambda n: 32 * n)] * 2)


def bright_bounds(image: ImageArray) -> list[int]:
    """The smallest box around all pixels brighter than the fill."""
    rows, columns = np.nonzero(image.min(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(image_sizes, input_sizes)
@example((1, 3000), (32, 640))
@example((3000, 1), (32, 640))
def test_boxes_come_back_to_where_they_were(image_hw: HW, input_hw: HW) -> None:
    h, w = image_hw
    there = np.array([[0, 0, w, h], [w / 3, h / 7, w / 2, h / 5], [w - 1, h - 1, w, h]], dtype=np.float32)
    letterbox = Letterbox.fit(image_hw, input_hw)
    np.testing.assert_allclose(letterbox.to_image(letterbox.to_input(there)), there, atol=0.02)


@given(image_sizes, input_sizes)
def test_the_image_is_placed_as_large_as_fits_in_the_middle(image_hw: HW, input_hw: HW) -> None:
    letterbox = Letterbox.fit(image_hw, input_hw)
    scale = min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])
    assert any(inner == side for inner, side in zip(letterbox.scaled_hw, input_hw, strict=True))
    for axis in (0, 1):
        inner, offset = letterbox.scaled_hw[axis], letterbox.offset_xy[1 - axis]
        before, behind = offset, input_hw[axis] - inner - offset
        assert 0 <= before <= behind <= before + 1
        assert inner == 1 or abs(inner - image_hw[axis] * scale) <= 0.5 + 1e-6
    h, w = image_hw
    left, top = letterbox.offset_xy
    inner_h, inner_w = letterbox.scaled_hw
    whole: Floats = letterbox.to_input(np.array([[0, 0, w, h]], dtype=np.float32))
    np.testing.assert_allclose(whole, [[left, top, left + inner_w, top + inner_h]], atol=1e-3)


@pytest.mark.parametrize(
    ("image_hw", "input_hw"),
    [
        ((480, 640), (256, 320)),  # down
        ((61, 97), (128, 160)),  # up, odd
        ((97, 61), (160, 128)),
        ((333, 501), (320, 320)),
        ((500, 77), (320, 320)),
        ((128, 160), (128, 160)),  # as it is
        ((128, 100), (128, 160)),
    ],
)
def test_what_is_bright_on_the_canvas_lies_in_the_mapped_box(image_hw: HW, input_hw: HW) -> None:
    h, w = image_hw
    x1, y1, x2, y2 = w // 4, h // 5, w // 4 + w // 3, h // 5 + h // 2
    image = np.zeros((h, w, 3), dtype=np.uint8)
    image[y1:y2, x1:x2] = 255
    letterbox = Letterbox.fit(image_hw, input_hw)
    letterboxed = letterbox.apply(image)
    assert letterboxed.shape == (*input_hw, 3)
    assert letterboxed.dtype == np.uint8
    box = letterbox.to_input(np.array([[x1, y1, x2, y2]], dtype=np.float32))[0]
    np.testing.assert_allclose(bright_bounds(letterboxed), box, atol=1)


@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.integers(0, 255))
@settings(max_examples=30)
def test_one_color_stays_that_color_with_gray_around(image_hw: HW, level: int) -> None:
    letterbox = Letterbox.fit(image_hw, (64, 96))
    letterboxed = letterbox.apply(np.full((*image_hw, 3), level, dtype=np.uint8))
    (left, top), (inner_h, inner_w) = letterbox.offset_xy, letterbox.scaled_hw
    expected = np.full((64, 96, 3), FILL)
    expected[top : top + inner_h, left : left + inner_w] = level
    np.testing.assert_array_equal(letterboxed, expected)


def test_a_image_as_large_as_the_canvas_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Letterbox.fit((64, 96), (64, 96)).apply(image), image)


def test_boxes_on_the_gray_come_back_clipped_to_the_image() -> None:
    letterbox = Letterbox.fit((50, 100), (96, 96))  # gray above and below
    boxes = np.array([[-5, 0, 200, 96], [0, 0, 96, 5]], dtype=np.float32)
    assert letterbox.to_image(boxes).tolist() == [[0, 0, 100, 50], [0, 0, 100, 0]]


def test_no_box_is_fine_in_both_directions() -> None:
    letterbox, none = Letterbox.fit((7, 9), (32, 32)), np.zeros((0, 4), dtype=np.float32)
    assert letterbox.to_input(none).shape == letterbox.to_image(none).shape == (0, 4)
