"""The learning rate range test: finds a good learning rate by increasing it until the loss diverges."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detector.config import Config
from detector.diagnose.finding import Finding
from detector.loader.batch import Batch
from detector.loss.criterion import detection_loss
from detector.model.network import GridNetwork
from detector.training.optimizer import clip_gradients, make_optimizers

_MIN_FACTOR, _MAX_FACTOR = 1e-3, 30.0
"""Range of the test, as multiples of the peak learning rate of the settings."""

_STEPS = 60
_SMOOTHING = 0.8
_DIVERGED = 3.0
"""The loss has diverged when it is this many times its lowest value."""

_MIN_DECREASE = 0.1
"""Fraction of the first loss by which the loss must fall for the test to suggest a rate; less may be chance."""


@dataclass(frozen=True)
class RangeTest:
    """Losses while the learning rate increases from step to step.

    Attributes:
        rates: learning rate of each step.
        losses: smoothed loss of each step.
        peak: peak learning rate of the settings.
        suggested: a tenth of the rate at which the loss was lowest.
        diverges: rate at which the loss was three times its lowest value; infinite if it never was.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    peak: float
    suggested: float
    diverges: float


def range_test(
    network: GridNetwork, batches: Iterator[Batch], config: Config, dtype: torch.dtype, seconds: float
) -> RangeTest:
    """Train a copy of a network with a learning rate that grows tenfold every dozen steps, until the loss diverges.

    Args:
        network: is not changed.
        batches: of training images.
        config: optimizer and loss.
        dtype: floating-point type of the forward pass.
        seconds: time limit.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3.
    """
    network = copy.deepcopy(network).train()
    optimizers = make_optimizers(network, config)
    peak = float(optimizers[0].param_groups[0]["peak_lr"])
    rates, losses, mean = [], [], 0.0
    start = time.monotonic()
    diverges = math.inf
    for index, factor in enumerate(np.geomspace(_MIN_FACTOR, _MAX_FACTOR, _STEPS)):
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        batch = next(batches)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            predictions = network(batch.images)
        loss = detection_loss(predictions, batch, config, min_quality=0.1).total
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * float(loss.detach())
        rates.append(peak * float(factor))
        losses.append(mean / (1 - _SMOOTHING ** (index + 1)))
        if not math.isfinite(losses[-1]) or losses[-1] > _DIVERGED * min(losses):
            diverges = rates[-1]
            break
        if time.monotonic() - start > seconds:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(network, config.clip_norm, config.clip_value)
        for optimizer in optimizers:
            optimizer.step()
    finite = [value if math.isfinite(value) else math.inf for value in losses]
    return RangeTest(rates, finite, peak, rates[int(np.argmin(finite))] / 10, diverges)


def diagnose_learning_rate(test: RangeTest) -> Finding:
    """Compare the peak learning rate of the settings with the result of the range test."""
    check = "learning: learning rate"
    expected = "a peak below divergence and within a factor of 10 of the suggestion"
    divergence = f"diverges from {test.diverges:.2g}" if math.isfinite(test.diverges) else "no divergence"
    measured = f"peak {test.peak:g}; suggested about {test.suggested:.2g}, {divergence}"
    explodes = "The loss diverges at this rate"
    if test.losses[0] - min(test.losses) < _MIN_DECREASE * test.losses[0]:
        # The lowest loss is a matter of chance, and so is the suggestion.
        if test.peak >= test.diverges:
            return Finding(check, "stop", measured, expected, f"{explodes}.")
        measured = f"the loss hardly decreased, up to {test.rates[-1]:.2g} in {len(test.rates)} steps"
        advice = "Too few steps, or batches too different, to suggest a rate."
        return Finding(check, "look", measured, expected, advice)
    if test.peak >= test.diverges or test.peak > 100 * test.suggested:
        return Finding(check, "stop", measured, expected, f"{explodes}: --set lr={test.suggested:.2g}.")
    if not test.suggested / 10 <= test.peak <= test.suggested * 10:
        return Finding(check, "look", measured, expected, f"Try --set lr={test.suggested:.2g}.")
    return Finding(check, "ok", measured, expected)
