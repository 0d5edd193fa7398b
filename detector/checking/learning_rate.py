"""The learning rate range test: increases the learning rate until the loss diverges, and suggests a learning rate."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detector.checking.progress import Progress, no_progress
from detector.config import Config
from detector.diagnose.finding import Finding
from detector.loader.batch import Batch
from detector.loss.criterion import detection_loss
from detector.model.network import GridNetwork
from detector.training.optimizer import clip_gradients, make_optimizers

_MIN_FACTOR, _MAX_FACTOR = 1e-3, 30.0
"""First and last learning rate of the test, as multiples of the peak learning rate in the settings."""

_STEPS = 60
"""Number of training steps; fewer if the loss diverges."""

_SMOOTHING = 0.8
"""Decay of the exponential moving average of the loss."""

_DIVERGENCE_RATIO = 3.0
"""The loss has diverged if it is more than this many times its lowest value."""

_MAX_FACTOR = 30
"""Largest ratio of the peak learning rate and the suggestion.

The suggestion depends on the few batches of the test: measured up to 11 on good data with the default learning rate.
"""

_MIN_DECREASE = 0.1
"""The test suggests a learning rate if the loss falls by this fraction of the first loss; less may be by chance."""


@dataclass(frozen=True)
class RangeTest:
    """Result of the range test: the loss of each step while the learning rate increases.

    Attributes:
        rates: learning rate of each step.
        losses: smoothed loss of each step.
        peak: peak learning rate in the settings.
        suggested: suggested learning rate, a tenth of the learning rate with the lowest loss.
        diverges: learning rate at which the loss exceeded three times its lowest value or was not finite; infinite if
            the loss did not diverge.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    peak: float
    suggested: float
    diverges: float


def range_test(
    network: GridNetwork, batches: Iterator[Batch], config: Config, dtype: torch.dtype, progress: Progress = no_progress
) -> RangeTest:
    """Train a copy of a network with an increasing learning rate until the loss diverges, and return the losses.

    The learning rate grows tenfold every 13 steps.

    Args:
        network: the network; is not changed.
        batches: batches of training images.
        config: settings of the optimizer and of the loss.
        dtype: floating-point type of the forward pass.
        progress: function that is called after each step, with the number of steps that are done and of all steps.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3.
    """
    network = copy.deepcopy(network).train()
    optimizers = make_optimizers(network, config)
    peak = float(optimizers[0].param_groups[0]["peak_lr"])
    rates, losses, mean = [], [], 0.0
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
        if not math.isfinite(losses[-1]) or losses[-1] > _DIVERGENCE_RATIO * min(losses):
            diverges = rates[-1]
            break
        progress(index + 1, _STEPS)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(network, config.clip_norm, config.clip_value)
        for optimizer in optimizers:
            optimizer.step()
    finite = [value if math.isfinite(value) else math.inf for value in losses]
    return RangeTest(rates, finite, peak, rates[int(np.argmin(finite))] / 10, diverges)


def diagnose_learning_rate(test: RangeTest) -> Finding:
    """Compare the peak learning rate in the settings with the result of the range test, and return a finding."""
    check = "learning: learning rate"
    expected = (
        "the loss does not diverge at the peak learning rate, which is within a factor of "
        f"{_MAX_FACTOR} of the suggestion"
    )
    divergence = f"diverges from {test.diverges:.2g} on" if math.isfinite(test.diverges) else "does not diverge"
    measured = f"peak learning rate {test.peak:g}, suggested about {test.suggested:.2g}; the loss {divergence}"
    if test.losses[0] - min(test.losses) < _MIN_DECREASE * test.losses[0]:
        # The step with the lowest loss depends on chance, and so does the suggestion.
        if test.peak >= test.diverges:
            return Finding(
                check, "stop", measured, expected, "The loss diverges at the peak learning rate: use a lower lr."
            )
        measured = (
            f"the loss hardly decreased in {len(test.rates)} steps with learning rates up to {test.rates[-1]:.2g}"
        )
        # Nothing can be concluded: the batches differ too much. The overfit test shows whether the network learns.
        return Finding(check, "ok", f"{measured}, too little to suggest a rate", expected)
    if test.peak >= test.diverges or test.peak > 100 * test.suggested:
        return Finding(
            check, "stop", measured, expected, f"The learning rate is too high: use --set lr={test.suggested:.2g}."
        )
    if not test.suggested / _MAX_FACTOR <= test.peak <= test.suggested * _MAX_FACTOR:
        return Finding(
            check, "look", measured, expected, f"The suggestion may learn faster: try --set lr={test.suggested:.2g}."
        )
    return Finding(check, "ok", measured, expected)
