"""The steps of all optimizers from `make_optimizers` equal a NumPy reference."""

import functools
from collections.abc import Callable, Sequence
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from detector.arrays import Doubles
from detector.config import Config
from detector.model.make_network import make_network
from detector.training.optimizer import make_optimizers

Array = Doubles

Update = Callable[[Array, Sequence[Array], Sequence[float]], Array]
"""A function of a weight, the gradients and the learning rates of all steps. It returns the weight after all steps."""

FRACTIONS = (0.2, 1.0, 0.7, 0.7, 0.05)
"""Learning rate of each step, as a fraction of the peak."""

DECAY = 0.5
"""Weight decay; so large that a wrong decay changes the result visibly."""


def sgd(weight: Array, gradients: Sequence[Array], rates: Sequence[float]) -> Array:
    for gradient, rate in zip(gradients, rates, strict=True):
        weight = weight - rate * gradient
    return weight


def momentum(weight: Array, gradients: Sequence[Array], rates: Sequence[float]) -> Array:
    """Update with classical momentum 0.9."""
    velocity = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        velocity = 0.9 * velocity + gradient
        weight = weight - rate * velocity
    return weight


def rmsprop(weight: Array, gradients: Sequence[Array], rates: Sequence[float]) -> Array:
    """Update with RMSProp: divide each gradient by the square root of the running mean of the squared gradients."""
    square = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        square = 0.99 * square + 0.01 * gradient**2
        weight = weight - rate * gradient / (np.sqrt(square) + 1e-8)
    return weight


def adam(weight: Array, gradients: Sequence[Array], rates: Sequence[float], decay: float = 0.0) -> Array:
    """Update with Adam, or with AdamW if `decay` is not 0.

    Divides the running mean of the gradients by the square root of the running mean of the squared gradients, both with
    bias correction.
    """
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for number, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        unbiased_mean, unbiased_square = mean / (1 - 0.9**number), square / (1 - 0.99**number)
        weight = weight * (1 - rate * decay)
        weight = weight - rate * unbiased_mean / (np.sqrt(unbiased_square) + 1e-8)
    return weight


def muon(kernel: Array, gradients: Sequence[Array], rates: Sequence[float], decay: float) -> Array:
    """Update with Muon: reshape the kernel to a matrix, and orthogonalize the step with Nesterov momentum."""
    weight = kernel.reshape(len(kernel), -1)
    rows, columns = weight.shape
    velocity = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        velocity = 0.9 * velocity + gradient.reshape(weight.shape)
        direction = orthogonal(gradient.reshape(weight.shape) + 0.9 * velocity)
        weight = weight * (1 - rate * decay) - rate * max(1, rows / columns) ** 0.5 * direction
    return weight.reshape(kernel.shape)


def orthogonal(matrix: Array) -> Array:
    """Return a matrix with the same singular vectors, in which all large singular values are near 1.

    The published iteration only multiplies and adds matrices. So the iteration applies this polynomial of odd powers to
    each singular value.
    """
    left, values, right = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    large = values > 0.02
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert (values[large] > 0.6).all()
    assert (values < 1.3).all()
    return np.asarray((left * values) @ right)


PEAKS = {"muon": 0.05, "adamw": 0.003, "adam": 0.003, "rmsprop": 0.001, "momentum": 0.02, "sgd": 0.1}

UPDATES: dict[str, tuple[Update, Update]] = {
    "muon": (functools.partial(muon, decay=DECAY), adam),
    "adamw": (functools.partial(adam, decay=DECAY), adam),
    "adam": (adam, adam),
    "rmsprop": (rmsprop, rmsprop),
    "momentum": (momentum, momentum),
    "sgd": (sgd, sgd),
}
"""Optimizer → update of convolution weights, and update of norms, biases and the last layers of the heads."""


def test_reference_has_every_optimizer() -> None:
    assert set(UPDATES) == set(PEAKS) == set(get_args(get_type_hints(Config)["optimizer"]))


@pytest.mark.parametrize("name", UPDATES)
def test_five_optimizer_steps_equal_the_reference(name: str) -> None:
    torch.manual_seed(0)
    config = Config(model="pico", optimizer=name, weight_decay=DECAY)  # type: ignore[arg-type]
    network = make_network(config, 2, np.zeros(3, np.float32), np.eye(3, dtype=np.float32)).double()
    parameters = dict(network.named_parameters())
    before = {key: parameter.detach().numpy().copy() for key, parameter in parameters.items()}
    rng = np.random.default_rng(0)
    # Gradients of all magnitudes, in which some values are exactly zero.
    gradients = {
        key: [rng.normal(size=w.shape) * (rng.random(w.shape) < 0.9) * 10 ** rng.uniform(-4, 1) for _ in FRACTIONS]
        for key, w in before.items()
    }

    optimizers = make_optimizers(network, config)
    for step, fraction in enumerate(FRACTIONS):
        for key, parameter in parameters.items():
            parameter.grad = torch.empty_like(parameter).copy_(torch.from_numpy(gradients[key][step]))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * fraction
            optimizer.step()

    kernel_update, other_update = UPDATES[name]
    for key, parameter in parameters.items():
        is_kernel = parameter.ndim == 4 and "output" not in key
        peak = 0.003 if name == "muon" and not is_kernel else PEAKS[name]
        update = kernel_update if is_kernel else other_update
        expected = update(before[key], gradients[key], [peak * fraction for fraction in FRACTIONS])
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9, atol=1e-11, err_msg=key)
