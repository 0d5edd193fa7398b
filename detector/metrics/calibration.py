"""Calibration: how often detections with a certain score are right, and a map from scores to probabilities."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.arrays import Bools, Doubles, Ints
from detector.errors import LabelError
from detector.metrics.matches import Matches
from detector.score_decisions import ScoreMap
from detector.wording import UNDEFINED

BINS = 15
"""Number of bins of equal width of the expected calibration error (ECE)."""

LOWEST_SCORE = 0.05
"""Detections with lower scores do not count in the report: there are many, they are wrong, and nobody shows them."""

_SMALLEST = 1e-7
"""Scores are moved into _SMALLEST..1 - _SMALLEST before the fit, because the logits of 0 and 1 are infinite."""

_MAX_STEPS = 100
"""Largest number of steps of Newton's method; it needs about 8."""

_CONVERGED = 1e-9
"""The fit ends when the loss falls by less than this fraction."""


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error (ECE) of detections, before and after calibration.

    Attributes:
        above: only detections with a raw score above this count.
        detections: their number.
        raw: ECE of the scores, 0..1; -1: there are no detections.
        calibrated: ECE of the probabilities, 0..1; -1: there are no detections.
    """

    above: float
    detections: int
    raw: float
    calibrated: float

    def to_json(self) -> dict[str, Any]:
        """Return the errors as a dictionary that can be written as JSON."""
        return asdict(self)


def fit_score_map(scores: npt.NDArray[Any], correct: Bools) -> ScoreMap:
    """Fit a map from scores to the probability that a detection is correct.

    The map has two parameters and is fitted with Newton's method; the targets are smoothed, so that it exists also if
    the scores separate correct and wrong detections.

    Args:
        scores: [N] scores of detections, 0..1, low scores too.
        correct: [N] True for a true positive.

    Raises:
        LabelError: there are no correct or no wrong detections, or correct detections do not have higher scores.

    Source: Platt, Probabilistic Outputs for Support Vector Machines, 1999; Lin, Lin and Weng, A Note on Platt's
    Probabilistic Outputs for Support Vector Machines, 2007; on the logits of the scores.
    """
    right = int(correct.sum())
    wrong = len(correct) - right
    if not right or not wrong:
        kind = "correct" if not right else "wrong"
        raise LabelError(f"calibration: val has no {kind} detections; more images in val are needed")
    clipped = np.clip(scores.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    inputs = np.stack([np.log(clipped) - np.log1p(-clipped), np.ones(len(clipped))], axis=1)
    targets = np.where(correct, (right + 1) / (right + 2), 1 / (wrong + 2))
    slope, intercept = _logistic_regression(inputs, targets).tolist()
    if slope <= 0:
        raise LabelError("calibration: on val, correct detections do not have higher scores than wrong ones")
    return ScoreMap(slope, intercept)


def _logistic_regression(inputs: Doubles, targets: Doubles) -> Doubles:
    """Return the weights [K] that minimize the cross-entropy of N targets in 0..1, for inputs [N, K]."""

    def loss_of(weights: Doubles) -> float:
        """Return the cross-entropy."""
        logits = inputs @ weights
        return float(np.logaddexp(0, logits).sum() - targets @ logits)

    weights = np.zeros(inputs.shape[1])
    loss = loss_of(weights)
    for _ in range(_MAX_STEPS):
        probability = 1 / (1 + np.exp(-inputs @ weights))
        curvature = (inputs.T * np.maximum(probability * (1 - probability), 1e-12)) @ inputs
        step = np.linalg.lstsq(curvature, inputs.T @ (targets - probability), rcond=None)[0]
        while (new := loss_of(weights + step)) > loss and np.abs(step).max() > _SMALLEST:
            step /= 2  # Newton's method may overshoot
        if new > loss:
            break
        weights, before, loss = weights + step, loss, new
        if before - loss <= _CONVERGED * loss:
            break
    return weights


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """How well scores, or probabilities, agree with how often detections are correct, in B bins of equal width.

    Attributes:
        edges: [B + 1] limits of the bins, 0..1.
        counts: [B] number of detections in each bin.
        confidence: [B] mean score of the detections in each bin; -1: there are none.
        precision: [B] fraction of them that are correct; -1: there are none.
        ece: expected calibration error: mean distance of both, weighted with the counts; -1: there are no detections.
    """

    edges: Doubles
    counts: Ints
    confidence: Doubles
    precision: Doubles
    ece: float


def calibration_curve(scores: npt.NDArray[Any], correct: Bools) -> CalibrationCurve:
    """Return how well scores, or probabilities, agree with how often detections are correct.

    Args:
        scores: [N] scores or probabilities, 0..1.
        correct: [N] True for a true positive.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017; Küppers et al., Multivariate Confidence
    Calibration for Object Detection, 2020.
    """
    exact = scores.astype(np.float64)
    index = np.minimum((exact * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    confidence, precision = (
        np.divide(np.bincount(index, values, BINS), counts, out=np.full(BINS, float(UNDEFINED)), where=counts > 0)
        for values in (exact, correct.astype(np.float64))
    )
    ece = float((counts * np.abs(confidence - precision)).sum() / len(exact)) if len(exact) else float(UNDEFINED)
    return CalibrationCurve(np.linspace(0, 1, BINS + 1), counts, confidence, precision, ece)


def calibration_of_matches(matches: Matches) -> CalibrationCurve | None:
    """Return the calibration curve at the lowest IoU threshold of matches; None: a score is outside 0..1.

    Detections with a score below `LOWEST_SCORE` and those that are ignored do not count.
    """
    if len(matches.scores) and not 0 <= matches.scores.min() <= matches.scores.max() <= 1:
        return None
    counted = ~matches.ignored[0, 0] & (matches.scores >= LOWEST_SCORE)
    return calibration_curve(matches.scores[counted], matches.true_positive[0, 0, counted])


def calibration_error(scores: npt.NDArray[Any], correct: Bools, score_map: ScoreMap, above: float) -> CalibrationError:
    """Return the ECE of detections before and after calibration.

    Args:
        scores: [N] raw scores.
        correct: [N] True for a true positive.
        score_map: the map.
        above: only detections with a higher raw score count.
    """
    own = scores > above
    scores, correct = scores[own].astype(np.float32), correct[own]
    return CalibrationError(
        above=above,
        detections=len(scores),
        raw=calibration_curve(scores, correct).ece,
        calibrated=calibration_curve(score_map.apply(scores), correct).ece,
    )
