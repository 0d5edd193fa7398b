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
    """Return the bounding box [x1, y1, x2, y2] of all pixels that are brighter than the padding."""
    rows, columns = np.nonzero(image.min(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(image_sizes, input_sizes)
@example((1, 3000), (32, 640))
@example((3000, 1), (32, 640))
def test_to_image_inverts_to_input(image_hw: HW, input_hw: HW) -> None:
    h, w = image_hw
    boxes = np.array([[0, 0, w, h], [w / 3, h / 7, w / 2, h / 5], [w - 1, h - 1, w, h]], dtype=np.float32)
    letterbox = Letterbox.fit(image_hw, input_hw)
    np.testing.assert_allclose(letterbox.to_image(letterbox.to_input(boxes)), boxes, atol=0.02)


@given(image_sizes, input_sizes)
def test_the_image_is_scaled_to_fit_and_centered(image_hw: HW, input_hw: HW) -> None:
    letterbox = Letterbox.fit(image_hw, input_hw)
    scale = min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])
    assert any(scaled == side for scaled, side in zip(letterbox.scaled_hw, input_hw, strict=True))
    for axis in (0, 1):
        scaled, offset = letterbox.scaled_hw[axis], letterbox.offset_xy[1 - axis]
        before, after = offset, input_hw[axis] - scaled - offset
        assert 0 <= before <= after <= before + 1
        assert abs(scaled - max(1, image_hw[axis] * scale)) <= 0.5 + 1e-6  # at least one pixel
    h, w = image_hw
    left, top = letterbox.offset_xy
    scaled_h, scaled_w = letterbox.scaled_hw
    full_image: Floats = letterbox.to_input(np.array([[0, 0, w, h]], dtype=np.float32))
    np.testing.assert_allclose(full_image, [[left, top, left + scaled_w, top + scaled_h]], atol=1e-3)


@pytest.mark.parametrize(
    ("image_hw", "input_hw"),
    [
        ((480, 640), (256, 320)),  # downscaled
        ((61, 97), (128, 160)),  # upscaled, odd sizes
        ((97, 61), (160, 128)),
        ((333, 501), (320, 320)),
        ((500, 77), (320, 320)),
        ((128, 160), (128, 160)),  # unchanged
        ((128, 100), (128, 160)),
    ],
)
def test_a_letterboxed_object_fills_its_mapped_box(image_hw: HW, input_hw: HW) -> None:
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
def test_letterbox_keeps_colors_and_pads_with_gray(image_hw: HW, level: int) -> None:
    letterbox = Letterbox.fit(image_hw, (64, 96))
    letterboxed = letterbox.apply(np.full((*image_hw, 3), level, dtype=np.uint8))
    (left, top), (scaled_h, scaled_w) = letterbox.offset_xy, letterbox.scaled_hw
    expected = np.full((64, 96, 3), FILL)
    expected[top : top + scaled_h, left : left + scaled_w] = level
    np.testing.assert_array_equal(letterboxed, expected)


def test_an_image_of_the_input_size_is_not_changed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Letterbox.fit((64, 96), (64, 96)).apply(image), image)


def test_boxes_on_the_padding_are_clipped_to_the_image() -> None:
    letterbox = Letterbox.fit((50, 100), (96, 96))  # padding above and below
    boxes = np.array([[-5, 0, 200, 96], [0, 0, 96, 5]], dtype=np.float32)
    assert letterbox.to_image(boxes).tolist() == [[0, 0, 100, 50], [0, 0, 100, 0]]


def test_both_directions_accept_no_boxes() -> None:
    letterbox, no_boxes = Letterbox.fit((7, 9), (32, 32)), np.zeros((0, 4), dtype=np.float32)
    assert letterbox.to_input(no_boxes).shape == letterbox.to_image(no_boxes).shape == (0, 4)
