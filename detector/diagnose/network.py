"""Findings about an untrained network: is its initial loss correct, and are its gradients correct?

The checks use one batch and a copy of the network.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from detector.config import LossConfig
from detector.diagnose.finding import Finding
from detector.loader.batch import Batch
from detector.loss.criterion import assign_targets, compute_loss
from detector.model.network import GridNetwork
from detector.wording import few_names

_FIRST_LOSS_TOLERANCE = 0.35
"""Largest relative difference between initial and theoretical class loss: logits vary a little around their bias."""

_MAX_GRADIENT_ERROR = 1e-3
"""Largest relative error of a correct gradient, in float64.

With at least one of `_STEP_SIZES`, the error of correct code is below 1e-5.
"""

_STEP_SIZES = (1e-5, 1e-7, 1e-6, 1e-4)
"""Step sizes of the central differences, tried in this order.

With a small step, rounding errors hide small gradients. A large step may cross the kink of a ReLU.
"""

_VALUES_PER_TENSOR = 3
"""Number of gradient values that are checked per parameter tensor."""


def diagnose_first_loss(network: GridNetwork, batch: Batch, config: LossConfig) -> Finding:
    """Compare the class loss before training with its theoretical value, and return a finding.

    The theoretical value is the class loss of a network whose class scores all equal their initial bias.
    """
    network = copy.deepcopy(network).train()
    with torch.no_grad():
        predictions = network(batch.images)
        targets = assign_targets(predictions, batch, config)
        terms = compute_loss(predictions, batch, targets, config)
        at_bias = predictions.at_initial_bias(config)
        theory = float(compute_loss(at_bias, batch, targets, config).parts["classes"])
    values = {name: float(part) for name, part in terms.parts.items()}
    error = abs(values["classes"] / max(theory, 1e-9) - 1)
    measured = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    expected = f"classes {theory:.2f}, which is {predictions.initial_loss_theory(config)}; no term below 0"
    if min(values.values()) < 0 or not all(map(math.isfinite, values.values())):
        advice = "A loss term is negative or not finite: check the signs and the targets in the loss."
        return Finding("network: initial loss", "stop", measured, expected, advice)
    if error > _FIRST_LOSS_TOLERANCE:
        advice = "The network does not start at its initial bias: check init, norm and the bias of the last layers."
        return Finding("network: initial loss", "stop" if error > 3 else "look", measured, expected, advice)
    return Finding("network: initial loss", "ok", measured, expected)


@dataclass(frozen=True)
class _GradientErrors:
    """Differences between the gradients of a network and numerical gradients.

    Attributes:
        errors: name of a parameter tensor → relative error of its gradient.
        without_gradient: names of the parameter tensors whose gradient is missing or all zeros.
    """

    errors: dict[str, float]
    without_gradient: list[str]


def diagnose_gradients(network: GridNetwork, batch: Batch, config: LossConfig) -> Finding:
    """Compare the gradients of back-propagation with numerical gradients in float64, and return a finding.

    Numerical gradients are central differences, at a few values of each parameter tensor. The targets of the loss are
    constant, as in back-propagation.

    Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, section 11.5.
    """
    with _one_thread():
        gradients = _measure_gradients(network, batch, config)
    worst = max(gradients.errors, key=gradients.errors.__getitem__, default="none")
    error = gradients.errors.get(worst, 0)
    measured = f"largest relative error {error:.1e} ({worst}) in {len(gradients.errors)} tensors"
    expected = f"below {_MAX_GRADIENT_ERROR:g}, and a gradient for every tensor"
    if names := gradients.without_gradient:
        measured += f"; tensors without a gradient: {few_names(names, most=3)}"
        advice = (
            "Training does not change these tensors: they are frozen (requires_grad=False), not connected to the loss, "
            "or followed by units that are all dead or zero."
        )
        return Finding("network: gradients", "stop", measured, expected, advice)
    if error > _MAX_GRADIENT_ERROR:
        advice = "The gradient of this layer does not match its forward pass: check the last changes of the layer."
        return Finding("network: gradients", "stop", measured, expected, advice)
    return Finding("network: gradients", "ok", measured, expected)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Context manager in which torch computes with one thread.

    For thousands of small computations, several threads gain nothing; if another program uses a core, they wait for
    each other, and take minutes instead of seconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measure_gradients(network: GridNetwork, batch: Batch, config: LossConfig) -> _GradientErrors:
    """Compare the gradients of a copy of the network with numerical gradients, and return the differences."""
    network = copy.deepcopy(network).double().train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    with torch.no_grad():
        targets = assign_targets(network(batch.images), batch, config)

    def loss() -> Tensor:
        return compute_loss(network(batch.images), batch, targets, config).total

    loss().backward()  # type: ignore[no-untyped-call]
    errors: dict[str, float] = {}
    without_gradient: list[str] = []
    rng = np.random.default_rng(0)
    for name, parameter in network.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            without_gradient.append(name)
            continue
        # Where the gradient is largest, the central difference has the most correct digits. One more value is random.
        flat = parameter.grad.flatten()
        chosen = {
            *flat.abs().topk(min(_VALUES_PER_TENSOR - 1, len(flat))).indices.tolist(),
            int(rng.integers(len(flat))),
        }
        errors[name] = median(_gradient_error(parameter, index, flat[index], loss) for index in chosen)
    return _GradientErrors(errors, without_gradient)


@torch.no_grad()
def _gradient_error(parameter: Tensor, index: int, gradient: Tensor, loss: Callable[[], Tensor]) -> float:
    """Return the relative error |numerical - gradient| / (|numerical| + |gradient|) for one value of a parameter.

    The step sizes are tried until the error is small enough; the result is the smallest error.

    Args:
        parameter: the parameter tensor; is changed, and restored before the function returns.
        index: index of the value in the flattened parameter tensor.
        gradient: the gradient to check, a scalar tensor.
        loss: function that computes the loss with the current parameters.
    """
    position = np.unravel_index(index, parameter.shape)
    original = parameter[position].item()
    error = math.inf
    for step in _STEP_SIZES:
        parameter[position] = original + step
        above = loss()
        parameter[position] = original - step
        numerical = (above - loss()) / (2 * step)
        error = min(error, float((numerical - gradient).abs() / (numerical.abs() + gradient.abs()).clamp(min=1e-8)))
        if error < _MAX_GRADIENT_ERROR:
            break
    parameter[position] = original
    return error
