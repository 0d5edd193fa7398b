from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.augment.mosaic import mosaic
from detector.config import AugmentConfig
from detector.sample import Sample

HW = tuple[int, int]
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
NO_COLOR = AugmentConfig(color_gain=0.0, brightness=0.0)
DEFAULT = AugmentConfig()
INPUT_HW = (160, 192)


def one_object(hw: HW, class_id: int) -> Sample:
    """Return a black image with a bright rectangle in the color of its class."""
    h, w = hw
    x1, y1, x2, y2 = w // 4, h // 4, w // 4 + w // 2, h // 4 + h // 2
    image = np.zeros((h, w, 3), dtype=np.uint8)
    image[y1:y2, x1:x2] = COLORS[class_id]
    box = np.array([[x1, y1, x2, y2]], dtype=np.float32)
    return Sample(image, box, np.array([class_id]), np.array([class_id == 3]), 10 + class_id)


def four(*hw: HW) -> list[Sample]:
    return [one_object(size, class_id) for class_id, size in enumerate(hw)]


def bounds_of_color(sample: Sample, class_id: int) -> list[int]:
    rows, columns = np.nonzero(((sample.image > 127) == (np.array(COLORS[class_id]) > 127)).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_objects_of_a_mosaic_lie_in_their_boxes() -> None:
    samples = four((90, 120), (121, 77), (61, 133), (64, 64))
    checked = 0
    for seed in range(40):
        merged = mosaic(samples, INPUT_HW, NO_COLOR, np.random.default_rng(seed))
        assert merged.image.shape == (*INPUT_HW, 3)
        assert len(set(merged.class_ids.tolist())) == len(merged.boxes) <= 4
        np.testing.assert_array_equal(merged.is_crowd, merged.class_ids == 3)
        for box, class_id in zip(merged.boxes, merged.class_ids, strict=True):
            np.testing.assert_allclose(bounds_of_color(merged, int(class_id)), box, atol=1)
            checked += 1
    assert checked > 120


def test_objects_of_rotated_parts_lie_in_their_boxes() -> None:
    samples = four((90, 120), (121, 77), (61, 133), (64, 64))
    rotated = replace(NO_COLOR, rotate=45.0, crop=0.3)
    checked = 0
    for seed in range(30):
        merged = mosaic(samples, INPUT_HW, rotated, np.random.default_rng(seed))
        for box, class_id in zip(merged.boxes, merged.class_ids, strict=True):
            bounds = np.array(bounds_of_color(merged, int(class_id)))
            assert (bounds[:2] >= box[:2] - 1).all()
            assert (bounds[2:] <= box[2:] + 1).all()
            checked += 1
    assert checked > 80


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=4, max_size=4), st.integers(0, 10**6))
@settings(max_examples=40)
def test_mosaic_accepts_images_of_any_size_and_keeps_them(sizes: list[HW], seed: int) -> None:
    samples, originals = four(*sizes), four(*sizes)
    first, second = (mosaic(samples, (32, 64), DEFAULT, np.random.default_rng(seed)) for _ in range(2))
    assert first.image.shape == (32, 64, 3)
    assert first.image_id == 10
    assert ((first.boxes >= 0) & (first.boxes <= (64, 32, 64, 32))).all()
    assert first.boxes.shape == (len(first.class_ids), 4)
    assert first.boxes.dtype == np.float32
    for a, b in [(first, second), *zip(samples, originals, strict=True)]:
        for field in ("image", "boxes", "class_ids", "is_crowd"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_the_parts_of_a_mosaic_do_not_overlap() -> None:
    # Images of one gray level each, scaled beyond their part: the result is exactly four rectangles.
    samples = [
        replace(one_object((50, 50), i), image=np.full((50, 50, 3), level, np.uint8))
        for i, level in enumerate((10, 60, 160, 220))
    ]
    large = replace(NO_COLOR, scale=(6.0, 6.0), shift=0.0)
    levels = mosaic(samples, INPUT_HW, large, np.random.default_rng(0)).image[:, :, 0].astype(int)
    split_y, split_x = int((levels[:, 0] == 10).sum()), int((levels[0] == 10).sum())
    expected = np.block([
        [np.full((split_y, split_x), 10), np.full((split_y, 192 - split_x), 60)],
        [np.full((160 - split_y, split_x), 160), np.full((160 - split_y, 192 - split_x), 220)],
    ])  # fmt: skip
    np.testing.assert_array_equal(levels, expected)
    assert 0.34 * 160 < split_y < 0.66 * 160
    assert 0.34 * 192 < split_x < 0.66 * 192


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (0, 500, 0, 1)])
def test_mosaic_accepts_images_with_no_and_with_many_objects(counts: tuple[int, ...]) -> None:
    samples = [
        replace(
            sample,
            boxes=sample.boxes.repeat(n, axis=0),
            class_ids=sample.class_ids.repeat(n),
            is_crowd=sample.is_crowd.repeat(n),
        )
        for sample, n in zip(four(*[(40, 60)] * 4), counts, strict=True)
    ]
    fixed = replace(NO_COLOR, scale=(1.0, 1.0), shift=0.0)
    merged = mosaic(samples, INPUT_HW, fixed, np.random.default_rng(0))
    assert np.bincount(merged.class_ids, minlength=4).tolist() == list(counts)
