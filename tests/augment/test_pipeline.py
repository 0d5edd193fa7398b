from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import ImageArray
from detector.augment.affine import (
    AffineMatrix,
    flip_affine,
    letterbox_matrix,
    rotate_affine,
    transform_boxes,
    transform_sample,
    warp_image,
)
from detector.augment.pipeline import augment, random_crop, random_placement
from detector.config import AugmentConfig
from detector.letterbox import FILL, Letterbox
from detector.sample import Sample

HW = tuple[int, int]
sizes = st.tuples(st.integers(1, 120), st.integers(1, 120))
NO_COLOR = AugmentConfig(color_gain=0.0, brightness=0.0)
DEFAULT = AugmentConfig()
FLIPPED = AugmentConfig(flip_vertical=0.5)
ROTATED = AugmentConfig(flip_vertical=0.5, rotate=180.0, crop=0.5)
MIN_VISIBLE = AugmentConfig().min_visible
INPUT_HW = (96, 128)


def make(hw: HW, *boxes: tuple[float, float, float, float], crowd: tuple[bool, ...] = (), seed: int = 0) -> Sample:
    """Return an image of noise with boxes; their class ids count from 0."""
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
    """Return the bounding box of all pixels brighter than the padding."""
    rows, columns = np.nonzero(image.min(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def bright_object(hw: HW) -> Sample:
    """Return a black image with a white rectangle that is its object."""
    h, w = hw
    x1, y1, x2, y2 = w // 4, h // 5, w // 4 + w // 2, h // 5 + h // 2
    image = np.zeros((h, w, 3), dtype=np.uint8)
    image[y1:y2, x1:x2] = 255
    return replace(make(hw, (x1, y1, x2, y2)), image=image)


@pytest.mark.parametrize("crop", [0.0, 1.0])
@pytest.mark.parametrize("hw", [(90, 120), (121, 77), (61, 333), (301, 40)])
def test_a_placed_object_fills_its_mapped_box(hw: HW, crop: float) -> None:
    sample = bright_object(hw)
    config = replace(NO_COLOR, flip_vertical=0.5, crop=crop)
    checked = 0
    for seed in range(40):
        placed = augment(sample, INPUT_HW, config, np.random.default_rng(seed))
        if len(placed.boxes):
            # In an enlarged image, the edge of an object is blurred over as many pixels as one pixel became.
            np.testing.assert_allclose(bright_bounds(placed.image), placed.boxes[0], atol=1.5 if crop else 1)
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("crop", [0.0, 0.5])
@pytest.mark.parametrize("hw", [(90, 120), (121, 77), (200, 150)])
def test_a_rotated_rectangle_touches_all_sides_of_its_box(hw: HW, crop: float) -> None:
    sample, config = bright_object(hw), replace(NO_COLOR, rotate=180.0, crop=crop)
    unclipped = 0
    for seed in range(60):
        placed = augment(sample, INPUT_HW, config, np.random.default_rng(seed))
        for box in placed.boxes:
            bounds = np.array(bright_bounds(placed.image))
            assert (bounds[:2] >= box[:2] - 1).all()
            assert (bounds[2:] <= box[2:] + 1).all()
            if (box[:2] > 0).all() and (box[2:] < INPUT_HW[::-1]).all():
                # The tip of a sharp corner covers less than half a pixel and is not bright.
                np.testing.assert_allclose(bounds, box, atol=2)
                unclipped += 1
    assert unclipped > 10


@given(st.floats(-180, 180), sizes)
def test_a_rotated_box_bounds_its_four_rotated_corners(degrees: float, hw: HW) -> None:
    boxes = random_objects(hw, 9).boxes
    placed = random_placement(hw, INPUT_HW, FLIPPED, np.random.default_rng(9))
    mapped = transform_boxes(boxes, rotate_affine(placed, INPUT_HW, degrees))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    for (x1, y1, x2, y2), result in zip(boxes.tolist(), mapped, strict=True):
        corners = []
        for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)):
            right, down = placed @ (x, y, 1) - (64, 48)
            corners.append((64 + cos * right - sin * down, 48 + sin * right + cos * down))
        np.testing.assert_allclose(result, [*np.min(corners, axis=0), *np.max(corners, axis=0)], atol=1e-3)


def test_rotation_by_90_and_180_degrees_is_exact_and_clockwise() -> None:
    sample = make((30, 30), (1, 2, 10, 7))
    half = transform_sample(sample, rotate_affine(np.eye(2, 3), (30, 30), 180), (30, 30), MIN_VISIBLE)
    np.testing.assert_array_equal(half.image, sample.image[::-1, ::-1])
    np.testing.assert_allclose(half.boxes, [[20, 23, 29, 28]], atol=1e-4)
    quarter = transform_sample(sample, rotate_affine(np.eye(2, 3), (30, 30), 90), (30, 30), MIN_VISIBLE)
    np.testing.assert_array_equal(quarter.image, np.rot90(sample.image, -1))
    np.testing.assert_allclose(quarter.boxes, [[23, 1, 28, 10]], atol=1e-4)


def angle_of(matrix: AffineMatrix) -> float:
    return float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))


def test_rotation_angles_cover_their_range_scaled_by_strength() -> None:
    config = AugmentConfig(rotate=30.0, flip=0.0)
    for strength, limit in ((1.0, 30), (0.5, 15), (0.0, 0)):
        angles = [
            angle_of(random_placement((50, 70), INPUT_HW, config, np.random.default_rng(seed), strength))
            for seed in range(60)
        ]
        assert -limit <= min(angles) <= -0.8 * limit
        assert 0.8 * limit <= max(angles) <= limit


@given(sizes, st.floats(0, 1), st.integers(0, 10**6))
def test_a_crop_lies_in_the_image_and_fills_the_input(hw: HW, strength: float, seed: int) -> None:
    matrix = random_crop(hw, INPUT_HW, np.random.default_rng(seed), strength)
    assert matrix[0, 1] == matrix[1, 0] == 0
    for axis in (0, 1):
        image_side, input_side = hw[1 - axis], INPUT_HW[1 - axis]
        start = -matrix[axis, 2] / matrix[axis, axis]
        side = input_side / matrix[axis, axis]
        assert (1 - 0.5 * strength) * image_side - 1e-6 <= side <= image_side + 1e-6
        assert -1e-6 <= start <= image_side - side + 1e-6


def test_crop_sides_are_independent_and_cover_their_range() -> None:
    matrices = [random_crop((50, 70), INPUT_HW, np.random.default_rng(seed), 1.0) for seed in range(60)]
    sides = np.array([(128 / matrix[0, 0] / 70, 96 / matrix[1, 1] / 50) for matrix in matrices])
    assert (sides.min(axis=0) < 0.55).all()
    assert (sides.max(axis=0) > 0.95).all()
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.4


def test_a_crop_has_no_padding_except_at_the_border() -> None:
    sample = replace(make((50, 70)), image=np.full((50, 70, 3), 200, np.uint8))
    config = replace(NO_COLOR, crop=1.0)
    for seed in range(20):
        image = augment(sample, INPUT_HW, config, np.random.default_rng(seed)).image
        assert (image[3:-3, 3:-3] == 200).all()


@pytest.mark.parametrize("fraction", [0.25, 0.75])
def test_the_fraction_of_cropped_images_does_not_depend_on_strength(fraction: float) -> None:
    config = AugmentConfig(crop=fraction, scale=(1.0, 1.0), shift=0.0, flip=0.0)
    for strength in (1.0, 0.2):
        matrices = (
            random_placement((50, 70), INPUT_HW, config, np.random.default_rng(seed), strength) for seed in range(200)
        )
        cropped = [not np.allclose(matrix, letterbox_matrix((50, 70), INPUT_HW)) for matrix in matrices]
        assert abs(np.mean(cropped) - fraction) < 0.1


@given(sizes, st.integers(0, 10**6), st.floats(0, 1))
def test_placement_without_rotation_and_crop_equals_the_plain_formula(hw: HW, seed: int, strength: float) -> None:
    config, rng = FLIPPED, np.random.default_rng(seed)
    expected = letterbox_matrix(hw, INPUT_HW)
    input_wh = np.array([128.0, 96.0])
    scale = 1 + strength * (rng.uniform(*config.scale) - 1)
    shift = strength * rng.uniform(-config.shift, config.shift, size=2) * input_wh
    flips = rng.random(2) < 0.5
    expected *= scale
    expected[:, 2] += input_wh * (1 - scale) / 2 + shift
    expected = flip_affine(expected, INPUT_HW, (bool(flips[0]), bool(flips[1])))
    matrix = random_placement(hw, INPUT_HW, config, np.random.default_rng(seed), strength)
    np.testing.assert_array_equal(matrix, expected)
    boxes = random_objects(hw, 9).boxes
    corners = boxes.reshape(-1, 2, 2) * np.diag(matrix[:, :2]) + matrix[:, 2]
    ordered = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    np.testing.assert_array_equal(transform_boxes(boxes, matrix), ordered)


@given(sizes, st.integers(0, 40), st.integers(0, 10**6))
@settings(max_examples=50)
def test_augmented_boxes_are_inside_the_input_and_keep_their_classes(hw: HW, n: int, seed: int) -> None:
    sample = random_objects(hw, n)
    placed = augment(sample, INPUT_HW, ROTATED if seed % 2 else FLIPPED, np.random.default_rng(seed))
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
def test_augment_keeps_its_argument_and_is_reproducible(hw: HW, n: int, seed: int) -> None:
    sample, original = random_objects(hw, n), random_objects(hw, n)
    first, second = (augment(sample, INPUT_HW, DEFAULT, np.random.default_rng(seed)) for _ in range(2))
    assert_same(sample, original)
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


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
def test_flip_moves_boxes_and_flipping_twice_changes_nothing(flips: tuple[bool, bool]) -> None:
    sample = make((30, 41), (1, 2, 10, 7), (0, 0, 41, 30))
    identity = np.eye(2, 3)
    once = transform_sample(sample, flip_affine(identity, (30, 41), flips), (30, 41), MIN_VISIBLE)
    np.testing.assert_array_equal(once.image, sample.image[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1])
    x1, x2 = (31, 40) if flips[0] else (1, 10)
    y1, y2 = (23, 28) if flips[1] else (2, 7)
    assert once.boxes.tolist() == [[x1, y1, x2, y2], [0, 0, 41, 30]]
    assert_same(transform_sample(once, flip_affine(identity, (30, 41), flips), (30, 41), MIN_VISIBLE), sample)
    placed = random_placement((30, 41), INPUT_HW, DEFAULT, np.random.default_rng(0))
    twice = flip_affine(flip_affine(placed, INPUT_HW, flips), INPUT_HW, flips)
    np.testing.assert_allclose(twice, placed, atol=1e-9)


@given(sizes)
def test_the_letterbox_matrix_agrees_with_letterbox(hw: HW) -> None:
    boxes = random_objects(hw, 9).boxes
    mapped = transform_boxes(boxes, letterbox_matrix(hw, INPUT_HW))
    np.testing.assert_allclose(mapped, Letterbox.fit(hw, INPUT_HW).to_input(boxes), atol=1e-3)


def test_placement_with_empty_ranges_is_the_letterbox() -> None:
    fixed = AugmentConfig(scale=(1.0, 1.0), shift=0.0, flip=0.0)
    matrix = random_placement((61, 97), INPUT_HW, fixed, np.random.default_rng(0))
    np.testing.assert_allclose(matrix, letterbox_matrix((61, 97), INPUT_HW))


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_the_flip_setting_is_the_fraction_of_flipped_images(fraction: float, expected: set[bool]) -> None:
    config = AugmentConfig(flip=fraction)
    matrices = [random_placement((50, 50), INPUT_HW, config, np.random.default_rng(seed)) for seed in range(30)]
    assert {bool(matrix[0, 0] < 0) for matrix in matrices} == expected
    assert all(matrix[1, 1] > 0 for matrix in matrices)


def test_hidden_objects_are_removed_and_visible_crowd_regions_kept() -> None:
    # Two boxes of 10 x 10 pixels with 2 columns inside the image, and one completely outside.
    boxes = ((-8.0, 0.0, 2.0, 10.0), (-8.0, 0.0, 2.0, 10.0), (-12.0, 0.0, -2.0, 10.0))
    sample = make((20, 20), *boxes, crowd=(False, True, True))
    for min_visible, expected in ((0.25, [1]), (0.15, [0, 1])):
        placed = transform_sample(sample, np.eye(2, 3), (20, 20), min_visible)
        assert placed.class_ids.tolist() == expected
        assert placed.boxes.tolist() == [[0, 0, 2, 10]] * len(expected)
        assert placed.is_crowd[-1]


def test_an_object_thinner_than_one_pixel_is_removed() -> None:
    sample = make((20, 20), (3, 3, 4, 4), (3, 3, 3.9, 9), (3, 3, 3.9, 9), crowd=(False, False, True))
    assert transform_sample(sample, np.eye(2, 3), (20, 20), MIN_VISIBLE).class_ids.tolist() == [0, 2]


def test_a_fully_visible_object_is_always_kept() -> None:
    placed = transform_sample(make((20, 20), (3, 3, 9, 9)), np.eye(2, 3), (20, 20), 1.0)
    assert len(placed.boxes) == 1


@pytest.mark.parametrize("n", [0, 500])
def test_augment_accepts_no_objects_and_many_objects(n: int) -> None:
    sample = random_objects((300, 400), n)
    fixed = replace(NO_COLOR, scale=(1.0, 1.0), shift=0.0, flip=0.0, min_visible=0.0)
    placed = augment(sample, (300, 400), fixed, np.random.default_rng(0))
    assert placed.boxes.shape == (len(placed.class_ids), 4)
    assert n * 0.9 <= len(placed.boxes) <= n


def test_an_image_of_one_pixel_is_scaled_to_the_input() -> None:
    sample = replace(make((1, 1), (0, 0, 1, 1)), image=np.full((1, 1, 3), 200, np.uint8))
    placed = augment(sample, (32, 64), replace(NO_COLOR, scale=(1.0, 1.0), shift=0.0), np.random.default_rng(0))
    assert placed.boxes.tolist() == [[16, 0, 48, 32]]
    # Colors are interpolated between the centers of neighboring pixels.
    np.testing.assert_allclose(placed.image[16, 32], 200, atol=5)
    np.testing.assert_allclose(placed.image[0, 0], FILL, atol=5)


def test_a_shift_by_whole_pixels_moves_pixels_and_leaves_padding() -> None:
    image = make((20, 30)).image
    moved = warp_image(image, np.array([[1.0, 0, 4], [0, 1, -3]]), (20, 30))
    np.testing.assert_array_equal(moved[:17, 4:], image[3:, :26])
    assert (moved[17:] == FILL).all()
    assert (moved[:, :4] == FILL).all()
