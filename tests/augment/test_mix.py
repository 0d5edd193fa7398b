from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import Floats, ImageArray
from detector.augment.mix import copy_paste, mixup, style_shift
from detector.config import AugmentConfig
from detector.sample import Sample

HW = tuple[int, int]
NO_COLOR = AugmentConfig(color_gain=0.0, brightness=0.0)
DEFAULT = AugmentConfig()
INPUT_HW = (96, 128)
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))
EVEN = np.ones(len(COLORS))
Box = tuple[float, float, float, float]


def make(hw: HW, *boxes: Box, crowd: bool = False, first_class: int = 0, level: int = 0) -> Sample:
    """Return a gray image in which each object is a rectangle in the color of its class."""
    image = np.full((*hw, 3), level, dtype=np.uint8)
    ids = np.arange(first_class, first_class + len(boxes), dtype=np.int64)
    for class_id, (x1, y1, x2, y2) in zip(ids, boxes, strict=True):
        image[int(y1) : int(y2), int(x1) : int(x2)] = COLORS[class_id]
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Sample(image, corners, ids, np.full(len(ids), crowd), 7 + first_class)


def bounds_of_color(image: ImageArray, class_id: int) -> Floats:
    """Return the bounding box [4] of the pixels in the color of a class."""
    rows, columns = np.nonzero(((image > 127) == (np.array(COLORS[class_id]) > 127)).all(axis=2))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float32)


def assert_same(a: Sample, b: Sample) -> None:
    for field in ("image", "boxes", "class_ids", "is_crowd", "image_id"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def paste(sample: Sample, donor: Sample, seed: int, config: AugmentConfig = NO_COLOR) -> Sample:
    return copy_paste(sample, donor, EVEN, config, np.random.default_rng(seed))


@pytest.mark.parametrize("donor_hw", [INPUT_HW, (192, 256), (60, 100), (144, 100)])
def test_pasted_objects_lie_in_their_boxes_at_letterbox_scale(donor_hw: HW) -> None:
    sample = make(INPUT_HW, (4, 4, 30, 30))
    h, w = donor_hw
    donor = make(donor_hw, (2, 3, 2 + w // 5, 3 + h // 7), (w // 2, h // 3, w - 4, h - 20), first_class=1)
    scale = min(96 / h, 128 / w)
    counts = set()
    for seed in range(40):
        mixed = paste(sample, donor, seed)
        counts.add(len(mixed.boxes))
        assert mixed.image_id == sample.image_id
        assert mixed.class_ids[0] == 0
        assert len(set(mixed.class_ids.tolist())) == len(mixed.boxes)
        for box, class_id in list(zip(mixed.boxes, mixed.class_ids, strict=True))[1:]:
            # A pasted object may cover the corner of another one, so that part of it is hidden.
            bounds = bounds_of_color(mixed.image, class_id)
            assert (bounds[:2] >= box[:2] - 1).all()
            assert (bounds[2:] <= box[2:] + 1).all()
            if class_id == mixed.class_ids[-1]:
                np.testing.assert_allclose(bounds, box, atol=1)
            original = donor.boxes[class_id - 1]
            np.testing.assert_allclose(box[2:] - box[:2], (original[2:] - original[:2]) * scale, atol=1)
    assert counts >= {2, 3}


def test_one_to_three_objects_are_pasted_anywhere_in_the_input() -> None:
    donor = make(INPUT_HW, *((10.0 * i, 0.0, 10.0 * i + 8, 8.0) for i in range(6)))
    pasted = [paste(make(INPUT_HW), donor, seed) for seed in range(200)]
    assert {len(sample.boxes) for sample in pasted} == {1, 2, 3}
    corners = np.concatenate([sample.boxes[:, :2] for sample in pasted])
    assert (corners.min(axis=0) <= 3).all()
    assert (corners.max(axis=0) >= (117, 85)).all()


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.25, 0.8, 1.0]))
@settings(max_examples=40)
def test_pasting_covers_no_object_too_much_and_removes_no_box(seed: int, min_visible: float) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1) * (128, 96)
    sample = replace(make(INPUT_HW), boxes=corners.reshape(-1, 4).astype(np.float32), class_ids=np.arange(6))
    sample = replace(sample, is_crowd=rng.random(6) < 0.3, image=rng.integers(0, 99, (*INPUT_HW, 3), dtype=np.uint8))
    donor = make(INPUT_HW, (5, 5, 30, 25), (50, 20, 60, 50), (80, 20, 120, 60), first_class=3)
    mixed = paste(sample, donor, seed, AugmentConfig(min_visible=min_visible))
    assert_same(
        replace(mixed, image=sample.image, boxes=mixed.boxes[:6], class_ids=mixed.class_ids[:6],
                is_crowd=mixed.is_crowd[:6]),
        sample,
    )  # fmt: skip
    covered = np.zeros(INPUT_HW)
    for x1, y1, x2, y2 in mixed.boxes[6:].round().astype(int).tolist():
        covered[y1:y2, x1:x2] = 1
    assert (mixed.image[covered == 0] == sample.image[covered == 0]).all()
    for (x1, y1, x2, y2), is_crowd in zip(sample.boxes.tolist(), sample.is_crowd, strict=True):
        # Each pixel counts with the fraction of it that is inside the box.
        inside_x = np.clip(np.minimum(np.arange(128) + 1, x2) - np.maximum(np.arange(128), x1), 0, None)
        inside_y = np.clip(np.minimum(np.arange(96) + 1, y2) - np.maximum(np.arange(96), y1), 0, None)
        fraction = (np.outer(inside_y, inside_x) * covered).sum() / ((x2 - x1) * (y2 - y1))
        if not is_crowd:
            assert fraction <= min(0.3, 1 - min_visible) + 1e-4


def test_an_object_without_space_is_not_pasted() -> None:
    sample, donor = make(INPUT_HW, (10, 10, 110, 90)), make(INPUT_HW, (1, 1, 120, 90), first_class=1)
    assert_same(paste(sample, donor, 0), sample)
    # It may cover a crowd region or background.
    assert len(paste(replace(sample, is_crowd=np.array([True])), donor, 0).boxes) == 2
    assert len(paste(make(INPUT_HW), donor, 0).boxes) == 1


def test_an_object_of_the_input_size_can_be_pasted() -> None:
    mixed = paste(make(INPUT_HW), make(INPUT_HW, (0, 0, 128, 96)), 0)
    assert mixed.boxes.tolist() == [[0, 0, 128, 96]]
    assert (mixed.image[2:-2, 2:-2] == COLORS[0]).all()


def test_strength_limits_the_color_change_of_pasted_objects() -> None:
    sample, donor = (
        make(INPUT_HW),
        replace(make(INPUT_HW, (5, 5, 50, 50)), image=np.full((*INPUT_HW, 3), 100, np.uint8)),
    )
    rngs = (np.random.default_rng(seed) for seed in range(20))
    brightest = [copy_paste(sample, donor, EVEN, DEFAULT, rng, 0.1).image.max() for rng in rngs]
    assert len(set(brightest)) > 3
    assert all(95 <= level <= 105 for level in brightest)


def test_crowd_regions_and_empty_donors_are_not_pasted() -> None:
    sample = make(INPUT_HW, (4, 4, 30, 30))
    for donor in (make(INPUT_HW), make((1, 1)), make(INPUT_HW, (5, 5, 50, 50), crowd=True)):
        assert_same(paste(sample, donor, 0), sample)
    both = make(INPUT_HW, (5, 5, 50, 50), (60, 60, 80, 80), first_class=1)
    both = replace(both, is_crowd=np.array([True, False]))
    for seed in range(20):
        assert paste(sample, both, seed).class_ids.tolist() in ([0], [0, 2])


def test_other_objects_inside_the_cut_are_pasted_with_it() -> None:
    # On a table: a cup; half of a plate; a corner of a lamp; and a crowd region of crumbs that extends beyond it.
    table, cup, plate = (10.0, 10.0, 60.0, 60.0), (20.0, 20.0, 30.0, 30.0), (50.0, 30.0, 70.0, 40.0)
    lamp, crumbs = (55.0, 55.0, 75.0, 75.0), (40.0, 0.0, 100.0, 20.0)
    donor = make(INPUT_HW, table, cup, plate, lamp, crumbs)
    donor = replace(donor, is_crowd=np.arange(5) == 4)
    weights = np.array([1, 1e-12, 1e-12, 1e-12, 1])
    seeds = (copy_paste(make(INPUT_HW), donor, weights, NO_COLOR, np.random.default_rng(seed)) for seed in range(30))
    mixed = next(sample for sample in seeds if len(sample.boxes) == 4)
    assert mixed.class_ids.tolist() == [0, 1, 2, 4]
    assert mixed.is_crowd.tolist() == [False, False, False, True]
    expected = [table, cup, (50, 30, 60, 40), (40, 10, 60, 20)]
    np.testing.assert_allclose(mixed.boxes - mixed.boxes[0, [0, 1, 0, 1]], np.array(expected) - 10, atol=1e-4)


def test_class_weights_decide_which_objects_are_pasted() -> None:
    donor = make(INPUT_HW, *((10.0 * i, 0.0, 10.0 * i + 8, 8.0) for i in range(6)))
    weights = np.array([1, 1, 1, 1, 1, 995.0])
    first = [
        copy_paste(make(INPUT_HW), donor, weights, NO_COLOR, np.random.default_rng(seed)).class_ids
        for seed in range(50)
    ]
    assert sum(5 in ids for ids in first) > 45


def test_pasted_patches_are_opaque_with_blended_borders() -> None:
    donor = make(INPUT_HW, (0, 0, 20, 20), level=255)
    donor = replace(donor, image=np.full((*INPUT_HW, 3), 255, np.uint8))
    mixed = paste(make(INPUT_HW), donor, 0)
    x1, y1, x2, y2 = mixed.boxes[0].astype(int).tolist()
    patch = mixed.image[y1:y2, x1:x2, 0].astype(int)
    assert patch[10].tolist() == [85, 170, *[255] * 16, 170, 85]
    assert (np.delete(patch[:, 10], [0, 1, 18, 19]) == 255).all()
    assert mixed.image.astype(int).sum() == 3 * patch.sum()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_objects_are_opaque_in_the_middle(side: int) -> None:
    mixed = paste(make(INPUT_HW), make(INPUT_HW, (8, 8, 8 + side, 8 + side)), 0)
    x1, y1, x2, y2 = mixed.boxes[0].astype(int).tolist()
    assert (mixed.image[(y1 + y2) // 2, (x1 + x2) // 2] == COLORS[0]).all()


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_mixing_keeps_its_arguments_and_is_reproducible(seed: int) -> None:
    def arguments() -> tuple[Sample, Sample]:
        return make(INPUT_HW, (4, 4, 30, 30)), make(INPUT_HW, (5, 5, 50, 50), (60, 60, 80, 80), first_class=1, level=90)

    sample, other = arguments()
    pasted = [paste(sample, other, seed, DEFAULT) for _ in range(2)]
    blended = [mixup(sample, other, np.random.default_rng(seed)) for _ in range(2)]
    restyled = [style_shift(sample, other.image) for _ in range(2)]
    for first, second in (pasted, blended, restyled, (sample, arguments()[0]), (other, arguments()[1])):
        assert_same(first, second)


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_mixup_is_the_weighted_mean_with_the_objects_of_both(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = make(INPUT_HW, (4, 4, 30, 30), (50, 50, 90, 90))
    other = make(INPUT_HW, (20, 10, 60, 50), crowd=True, first_class=2, level=90)
    image = rng.integers(0, 256, (*INPUT_HW, 3), dtype=np.uint8)
    mixed = mixup(replace(sample, image=image), other, np.random.default_rng(seed))
    fraction = np.random.default_rng(seed).beta(8, 8)
    np.testing.assert_allclose(mixed.image, fraction * image + (1 - fraction) * other.image, atol=0.51)
    assert mixed.boxes.tolist() == [*sample.boxes.tolist(), *other.boxes.tolist()]
    assert mixed.class_ids.tolist() == [0, 1, 2]
    assert mixed.is_crowd.tolist() == [False, False, True]
    assert mixed.image_id == sample.image_id


def test_mixup_accepts_images_without_objects() -> None:
    empty, one = make(INPUT_HW, level=50), make(INPUT_HW, (4, 4, 30, 30))
    for first, second, n in ((empty, empty, 0), (empty, one, 1), (one, empty, 1)):
        assert mixup(first, second, np.random.default_rng(0)).boxes.shape == (n, 4)


def noise(hw: HW, seed: int, low: int = 0, high: int = 256) -> ImageArray:
    return np.random.default_rng(seed).integers(low, high, (*hw, 3), dtype=np.uint8)


def slow_low_frequencies(image: ImageArray) -> Floats:
    """Return the low frequencies: means of 8 x 8 cells, linearly interpolated between their centers."""
    h, w = image.shape[:2]
    means = image.reshape(8, h // 8, 8, w // 8, 3).mean(axis=(1, 3))
    at_y, at_x = ((np.arange(side) + 0.5) * 8 / side - 0.5 for side in (h, w))
    rows = [[np.interp(at_x, range(8), means[y, :, c]) for c in range(3)] for y in range(8)]
    columns = np.array(rows)  # [8, 3, W]
    return np.array([[np.interp(at_y, range(8), columns[:, c, x]) for c in range(3)] for x in range(w)]).transpose(
        2, 0, 1
    )  # fmt: skip


@pytest.mark.parametrize("levels", [(100, 150), (0, 256)])
def test_style_shift_combines_the_style_with_the_scaled_content(levels: tuple[int, int]) -> None:
    sample = replace(make((32, 48), (4, 4, 30, 30)), image=noise((32, 48), 1, 90, 160))
    style = noise((32, 48), 2, *levels)
    content, style_content = sample.image - slow_low_frequencies(sample.image), style - slow_low_frequencies(style)
    gain = np.clip(style_content.std(axis=(0, 1)) / content.std(axis=(0, 1)), 0.5, 2)
    expected = np.clip(slow_low_frequencies(style) + gain * content, 0, 255)
    shifted = style_shift(sample, style)
    np.testing.assert_allclose(shifted.image, expected, atol=0.6)
    assert_same(replace(shifted, image=sample.image), sample)


def test_an_image_as_its_own_style_changes_nothing() -> None:
    sample = replace(make(INPUT_HW, (4, 4, 30, 30)), image=noise(INPUT_HW, 1))
    assert_same(style_shift(sample, sample.image), sample)


def test_a_style_image_may_have_any_size() -> None:
    sample = replace(make(INPUT_HW), image=noise(INPUT_HW, 1))
    for hw in ((1, 1), (5, 400), (300, 200)):
        assert style_shift(sample, noise(hw, 2)).image.shape == (*INPUT_HW, 3)


def test_a_style_of_one_color_keeps_half_of_the_content() -> None:
    sample = replace(make(INPUT_HW), image=noise(INPUT_HW, 1, 60, 70))
    shifted = style_shift(sample, np.full((40, 40, 3), (200, 100, 50), np.uint8)).image
    np.testing.assert_allclose(shifted.mean(axis=(0, 1)), (200, 100, 50), atol=0.5)
    np.testing.assert_allclose(shifted.std(axis=(0, 1)), sample.image.std(axis=(0, 1)) / 2, rtol=0.1)


def test_an_image_without_content_becomes_the_style() -> None:
    style = noise(INPUT_HW, 2)
    shifted = style_shift(make(INPUT_HW, level=77), style).image
    np.testing.assert_allclose(shifted, slow_low_frequencies(style), atol=0.6)
