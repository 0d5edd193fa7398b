from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import ImageArray
from detector.augment.affine import (
    Affine,
    letterbox_matrix,
    mirror_affine,
    transform,
    transform_boxes,
    turn_affine,
    warp,
)
from detector.augment.pipeline import augment, random_placement, random_window
from detector.config import Config
from detector.letterbox import FILL, Letterbox
from detector.sample import Sample

HW = tuple[int, int]
sizes = st.tuples(st.integers(1, 120), st.integers(1, 120))
PLAIN = Config(color_gain=0.0, brightness=0.0)
DEFAULT = Config()
MIRRORED = Config(flip_vertical=0.5)
TURNED = Config(flip_vertical=0.5, rotate=180.0, crop=0.5)
INPUT_HW = (96, 128)


def make(hw: HW, *boxes: tuple[float, float, float, float], crowd: tuple[bool, ...] = (), seed: int = 0) -> Sample:
    """Noise with boxes; class ids count them."""
    n = len(boxes)
    return Sample(
        image=np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8),
        boxes=np.array(boxes, dtype=np.float32).reshape(n, 4),
        class_ids=np.arange(n, dtype=np.int64),
        is_crowd=np.array(crowd or [False] * n, dtype=np.bool_),
        image_id=7,
    )


def random_objects(hw: HW, n: int) -> Sample:
    rng = np.random.default_rng(n)
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)), axis=1) * (hw[1], hw[0])
    boxes = corners.reshape(n, 4).astype(np.float32)
    return replace(make(hw), boxes=boxes, class_ids=np.arange(n), is_crowd=rng.random(n) < 0.2)


def assert_same(a: Sample, b: Sample) -> None:
    for field in ("image", "boxes", "class_ids", "is_crowd", "image_id"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def bright_bounds(image: ImageArray) -> list[int]:
    """The smallest box around all pixels brighter than the fill."""
    rows, columns = np.nonzero(image.min(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def bright_object(hw: HW) -> Sample:
    """A black image with a white rectangle that is its object."""
    h, w = hw
    x1, y1, x2, y2 = w // 4, h // 5, w // 4 + w // 2, h // 5 + h // 2
    image = np.zeros((h, w, 3), dtype=np.uint8)
    image[y1:y2, x1:x2] = 255
    return replace(make(hw, (x1, y1, x2, y2)), image=image)


@pytest.mark.parametrize("crop", [0.0, 1.0])
@pytest.mark.parametrize("hw", [(90, 120), (121, 77), (61, 333), (301, 40)])
def test_what_is_bright_lies_in_the_mapped_box_wherever_it_is_placed(hw: HW, crop: float) -> None:
    sample = bright_object(hw)
    config = replace(PLAIN, flip_vertical=0.5, crop=crop)
    seen = 0
    for seed in range(40):
        placed = augment(sample, INPUT_HW, config, np.random.default_rng(seed))
        if len(placed.boxes):
            # Of an enlarged image the rim of an object is as many pixels soft as one pixel became.
            np.testing.assert_allclose(bright_bounds(placed.image), placed.boxes[0], atol=1.5 if crop else 1)
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("crop", [0.0, 0.5])
@pytest.mark.parametrize("hw", [(90, 120), (121, 77), (200, 150)])
def test_a_turned_rectangle_lies_in_its_box_and_touches_all_sides_where_it_is_wholly_in_view(
    hw: HW, crop: float
) -> None:
    sample, config = bright_object(hw), replace(PLAIN, rotate=180.0, crop=crop)
    whole = 0
    for seed in range(60):
        placed = augment(sample, INPUT_HW, config, np.random.default_rng(seed))
        for box in placed.boxes:
            bounds = np.array(bright_bounds(placed.image))
            assert (bounds[:2] >= box[:2] - 1).all()
            assert (bounds[2:] <= box[2:] + 1).all()
            if (box[:2] > 0).all() and (box[2:] < INPUT_HW[::-1]).all():
                # A sharp corner of less than half a pixel is not bright.
                np.testing.assert_allclose(bounds, box, atol=2)
                whole += 1
    assert whole > 10


@given(st.floats(-180, 180), sizes)
def test_a_turned_box_is_the_one_around_its_four_turned_corners(degrees: float, hw: HW) -> None:
    boxes = random_objects(hw, 9).boxes
    placed = random_placement(hw, INPUT_HW, MIRRORED, np.random.default_rng(9))
    mapped = transform_boxes(boxes, turn_affine(placed, INPUT_HW, degrees))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    for (x1, y1, x2, y2), result in zip(boxes.tolist(), mapped, strict=True):
        corners = []
        for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)):
            right, down = placed @ (x, y, 1) - (64, 48)
            corners.append((64 + cos * right - sin * down, 48 + sin * right + cos * down))
        np.testing.assert_allclose(result, [*np.min(corners, axis=0), *np.max(corners, axis=0)], atol=1e-3)


def test_half_a_turn_mirrors_both_ways_and_a_quarter_of_a_square_moves_its_top_to_the_right() -> None:
    sample = make((30, 30), (1, 2, 10, 7))
    half = transform(sample, turn_affine(np.eye(2, 3), (30, 30), 180), (30, 30), PLAIN)
    np.testing.assert_array_equal(half.image, sample.image[::-1, ::-1])
    np.testing.assert_allclose(half.boxes, [[20, 23, 29, 28]], atol=1e-4)
    quarter = transform(sample, turn_affine(np.eye(2, 3), (30, 30), 90), (30, 30), PLAIN)
    np.testing.assert_array_equal(quarter.image, np.rot90(sample.image, -1))
    np.testing.assert_allclose(quarter.boxes, [[23, 1, 28, 10]], atol=1e-4)


def angle(matrix: Affine) -> float:
    return float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))


def test_turns_are_drawn_over_the_whole_range_to_both_sides_and_half_of_it_at_half_strength() -> None:
    config = Config(rotate=30.0, flip=0.0)
    for strength, reach in ((1.0, 30), (0.5, 15), (0.0, 0)):
        angles = [
            angle(random_placement((50, 70), INPUT_HW, config, np.random.default_rng(seed), strength))
            for seed in range(60)
        ]
        assert -reach <= min(angles) <= -0.8 * reach
        assert 0.8 * reach <= max(angles) <= reach


@given(sizes, st.floats(0, 1), st.integers(0, 10**6))
def test_a_window_lies_in_the_image_and_fills_the_canvas(hw: HW, strength: float, seed: int) -> None:
    matrix = random_window(hw, INPUT_HW, np.random.default_rng(seed), strength)
    assert matrix[0, 1] == matrix[1, 0] == 0
    for axis in (0, 1):
        image, letterboxed = hw[1 - axis], INPUT_HW[1 - axis]
        first = -matrix[axis, 2] / matrix[axis, axis]
        side = letterboxed / matrix[axis, axis]
        assert (1 - 0.5 * strength) * image - 1e-6 <= side <= image + 1e-6
        assert -1e-6 <= first <= image - side + 1e-6


def test_windows_have_sides_of_half_to_the_whole_image_each_drawn_on_its_own() -> None:
    matrices = [random_window((50, 70), INPUT_HW, np.random.default_rng(seed), 1.0) for seed in range(60)]
    sides = np.array([(128 / matrix[0, 0] / 70, 96 / matrix[1, 1] / 50) for matrix in matrices])
    assert (sides.min(axis=0) < 0.55).all()
    assert (sides.max(axis=0) > 0.95).all()
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.4


def test_a_crop_shows_no_gray_but_at_the_very_rim() -> None:
    sample = replace(make((50, 70)), image=np.full((50, 70, 3), 200, np.uint8))
    config = replace(PLAIN, crop=1.0)
    for seed in range(20):
        image = augment(sample, INPUT_HW, config, np.random.default_rng(seed)).image
        assert (image[3:-3, 3:-3] == 200).all()


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_share_of_cropped_images_is_kept_whatever_the_strength(fraction: float) -> None:
    config = Config(crop=fraction, scale=(1.0, 1.0), shift=0.0, flip=0.0)
    for strength in (1.0, 0.2):
        matrices = (
            random_placement((50, 70), INPUT_HW, config, np.random.default_rng(seed), strength) for seed in range(200)
        )
        cropped = [not np.allclose(matrix, letterbox_matrix((50, 70), INPUT_HW)) for matrix in matrices]
        assert abs(np.mean(cropped) - fraction) < 0.1


@given(sizes, st.integers(0, 10**6), st.floats(0, 1))
def test_without_turns_and_crops_placements_and_boxes_are_to_the_last_bit_what_they_were_before_there_were_any(
    hw: HW, seed: int, strength: float
) -> None:
    config, rng = MIRRORED, np.random.default_rng(seed)
    expected = letterbox_matrix(hw, INPUT_HW)
    input_wh = np.array([128.0, 96.0])
    scale = 1 + strength * (rng.uniform(*config.scale) - 1)
    shift = strength * rng.uniform(-config.shift, config.shift, size=2) * input_wh
    flipped = rng.random(2) < 0.5
    expected *= scale
    expected[:, 2] += input_wh * (1 - scale) / 2 + shift
    expected = mirror_affine(expected, INPUT_HW, (bool(flipped[0]), bool(flipped[1])))
    matrix = random_placement(hw, INPUT_HW, config, np.random.default_rng(seed), strength)
    np.testing.assert_array_equal(matrix, expected)
    boxes = random_objects(hw, 9).boxes
    corners = boxes.reshape(-1, 2, 2) * np.diag(matrix[:, :2]) + matrix[:, 2]
    ordered = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    np.testing.assert_array_equal(transform_boxes(boxes, matrix), ordered)


@given(sizes, st.integers(0, 40), st.integers(0, 10**6))
@settings(max_examples=50)
def test_whatever_comes_in_boxes_come_out_inside_the_canvas_with_their_classes(hw: HW, n: int, seed: int) -> None:
    sample = random_objects(hw, n)
    placed = augment(sample, INPUT_HW, TURNED if seed % 2 else MIRRORED, np.random.default_rng(seed))
    assert placed.image.shape == (*INPUT_HW, 3)
    assert placed.image.dtype == np.uint8
    assert placed.boxes.dtype == np.float32
    assert len(placed.boxes) == len(placed.class_ids) == len(placed.is_crowd) <= n
    assert ((placed.boxes >= 0) & (placed.boxes <= (128, 96, 128, 96))).all()
    assert (placed.boxes[:, 2:] > placed.boxes[:, :2]).all()
    assert (np.diff(placed.class_ids) > 0).all(), "objects keep their order"
    np.testing.assert_array_equal(placed.is_crowd, sample.is_crowd[placed.class_ids])
    assert placed.image_id == sample.image_id


@given(sizes, st.integers(0, 20), st.integers(0, 10**6))
@settings(max_examples=30)
def test_nothing_is_written_into_the_argument_and_the_same_chance_gives_the_same(hw: HW, n: int, seed: int) -> None:
    sample, same = random_objects(hw, n), random_objects(hw, n)
    first, second = (augment(sample, INPUT_HW, DEFAULT, np.random.default_rng(seed)) for _ in range(2))
    assert_same(sample, same)
    assert_same(first, second)
    assert not np.shares_memory(first.image, sample.image)


@given(st.permutations(range(12)), st.integers(0, 10**6))
@settings(max_examples=30)
def test_permuting_the_objects_permutes_the_result(order: list[int], seed: int) -> None:
    sample = random_objects((50, 70), 12)
    shuffled = replace(
        sample, boxes=sample.boxes[order], class_ids=sample.class_ids[order], is_crowd=sample.is_crowd[order]
    )
    placed, again = (augment(s, INPUT_HW, DEFAULT, np.random.default_rng(seed)) for s in (sample, shuffled))
    by_class = np.argsort(again.class_ids)
    np.testing.assert_array_equal(again.image, placed.image)
    for field in ("boxes", "class_ids", "is_crowd"):
        np.testing.assert_array_equal(getattr(again, field)[by_class], getattr(placed, field))


@pytest.mark.parametrize("mirrored", [(True, False), (False, True), (True, True)])
def test_flipping_turns_pixels_and_boxes_and_twice_is_nothing(flipped: tuple[bool, bool]) -> None:
    sample = make((30, 41), (1, 2, 10, 7), (0, 0, 41, 30))
    unmoved = np.eye(2, 3)
    once = transform(sample, mirror_affine(unmoved, (30, 41), flipped), (30, 41), PLAIN)
    np.testing.assert_array_equal(once.image, sample.image[:: -1 if flipped[1] else 1, :: -1 if flipped[0] else 1])
    x1, x2 = (31, 40) if flipped[0] else (1, 10)
    y1, y2 = (23, 28) if flipped[1] else (2, 7)
    assert once.boxes.tolist() == [[x1, y1, x2, y2], [0, 0, 41, 30]]
    assert_same(transform(once, mirror_affine(unmoved, (30, 41), flipped), (30, 41), PLAIN), sample)
    placed = random_placement((30, 41), INPUT_HW, DEFAULT, np.random.default_rng(0))
    twice = mirror_affine(mirror_affine(placed, INPUT_HW, flipped), INPUT_HW, flipped)
    np.testing.assert_allclose(twice, placed, atol=1e-9)


@given(sizes)
def test_without_chance_boxes_lie_where_the_letterbox_lays_them(hw: HW) -> None:
    boxes = random_objects(hw, 9).boxes
    mapped = transform_boxes(boxes, letterbox_matrix(hw, INPUT_HW))
    np.testing.assert_allclose(mapped, Letterbox.fit(hw, INPUT_HW).to_input(boxes), atol=1e-3)


def test_with_all_ranges_closed_the_placement_is_the_letterbox() -> None:
    still = Config(scale=(1.0, 1.0), shift=0.0, flip=0.0)
    matrix = random_placement((61, 97), INPUT_HW, still, np.random.default_rng(0))
    np.testing.assert_allclose(matrix, letterbox_matrix((61, 97), INPUT_HW))


@pytest.mark.parametrize(("share", "mirrors"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_the_share_of_mirrored_images_is_kept(fraction: float, mirrors: set[bool]) -> None:
    config = Config(flip=fraction)
    matrices = [random_placement((50, 50), INPUT_HW, config, np.random.default_rng(seed)) for seed in range(30)]
    assert {bool(matrix[0, 0] < 0) for matrix in matrices} == mirrors
    assert all(matrix[1, 1] > 0 for matrix in matrices)


def test_an_object_mostly_out_of_view_goes_and_a_crowd_region_stays() -> None:
    # 10 x 10 each, of which 2 columns stay in view; then one wholly outside.
    boxes = ((-8.0, 0.0, 2.0, 10.0), (-8.0, 0.0, 2.0, 10.0), (-12.0, 0.0, -2.0, 10.0))
    sample = make((20, 20), *boxes, crowd=(False, True, True))
    for min_visible, expected in ((0.25, [1]), (0.15, [0, 1])):
        placed = transform(sample, np.eye(2, 3), (20, 20), Config(min_visible=min_visible))
        assert placed.class_ids.tolist() == expected
        assert placed.boxes.tolist() == [[0, 0, 2, 10]] * len(expected)
        assert placed.is_crowd[-1]


def test_an_object_thinner_than_a_pixel_goes_and_one_of_a_pixel_stays() -> None:
    sample = make((20, 20), (3, 3, 4, 4), (3, 3, 3.9, 9), (3, 3, 3.9, 9), crowd=(False, False, True))
    assert transform(sample, np.eye(2, 3), (20, 20), PLAIN).class_ids.tolist() == [0, 2]


def test_an_object_wholly_in_view_stays_whatever_share_must_be_visible() -> None:
    placed = transform(make((20, 20), (3, 3, 9, 9)), np.eye(2, 3), (20, 20), Config(min_visible=1.0))
    assert len(placed.boxes) == 1


@pytest.mark.parametrize("n", [0, 500])
def test_no_object_and_many_objects_pass(n: int) -> None:
    sample = random_objects((300, 400), n)
    still = replace(PLAIN, scale=(1.0, 1.0), shift=0.0, flip=0.0, min_visible=0.0)
    placed = augment(sample, (300, 400), still, np.random.default_rng(0))
    assert placed.boxes.shape == (len(placed.class_ids), 4)
    assert n * 0.9 <= len(placed.boxes) <= n


def test_a_image_of_one_pixel_becomes_a_canvas() -> None:
    sample = replace(make((1, 1), (0, 0, 1, 1)), image=np.full((1, 1, 3), 200, np.uint8))
    placed = augment(sample, (32, 64), replace(PLAIN, scale=(1.0, 1.0), shift=0.0), np.random.default_rng(0))
    assert placed.boxes.tolist() == [[16, 0, 48, 32]]
    # Between the middle of a pixel and the middle of its neighbor colors run into each other.
    np.testing.assert_allclose(placed.image[16, 32], 200, atol=5)
    np.testing.assert_allclose(placed.image[0, 0], FILL, atol=5)


def test_a_shift_by_whole_pixels_moves_pixels_and_leaves_gray() -> None:
    image = make((20, 30)).image
    moved = warp(image, np.array([[1.0, 0, 4], [0, 1, -3]]), (20, 30))
    np.testing.assert_array_equal(moved[:17, 4:], image[3:, :26])
    assert (moved[17:] == FILL).all()
    assert (moved[:, :4] == FILL).all()
