"""Schedules: learning rate, EMA decay and others as pure functions of the step, so they have no state to save.

They also depend on the number of steps of the run. If the plan of a run changes, this number is that of
`StepPlan.length_at`, which moves gradually, so no schedule jumps.
"""

import math
from collections.abc import Callable

from detector.config import PLANNING_STEPS, OptimizerConfig

_MAX_WARMUP_STEPS = 300
_WARMUP_AT_PLANNING = 0.2
"""Learning rate at the end of the planning steps, as a fraction of the peak."""

_SMALLEST_BACKBONE_FACTOR, _FULL_BACKBONE_STEPS = 0.3, 1000
"""With `lr_backbone = "by_steps"`: the smallest factor, and the number of steps of a run from which on it is 1."""


def learning_rate_factor(step: int, steps: float, config: OptimizerConfig, steps_per_epoch: float) -> float:
    """Return the learning rate of one step, as a fraction of the peak learning rate, 0..1.

    The learning rate rises linearly during warmup, then falls according to `config.lr_schedule`. In the first
    `PLANNING_STEPS` steps it always rises to a fifth of the peak: a run with a length in minutes does not know its
    number of steps yet.

    Args:
        step: index of the step, from 0.
        steps: number of steps of the run; see `StepPlan.length_at`.
        config: settings of the schedule.
        steps_per_epoch: number of steps per epoch.
    """
    if step < PLANNING_STEPS:
        return _WARMUP_AT_PLANNING * (step + 1) / PLANNING_STEPS
    warmup = min(_MAX_WARMUP_STEPS, int(config.warmup * steps))
    if step < warmup:
        done = (step + 1 - PLANNING_STEPS) / (warmup - PLANNING_STEPS)
        return _WARMUP_AT_PLANNING + (1 - _WARMUP_AT_PLANNING) * done
    decay_start = max(warmup, config.lr_decay_start * steps)
    return _DECAYS[config.lr_schedule](step + 1, steps, decay_start, config, steps_per_epoch)


def backbone_factor(step: int, steps: float, config: OptimizerConfig) -> float:
    """Return the factor on the learning rates of the backbone, as the setting `lr_backbone` defines it.

    With "by_steps", short runs change features that were learned on other data less than long runs: from 0.3 to 1,
    proportional to the number of steps. In the first `PLANNING_STEPS` steps the factor is always 0.3: a run with a
    length in minutes does not know its number of steps yet. "auto" is 1; `train` has replaced it if the run starts from
    weights with other classes. While the backbone is frozen (`freeze`), the factor is 0, at least in the first
    `PLANNING_STEPS` steps.

    Args:
        step: index of the step, from 0.
        steps: number of steps of the run.
        config: settings of the optimizer.
    """
    if config.freeze and step < max(PLANNING_STEPS, config.freeze * steps):
        return 0.0
    match config.lr_backbone:
        case "auto":
            return 1.0
        case "by_steps" if step < PLANNING_STEPS:
            return _SMALLEST_BACKBONE_FACTOR
        case "by_steps":
            return min(1.0, max(_SMALLEST_BACKBONE_FACTOR, steps / _FULL_BACKBONE_STEPS))
        case factor:
            return factor


def _progress(step: int, steps: float, start: float) -> float:
    """Return the position of `step` between `start` and the end of the run: 0 up to `start`, 1 at the end."""
    return min(1.0, max(0.0, (step - start) / max(1.0, steps - start)))


# Schedule → function that returns the learning rate after warmup, as a fraction of the peak. Arguments: number of the
# step (from 1), number of steps of the run, step at which the rate may start to fall, settings, steps per epoch.
_DECAYS: dict[str, Callable[[int, float, float, OptimizerConfig, float], float]] = {
    "linear": lambda step, steps, start, config, _: 1 + (config.final_lr - 1) * _progress(step, steps, start),
    "cosine": lambda step, steps, start, config, _: (
        config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * _progress(step, steps, start))) / 2
    ),
    "step": lambda step, steps, _, config, __: (
        config.lr_factor ** sum(step > fraction * steps for fraction in config.lr_milestones)
    ),
    "inverse": lambda step, _, __, config, per_epoch: 1 / (1 + config.lr_decay * step / per_epoch),
    "exponential": lambda step, _, __, config, per_epoch: config.lr_base ** (step / per_epoch),
    "root_epoch": lambda step, _, __, config, per_epoch: min(1.0, config.lr_k / math.sqrt(step / per_epoch)),
    "root_step": lambda step, _, __, config, ___: min(1.0, config.lr_k / math.sqrt(step)),
}


def ema_decay(step: int, steps: float, config: OptimizerConfig) -> float:
    """Return the decay of the EMA at a step: the fraction of the average that is kept, 0..1.

    At first the decay is small, so that the average forgets the initial weights. Later it is as large as that of a
    moving average over a window of `config.ema * steps` steps. With `config.ema = 0` the decay is 0: no averaging.
    """
    rising = (1 + step) / (10 + step)
    if config.ema == 0:
        return 0.0
    if step < PLANNING_STEPS:
        return rising
    return min(rising, max(0.0, 1 - 2 / (config.ema * steps)))


def min_quality(step: int, steps: float) -> float:
    """Return the lower bound of the target scores at a step: 0.1 at the start of the run, then 0.

    The start is the first 2 % of the run, and at least `PLANNING_STEPS` steps. There the predicted boxes are still so
    wrong that the target scores of all objects would be nearly 0.
    """
    return 0.1 if step < max(PLANNING_STEPS, 0.02 * steps) else 0.0
