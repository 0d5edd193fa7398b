from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose.label_shift import diagnose_label_shift, edge_profiles, symmetry_center


@pytest.fixture(scope="module")
def split() -> Split:
    """Return the first 36 scenes of val; each image is rendered only once."""
    full = scenes.read_split("val")
    first = full.annotations[:36]
    images = {annotation.image_id: full.read_image(annotation) for annotation in first}
    return replace(full, annotations=first, read_image=lambda annotation: images[annotation.image_id])


def shift_boxes(split: Split, right: float, down: float) -> Split:
    shift = np.array([right, down] * 2, dtype=np.float32)
    size = np.array([480, 384] * 2, dtype=np.float32)
    shifted = [replace(a, boxes=np.clip(a.boxes + shift, 0, size)) for a in split.annotations]
    return replace(split, annotations=tuple(shifted))


@pytest.mark.parametrize(("right", "down"), [(0, 0), (6, 0), (0, -6), (-12, 12), (12, 0)])
def test_common_shift_of_boxes_is_measured(split: Split, right: int, down: int) -> None:
    finding = diagnose_label_shift(shift_boxes(split, right, down))
    assert finding.verdict == ("look" if right or down else "ok"), finding
    # Shifts are measured in pixels of an image that is 640 pixels wide; these images are 480 pixels wide.
    measured = [float(text) for text in finding.measured.split() if text[0] in "+-"]
    np.testing.assert_allclose(measured, [right * 640 / 480, down * 640 / 480], atol=1.5)


@pytest.mark.parametrize("margin", [-3, 6])
def test_too_tight_or_too_wide_boxes_are_not_shifted(split: Split, margin: float) -> None:
    change = np.array([-margin, -margin, margin, margin], dtype=np.float32)
    resized = [replace(a, boxes=a.boxes + change) for a in split.annotations]
    assert diagnose_label_shift(replace(split, annotations=tuple(resized))).verdict == "ok"


def test_objects_without_edges_are_no_fault(split: Split) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (384, 480, 3), dtype=np.uint8)
    finding = diagnose_label_shift(replace(split, read_image=lambda annotation: noise))
    assert finding.verdict == "ok"
    assert "no clear image edges" in finding.measured


def test_too_few_objects_have_no_measurable_shift(split: Split) -> None:
    shifted = shift_boxes(split, 12, 0)
    finding = diagnose_label_shift(replace(shifted, annotations=shifted.annotations[:3]))
    assert finding.verdict == "ok"
    assert "too few" in finding.measured


@given(st.integers(-12, 12), st.integers(0, 2**32))
@settings(max_examples=30)
def test_symmetry_center_is_the_axis_of_mirror_images(center: int, seed: int) -> None:
    # The two random, smooth profiles are mirror images of each other; the axis is at `center`.
    offsets = np.arange(-24, 25) - center
    rng = np.random.default_rng(seed)
    curve = np.cumsum(rng.normal(size=200))
    left = np.interp(offsets, np.arange(-100, 100), curve)
    right = np.interp(-offsets, np.arange(-100, 100), curve)
    assert symmetry_center(np.stack([left, right])[None].astype(np.float32)) == center


def test_edge_profiles_average_over_the_sides_of_boxes() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (70, 120), dtype=np.uint8)
    boxes = np.array([[40, 10, 60, 50], [5, 10, 60, 50], [40, 10, 110, 50], [40, 10, 44, 50]], dtype=np.float32)
    (profile,) = edge_profiles(gray, boxes)  # the other boxes are too close to the border, or too small
    for side, x in enumerate((40, 60)):
        expected = [
            np.mean([abs(int(gray[y, x + d]) - int(gray[y, x + d - 1])) for y in range(10, 50)]) for d in range(-24, 25)
        ]
        np.testing.assert_allclose(profile[side] / profile[side].sum(), expected / np.sum(expected), rtol=1e-4)
