import contextlib
import math

import numpy as np
import pytest
from faster_coco_eval import mask as coco_mask
from hypothesis import given
from hypothesis import strategies as st

from detector.data.parsing.shapes import ellipse_box, mask_box, mask_counts, rotated_box, turned
from detector.data.row_collector import RowError

SIZES = st.floats(0.5, 50)
ANGLES = st.floats(-400, 400)


@given(SIZES, SIZES, ANGLES)
def test_rotated_box_contains_exactly_its_turned_corners(width: float, height: float, degrees: float) -> None:
    corners = [(x, y) for x in (10 - width / 2, 10 + width / 2) for y in (20 - height / 2, 20 + height / 2)]
    angle = math.radians(degrees)
    xs = [10 + (x - 10) * math.cos(angle) - (y - 20) * math.sin(angle) for x, y in corners]
    ys = [20 + (x - 10) * math.sin(angle) + (y - 20) * math.cos(angle) for x, y in corners]
    assert rotated_box((10, 20), width, height, degrees) == pytest.approx((min(xs), min(ys), max(xs), max(ys)))
    assert turned(corners[1], (10, 20), degrees) == pytest.approx((xs[1], ys[1]))


@given(SIZES, SIZES, ANGLES)
def test_ellipse_box_touches_points_of_the_ellipse(radius_x: float, radius_y: float, degrees: float) -> None:
    t, angle = np.linspace(0, 2 * np.pi, 5000), np.radians(degrees)
    x, y = radius_x * np.cos(t), radius_y * np.sin(t)
    xs, ys = 10 + x * np.cos(angle) - y * np.sin(angle), 20 + x * np.sin(angle) + y * np.cos(angle)
    box = ellipse_box((10, 20), radius_x, radius_y, degrees)
    assert box == pytest.approx((xs.min(), ys.min(), xs.max(), ys.max()), abs=1e-3)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32), st.sampled_from([0.05, 0.3, 0.9]))
def test_mask_box_is_that_of_the_pixels(height: int, width: int, seed: int, fraction: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < fraction
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = mask_counts(rle["counts"].decode())
    runs = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0))  # where 0 and 1 change, column by column
    assert counts == np.diff([0, *runs, mask.size]).tolist()
    if not mask.any():
        with pytest.raises(RowError, match="the mask is empty"):
            mask_box(counts, (height, width))
        return
    ys, xs = np.nonzero(mask)
    assert mask_box(counts, (height, width)) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@given(st.text(max_size=20))
def test_damaged_counts_are_row_errors(text: str) -> None:
    with contextlib.suppress(RowError):
        counts = mask_counts(text)
        mask_box(counts, (3, 4))
        assert sum(counts) == 12
