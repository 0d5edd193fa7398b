"""The map from scores to probabilities, and the calibration error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.errors import LabelError
from detector.metrics.average_precision import average_precision_unchecked
from detector.metrics.calibration import calibration_curve, calibration_error, fit_score_map
from detector.score_decisions import ScoreMap


def sample(slope: float, intercept: float, count: int) -> tuple[Any, Any]:
    """Return scores and whether each is correct, with the probability of this map."""
    rng = np.random.default_rng(0)
    scores = rng.beta(0.6, 1.5, count).clip(1e-4, 1 - 1e-4).astype(np.float32)
    return scores, rng.random(count) < ScoreMap(slope, intercept).apply(scores)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (3.0, 0.5), (0.5, -2.0), (2.0, 3.0)])
def test_fit_finds_the_map_that_made_the_data(slope: float, intercept: float) -> None:
    found = fit_score_map(*sample(slope, intercept, 200_000))
    assert found.slope == pytest.approx(slope, rel=0.03)
    assert found.intercept == pytest.approx(intercept, abs=0.06)


def test_no_other_map_fits_better() -> None:
    scores, correct = sample(3, 1, 500)
    found = fit_score_map(scores, correct)
    targets = np.where(correct, (correct.sum() + 1) / (correct.sum() + 2), 1 / ((~correct).sum() + 2))

    def loss(slope: float, intercept: float) -> float:
        p = ScoreMap(slope, intercept).apply(scores).astype(np.float64).clip(1e-12, 1 - 1e-7)
        return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum())

    best = loss(found.slope, found.intercept)
    for slope in (0.95, 1, 1.05):
        for shift in (-0.05, 0, 0.05):
            assert loss(found.slope * slope, found.intercept + shift) >= best - 1e-3


def test_scores_that_separate_perfectly_have_a_map() -> None:
    assert fit_score_map(np.array([0.9, 1, 0, 0.1]), np.array([1, 1, 0, 0], bool)).slope > 0
    found = fit_score_map(np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 0, 0], bool))
    low, high = found.apply(np.array([0.1, 0.9], np.float32)).tolist()
    assert 0 < low < 0.35
    assert 0.65 < high < 1


def test_scores_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(LabelError, match="val has no wrong detections"):
        fit_score_map(np.array([0.5, 0.6]), np.array([True, True]))
    for correct in ([], [False]):
        with pytest.raises(LabelError, match="val has no correct detections"):
            fit_score_map(np.full(len(correct), 0.5), np.array(correct, bool))
    with pytest.raises(LabelError, match="do not have higher scores"):
        fit_score_map(np.array([0.9, 0.8, 0.2, 0.1]), np.array([False, False, True, True]))


def test_calibration_error_is_that_of_a_loop_over_bins() -> None:
    scores, correct = sample(2, 0, 1000)
    total = 0.0
    for index in range(15):
        own = [(p, c) for p, c in zip(scores.tolist(), correct.tolist(), strict=True) if int(p * 15) == index]
        total += abs(sum(p for p, _ in own) - sum(c for _, c in own))
    assert calibration_curve(scores, correct).ece == pytest.approx(total / 1000)
    assert calibration_curve(np.array([1.0, 1.0]), np.array([True, False])).ece == 0.5
    assert calibration_curve(np.array([]), np.array([], bool)).ece == -1


def test_calibration_lowers_the_error_on_other_data() -> None:
    scores, correct = sample(3, 0.5, 20_000)
    found = fit_score_map(scores[:10_000], correct[:10_000])
    error = calibration_error(scores[10_000:], correct[10_000:], found, 0.05)
    assert error.calibrated < 0.02 < 0.08 < error.raw
    assert error.detections == int((scores[10_000:] > np.float32(0.05)).sum())


def test_average_precision_is_the_same_after_calibration(random_coco: Callable[..., Any]) -> None:
    for seed in range(3):
        truth, rows = random_coco(seed, images=40, ties=False)
        scores = np.array([0.93 * row["score"] for row in rows], np.float32)  # near 1, probabilities are equal
        before = [row | {"score": float(score)} for row, score in zip(rows, scores, strict=True)]
        mapped = ScoreMap(3.04, 0.06).apply(scores)
        after = [row | {"score": float(score)} for row, score in zip(rows, mapped, strict=True)]
        raw, calibrated = (average_precision_unchecked(truth, some) for some in (before, after))
        assert 0 < raw.AP == pytest.approx(calibrated.AP, abs=1e-6)
