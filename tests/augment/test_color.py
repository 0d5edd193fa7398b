import colorsys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import ImageArray
from detector.augment.color import (
    color_jitter,
    color_statistics,
    gain_jitter,
    hsv_jitter,
    pca_color_jitter,
    principal_colors,
)
from detector.config import ColorConfig
from detector.sample import Sample

NO_COLOR = ColorConfig(color_gain=0.0, brightness=0.0)
GAIN = ColorConfig(color_gain=0.3, brightness=20.0)
ALL = ColorConfig(hue=0.5, saturation=1.0, value=1.0, pca_color=0.5)
HUE_AND_SATURATION = ColorConfig(hue=0.5, saturation=1.0)
SATURATION = ColorConfig(saturation=0.9)
RAMP = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)


def sample_of(image: ImageArray) -> Sample:
    """Return a sample with one object and one crowd region."""
    boxes = np.array([[0, 0, 1, 1], [1, 0, 3, 1]], dtype=np.float32)
    return Sample(image, boxes, np.array([3, 4]), np.array([False, True]), 7)


def noise(seed: int = 0) -> Sample:
    return sample_of(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def assert_same(a: Sample, b: Sample) -> None:
    for field in ("image", "boxes", "class_ids", "is_crowd", "image_id"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_settings_of_zero_change_nothing_and_draw_no_hsv_numbers() -> None:
    assert_same(gain_jitter(noise(), NO_COLOR, np.random.default_rng(0)), noise())
    rng = np.random.default_rng(0)
    assert_same(hsv_jitter(noise(), NO_COLOR, rng), noise())
    assert rng.random() == np.random.default_rng(0).random()
    assert_same(color_jitter(noise(), ALL, np.random.default_rng(0), strength=0.0), through_hsv(noise()))


def through_hsv(sample: Sample) -> Sample:
    """Convert to HSV and back without a change, which loses a few levels by rounding."""
    converted = hsv_jitter(sample, ColorConfig(hue=1e-9), np.random.default_rng(0))
    assert np.abs(converted.image.astype(int) - sample.image).max() <= 6
    return converted


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_color_changes_keep_boxes_and_arguments_and_are_reproducible(seed: int) -> None:
    sample = noise(seed)
    principal = principal_colors(color_statistics([sample.image])[1])
    for change in (color_jitter, gain_jitter, hsv_jitter):
        first, second = (change(sample, ALL, np.random.default_rng(seed)) for _ in range(2))
        assert_same(first, second)
        assert_same(replace(first, image=sample.image), noise(seed))
    first, second = (pca_color_jitter(sample, principal, ALL, np.random.default_rng(seed)) for _ in range(2))
    assert_same(first, second)
    assert_same(replace(first, image=sample.image), noise(seed))


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_gain_is_per_channel_and_brightness_common_within_their_ranges(seed: int) -> None:
    sample = sample_of(RAMP.copy())
    shifted = gain_jitter(sample, GAIN, np.random.default_rng(seed)).image[0]
    dark, middle = shifted[0].astype(float), shifted[100].astype(float)
    assert (np.diff(shifted.astype(int), axis=0) >= 0).all()
    assert dark.max() <= 20
    # Black shows the brightness offset, unless that is negative and clipped to 0.
    assert len(set(dark)) == 1
    assert ((middle >= 70 - 20 - 1) & (middle <= 130 + 20 + 1)).all()
    brighter = gain_jitter(replace(sample, image=RAMP // 2), GAIN, np.random.default_rng(seed)).image[0]
    np.testing.assert_array_equal(brighter[::2], shifted[:128])


def test_each_channel_gets_its_own_gain() -> None:
    sample = sample_of(np.full((4, 4, 3), 100, np.uint8))
    shifted = gain_jitter(sample, ColorConfig(brightness=0.0), np.random.default_rng(0)).image
    assert len(set(shifted[0, 0].tolist())) == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_hsv_jitter_matches_the_formula(seed: int, strength: float) -> None:
    config = ColorConfig(hue=0.4, saturation=0.5, value=0.5)
    hue_shift, saturation, value = strength * np.array([0.4, 0.5, 0.5]) * np.random.default_rng(seed).uniform(-1, 1, 3)
    sample = noise(seed)
    expected = []
    for r, g, b in (sample.image.reshape(-1, 3) / 255).tolist():
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        expected.append(colorsys.hsv_to_rgb((h + hue_shift) % 1, min(1, s * (1 + saturation)), min(1, v * (1 + value))))
    shifted = hsv_jitter(sample, config, np.random.default_rng(seed), strength).image.reshape(-1, 3)
    # Hue is stored in steps of two degrees; one step changes a channel by up to 8.5 levels.
    np.testing.assert_allclose(shifted, 255 * np.array(expected), atol=10)
    assert np.abs(shifted - 255 * np.array(expected)).mean() < 2


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_hue_keeps_grays_and_saturation_keeps_the_brightest_channel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shifted = hsv_jitter(sample_of(RAMP.copy()), HUE_AND_SATURATION, rng).image
    np.testing.assert_array_equal(shifted, RAMP)
    sample = noise(seed)
    saturated = hsv_jitter(sample, SATURATION, rng).image
    np.testing.assert_allclose(saturated.max(axis=2), sample.image.max(axis=2), atol=1)


def test_hue_shift_of_half_a_circle_makes_red_cyan() -> None:
    red = sample_of(np.array([[[200, 0, 0]] * 3], dtype=np.uint8))
    config = ColorConfig(hue=0.5)
    colors = [hsv_jitter(red, config, np.random.default_rng(seed)).image[0, 0].tolist() for seed in range(60)]
    assert any(r < 20 and g > 180 and b > 180 for r, g, b in colors)
    assert all(max(color) == 200 for color in colors)


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_pca_color_is_the_sum_of_scaled_eigenvectors(strength: float) -> None:
    pixels = np.random.default_rng(0).normal(0, 30, (1000, 3)) @ np.array([[1, 0.8, 0.7], [0, 0.5, 0.4], [0, 0, 0.3]])
    covariance = np.cov(pixels.T, bias=True)
    principal = principal_colors(covariance.astype(np.float32))
    # The scaled directions reproduce the covariance, and each of them is an eigenvector.
    np.testing.assert_allclose(principal @ principal.T, covariance, rtol=1e-4)
    alpha = strength * np.random.default_rng(3).normal(0, 0.2, 3)
    color = np.zeros(3)
    for k in range(3):
        std = np.linalg.norm(principal[:, k])
        np.testing.assert_allclose(covariance @ principal[:, k], std**2 * principal[:, k], rtol=1e-3)
        color += alpha[k] * std * principal[:, k] / std
    sample = noise()
    shifted = pca_color_jitter(sample, principal, ColorConfig(pca_color=0.2), np.random.default_rng(3), strength).image
    np.testing.assert_allclose(shifted, np.clip(sample.image + color, 0, 255), atol=0.51)


def test_pca_colors_have_the_covariance_of_the_images() -> None:
    covariance = np.array([[900, 600, 300], [600, 700, 400], [300, 400, 500]], dtype=np.float32)
    principal, gray = principal_colors(covariance), sample_of(np.full((1, 3, 3), 128, np.uint8))
    rng = np.random.default_rng(0)
    shifts = [pca_color_jitter(gray, principal, ALL, rng).image[0, 0] - 128.0 for _ in range(4000)]
    np.testing.assert_allclose(np.cov(np.array(shifts).T), covariance / 4, atol=20)


@given(st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=20)
def test_color_statistics_use_every_fourth_pixel_of_each_axis(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*rng.integers(1, 30, 2), 3), dtype=np.uint8) for _ in range(n)]
    pixels = np.concatenate([image[::4, ::4].reshape(-1, 3) for image in images]).astype(np.float64)
    mean, covariance = color_statistics(images)
    expected = np.cov(pixels.T, bias=True)
    np.fill_diagonal(expected, np.maximum(np.diag(expected), 1))
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-2)
