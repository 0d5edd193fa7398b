"""The class losses and their gradients equal a NumPy reference."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.arrays import Doubles
from detector.loss.criterion import quality_focal_loss, softmax_loss
from detector.model.grid import GridPredictions, make_grid

Array = Doubles

LossAndSlope = Callable[[Array, Array], tuple[Array, Array]]
"""A function of logits and targets that returns the loss and the derivative of the loss with respect to the logits."""


def logits_and_targets(seed: int, classes: int) -> tuple[Array, Array]:
    """Return logits of all magnitudes, and targets with at most one class per row; both are [40, classes]."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(40, classes)) * np.logspace(-3, 1.5, 40)[:, None]
    targets = np.zeros_like(logits)
    for row in range(0, 40, 3):
        targets[row, rng.integers(classes)] = rng.choice([1.0, rng.uniform()])
    return logits, targets


def sigmoid_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the cross-entropy of a sigmoid and the derivative of this loss with respect to the logits.

    The loss is -t ln s - (1 - t) ln(1 - s) for the target t and the score s = 1 / (1 + e^-z) of the logit z. It is
    computed with -ln s = ln(1 + e^-z) and -ln(1 - s) = ln(1 + e^z), which are exact where s is nearly 0 or 1.
    """
    loss = targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)
    return loss, scores_of(logits) - targets


def scores_of(logits: Array) -> Array:
    return np.exp(-np.logaddexp(0, -logits))


def quality_focal(logits: Array, targets: Array, power: float) -> tuple[Array, Array]:
    """Return the quality focal loss and the derivative of this loss with respect to the logits.

    The loss is |t - s|^power times the cross-entropy of the sigmoid. The derivative uses ds/dz = s (1 - s).
    """
    scores = scores_of(logits)
    entropy, entropy_slope = sigmoid_entropy(logits, targets)
    error = scores - targets
    factor = np.abs(error) ** power
    factor_slope = power * np.abs(error) ** (power - 1) * np.sign(error) * scores * (1 - scores)
    return factor * entropy, factor * entropy_slope + factor_slope * entropy


def softmax_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the cross-entropy of a softmax over C classes and a background class with logit 0, and its derivative.

    The target of the background is 1 minus the sum of the targets of the classes.

    Returns:
        The loss [N], and the derivative [N, C] of the loss with respect to the logits: probability minus target.
    """
    with_background = np.concatenate([logits, np.zeros((len(logits), 1))], axis=1)
    all_targets = np.concatenate([targets, 1 - targets.sum(axis=1, keepdims=True)], axis=1)
    largest = with_background.max(axis=1, keepdims=True)
    log_sum = largest + np.log(np.exp(with_background - largest).sum(axis=1, keepdims=True))
    log_probabilities = with_background - log_sum
    return -(all_targets * log_probabilities).sum(axis=1), (np.exp(log_probabilities) - all_targets)[:, :-1]


def loss_and_slope(function: Callable[[Tensor, Tensor], Tensor], logits: Array, targets: Array) -> tuple[Array, Array]:
    tensor = torch.from_numpy(logits).requires_grad_()
    loss = function(tensor, torch.from_numpy(targets))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert tensor.grad is not None
    return loss.detach().numpy(), tensor.grad.numpy()


def numerical_slope(function: Callable[[Array], Array], logits: Array) -> Array:
    """Return the numerical derivative of the summed loss with respect to each logit, from central differences."""
    slope = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-5
        slope[index] = (function(logits + step) - function(logits - step)).sum() / 2e-5
    return slope


def test_sigmoid_cross_entropy_and_gradient_equal_the_reference() -> None:
    logits, targets = logits_and_targets(0, 3)
    loss, slope = loss_and_slope(lambda z, t: quality_focal_loss(z, t, 0.0), logits, targets)
    expected_loss, expected_slope = sigmoid_entropy(logits, targets)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_quality_focal_loss_and_gradient_equal_the_reference(power: float) -> None:
    logits, targets = logits_and_targets(1, 3)
    loss, slope = loss_and_slope(lambda z, t: quality_focal_loss(z, t, power), logits, targets)
    expected_loss, expected_slope = quality_focal(logits, targets, power)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_softmax_cross_entropy_and_gradient_equal_the_reference(classes: int) -> None:
    logits, targets = logits_and_targets(2, classes)
    loss, slope = loss_and_slope(softmax_loss, logits, targets)
    expected_loss, expected_slope = softmax_entropy(logits, targets)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-9, atol=1e-12)


def test_softmax_of_one_class_and_background_is_a_sigmoid() -> None:
    logits, targets = logits_and_targets(3, 1)
    loss, slope = loss_and_slope(softmax_loss, logits, targets)
    expected_loss, expected_slope = sigmoid_entropy(logits, targets)
    np.testing.assert_allclose(loss, expected_loss[:, 0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        sigmoid_entropy,
        softmax_entropy,
        functools.partial(quality_focal, power=2.0),
        functools.partial(quality_focal, power=1.5),
    ],
    ids=["sigmoid", "softmax", "focal 2", "focal 1.5"],
)
def test_reference_gradient_is_the_slope_of_the_reference_loss(function: LossAndSlope) -> None:
    logits, targets = logits_and_targets(4, 3)
    expected = numerical_slope(lambda z: function(z, targets)[0], logits)
    np.testing.assert_allclose(function(logits, targets)[1], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("exclusive", [False, True])
def test_scores_are_the_probabilities_in_the_loss(exclusive: bool) -> None:
    logits, _ = logits_and_targets(5, 4)
    no_targets = np.zeros_like(logits)
    grid = make_grid((64, 32), torch.device("cpu"))
    predictions = GridPredictions(torch.from_numpy(logits)[None], torch.zeros(1, 40, 4), grid, exclusive)
    # Where all targets are 0, the derivative of either loss is the probability.
    expected = (softmax_entropy if exclusive else sigmoid_entropy)(logits, no_targets)[1]
    np.testing.assert_allclose(predictions.scores()[0].numpy(), expected, rtol=1e-9, atol=1e-12)
