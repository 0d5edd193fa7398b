"""The updates of the optimizers by hand in NumPy, against what `make_optimizers` does to a network."""

import functools
from collections.abc import Callable, Sequence
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from detector.arrays import Doubles
from detector.config import Config
from detector.model.network import GridNetwork
from detector.training.optimizer import make_optimizers

Array = Doubles

Update = Callable[[Array, Sequence[Array], Sequence[float]], Array]
"""A weight after steps with these gradients and learning rates."""

FRACTIONS = (0.2, 1.0, 0.7, 0.7, 0.05)
"""The learning rate of each step, as a share of the peak."""

DECAY = 0.5
"""Much, so that an error in it shows."""


def sgd(weight: Array, gradients: Sequence[Array], rates: Sequence[float]) -> Array:
    for gradient, rate in zip(gradients, rates, strict=True):
        weight = weight - rate * gradient
    return weight


def momentum(weight: Array, gradients: Sequence[Array], rates: Sequence[float]) -> Array:
    """The classical momentum: the speed remembers nine tenths of itself."""
    speed = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        speed = 0.9 * speed + gradient
        weight = weight - rate * speed
    return weight


def rmsprop(weight: Array, gradients: Sequence[Array], rates: Sequence[float]) -> Array:
    """Each number's gradient is divided by the root of the mean of its squares."""
    square = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        square = 0.99 * square + 0.01 * gradient**2
        weight = weight - rate * gradient / (np.sqrt(square) + 1e-8)
    return weight


def adam(weight: Array, gradients: Sequence[Array], rates: Sequence[float], decay: float = 0.0) -> Array:
    """Mean of the gradient by root of mean square, both without the zeros they began with; AdamW with a decay."""
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for number, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        unbiased_mean, unbiased_square = mean / (1 - 0.9**number), square / (1 - 0.99**number)
        weight = weight * (1 - rate * decay)
        weight = weight - rate * unbiased_mean / (np.sqrt(unbiased_square) + 1e-8)
    return weight


def muon(kernel: Array, gradients: Sequence[Array], rates: Sequence[float], decay: float) -> Array:
    """Nesterov momentum of the kernel as a matrix, made orthogonal."""
    weight = kernel.reshape(len(kernel), -1)
    rows, columns = weight.shape
    speed = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        speed = 0.9 * speed + gradient.reshape(weight.shape)
        direction = orthogonal(gradient.reshape(weight.shape) + 0.9 * speed)
        weight = weight * (1 - rate * decay) - rate * max(1, rows / columns) ** 0.5 * direction
    return weight.reshape(kernel.shape)


def orthogonal(matrix: Array) -> Array:
    """The same singular vectors, each singular value brought near one.

    The published iteration multiplies and adds matrices only, and so does to each singular value what this polynomial
    of odd powers does to a number.
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
"""What trains the weights of convolutions, and what trains the rest: norms, biases, the last layers of the heads."""


def test_the_reference_knows_every_optimizer() -> None:
    assert set(UPDATES) == set(PEAKS) == set(get_args(get_type_hints(Config)["optimizer"]))


@pytest.mark.parametrize("name", UPDATES)
def test_five_steps_of_an_optimizer_are_those_by_hand(name: str) -> None:
    torch.manual_seed(0)
    config = Config(model="pico", optimizer=name, weight_decay=DECAY)  # type: ignore[arg-type]
    network = GridNetwork(config, 2, np.zeros(3, np.float32), np.eye(3, dtype=np.float32)).double()
    parameters = dict(network.named_parameters())
    before = {key: parameter.detach().numpy().copy() for key, parameter in parameters.items()}
    rng = np.random.default_rng(0)
    # Of all sizes, and some of the numbers are exactly zero.
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

    of_kernels, of_the_rest = UPDATES[name]
    for key, parameter in parameters.items():
        is_kernel = parameter.ndim == 4 and "output" not in key
        peak = 0.003 if name == "muon" and not is_kernel else PEAKS[name]
        update = of_kernels if is_kernel else of_the_rest
        expected = update(before[key], gradients[key], [peak * fraction for fraction in FRACTIONS])
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9, atol=1e-11, err_msg=key)
