"""How settings move over a run: pure functions of the step, with nothing to save and nothing to get out of step."""

import math
from collections.abc import Callable

from detector.config import PLANNING_STEPS, Config

_MOST_WARMUP_STEPS = 300
_WARMUP_AT_PLANNING = 0.2


def learning_rate(step: int, steps: int, config: Config, steps_per_epoch: float) -> float:
    """Return the learning rate of `step` in a run of `steps` steps, as a share of the peak.

    Rises in a straight line, then falls as `config.lr_schedule` says. The first `PLANNING_STEPS` steps rise to a fifth
    of the peak whatever the length, since a run measured in minutes does not know its own yet.
    """
    if step < PLANNING_STEPS:
        return _WARMUP_AT_PLANNING * (step + 1) / PLANNING_STEPS
    warmup = min(_MOST_WARMUP_STEPS, int(config.warmup * steps))
    if step < warmup:
        done = (step + 1 - PLANNING_STEPS) / (warmup - PLANNING_STEPS)
        return _WARMUP_AT_PLANNING + (1 - _WARMUP_AT_PLANNING) * done
    return _DECAYS[config.lr_schedule](
        step + 1, steps, max(warmup, config.lr_decay_start * steps), config, steps_per_epoch
    )


def _fallen(step: int, steps: int, falls_from: float) -> float:
    """Return how far a schedule with an end has come between `falls_from` and that end, 0..1."""
    return min(1.0, max(0.0, (step - falls_from) / max(1.0, steps - falls_from)))


# Each is a function of the number of the step (from 1), of the run's steps, of the step from which the rate may fall,
# of the settings and of the steps per epoch.
_DECAYS: dict[str, Callable[[int, int, float, Config, float], float]] = {
    "linear": lambda step, steps, start, config, _: 1 + (config.final_lr - 1) * _fallen(step, steps, start),
    "cosine": lambda step, steps, start, config, _: (
        config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * _fallen(step, steps, start))) / 2
    ),
    "step": lambda step, steps, _, config, __: (
        config.lr_factor ** sum(step > fraction * steps for fraction in config.lr_milestones)
    ),
    "inverse": lambda step, _, __, config, per_epoch: 1 / (1 + config.lr_decay * step / per_epoch),
    "exponential": lambda step, _, __, config, per_epoch: config.lr_base ** (step / per_epoch),
    "root_epoch": lambda step, _, __, config, per_epoch: min(1.0, config.lr_k / math.sqrt(step / per_epoch)),
    "root_step": lambda step, _, __, config, ___: min(1.0, config.lr_k / math.sqrt(step)),
}


def ema_decay(step: int, steps: int, config: Config) -> float:
    """Return how much of the average stays at `step`: short memory at first, then `config.ema` of the run."""
    rising = (1 + step) / (10 + step)
    if config.ema == 0:
        return 0.0
    if step < PLANNING_STEPS:
        return rising
    return min(rising, max(0.0, 1 - 2 / (config.ema * steps)))


def min_quality(step: int, steps: int) -> float:
    """Return the floor of the assigner's targets: 0.1 in the first 2 % of the run, while every box is still wrong."""
    return 0.1 if step < max(PLANNING_STEPS, 0.02 * steps) else 0.0


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Return after which steps the run is evaluated: evenly spaced, the last step always.

    >>> evaluation_steps(100, 3)
    [33, 67, 100]
    """
    return sorted({max(1, round(steps * (index + 1) / evaluations)) for index in range(evaluations)})
