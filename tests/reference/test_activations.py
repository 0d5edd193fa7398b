"""The activation functions and their gradients equal a NumPy reference."""

from collections.abc import Callable
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from detector.arrays import Doubles
from detector.config import Config
from detector.model.blocks import make_activation

Array = Doubles

SLOPE = 0.25


def sigmoid(x: Array) -> Array:
    # Written with tanh, which never overflows.
    return (1 + np.tanh(x / 2)) / 2


def step(x: Array) -> Array:
    return (x > 0).astype(np.float64)


def in_ramp(x: Array) -> Array:
    return ((x > -3) & (x < 3)).astype(np.float64)


def hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda x: np.maximum(x, 0), step),
    "identity": (lambda x: x, np.ones_like),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "hard_sigmoid": (hard_sigmoid, lambda x: in_ramp(x) / 6),
    "leaky_relu": (lambda x: np.where(x > 0, x, SLOPE * x), lambda x: np.where(x > 0, 1, SLOPE)),
    "prelu": (lambda x: np.where(x > 0, x, SLOPE * x), lambda x: np.where(x > 0, 1, SLOPE)),
    "elu": (
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    ),
    "swish": (lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x)))),
    "hard_swish": (
        lambda x: x * hard_sigmoid(x),
        lambda x: np.where(in_ramp(x) > 0, x / 3 + 0.5, step(x)),
    ),
}
"""Name of an activation → function and its derivative."""


def points() -> Array:
    """Return values of all magnitudes and both signs, without 0, -3 and 3, where some functions have no derivative."""
    sizes = np.concatenate([np.logspace(-12, 2.5, 60), np.linspace(0.05, 10.05, 101), 3 + np.array([-1e-4, 1e-4])])
    sizes = sizes[np.abs(sizes - 3) > 1e-5]
    return np.concatenate([-sizes[::-1], sizes])


def build(name: str) -> torch.nn.Module:
    return make_activation(Config(activation=name, leaky_slope=SLOPE)).double()  # type: ignore[arg-type]


def test_reference_has_every_activation() -> None:
    assert set(ACTIVATIONS) == set(get_args(get_type_hints(Config)["activation"]))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_derivative_equal_the_reference(name: str) -> None:
    function, derivative = ACTIVATIONS[name]
    x = points()
    # Clones, because some activations change their input, and PyTorch does not allow that for a leaf with a gradient.
    leaf = torch.from_numpy(x).reshape(1, 1, 1, -1).clone().requires_grad_()
    y = build(name)(leaf.clone())
    np.testing.assert_allclose(y.detach().numpy().ravel(), function(x), rtol=1e-9, atol=1e-15)
    y.sum().backward()
    assert leaf.grad is not None
    # PyTorch computes the slope 1/6 of the hard sigmoid in float32 only.
    tolerance = 1e-7 if name == "hard_sigmoid" else 1e-9
    np.testing.assert_allclose(leaf.grad.numpy().ravel(), derivative(x), rtol=tolerance, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_reference_derivative_is_the_slope_of_the_function(name: str) -> None:
    function, derivative = ACTIVATIONS[name]
    width = 1e-6
    x = points()
    x = x[(np.abs(x) > 2 * width) & (np.abs(x) < 30)]
    slope = (function(x + width) - function(x - width)) / (2 * width)
    np.testing.assert_allclose(derivative(x), slope, rtol=1e-6, atol=1e-8)


def test_prelu_slope_gets_its_gradient_from_negative_values() -> None:
    module = build("prelu")
    x, gradient = points(), np.random.default_rng(0).normal(size=len(points()))
    module(torch.from_numpy(x).reshape(1, 1, 1, -1)).backward(torch.from_numpy(gradient).reshape(1, 1, 1, -1))
    [parameter] = module.parameters()
    assert parameter.grad is not None
    np.testing.assert_allclose(parameter.grad.numpy().sum(), (gradient * np.minimum(x, 0)).sum(), rtol=1e-9)
