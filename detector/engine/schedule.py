"""How settings move over a run: pure functions of the step, with nothing to save and nothing to get out of step."""

from detector.config import PLANNING_STEPS, Config

_MOST_WARMUP_STEPS = 300
_WARMUP_AT_PLANNING = 0.2


def learning_rate(step: int, steps: int, config: Config) -> float:
    """Return the learning rate of `step` in a run of `steps` steps, as a share of the peak.

    Rises, stays, falls in a straight line. The first `PLANNING_STEPS` steps rise to a fifth of the peak whatever the
    length, since a run measured in minutes does not know its own yet.
    """
    if step < PLANNING_STEPS:
        return _WARMUP_AT_PLANNING * (step + 1) / PLANNING_STEPS
    warmup = min(_MOST_WARMUP_STEPS, int(config.warmup * steps))
    if step < warmup:
        done = (step + 1 - PLANNING_STEPS) / (warmup - PLANNING_STEPS)
        return _WARMUP_AT_PLANNING + (1 - _WARMUP_AT_PLANNING) * done
    falls_from = max(warmup, config.flat * steps)
    if step < falls_from:
        return 1.0
    done = (step + 1 - falls_from) / max(1.0, steps - falls_from)
    return 1.0 + (config.final_lr - 1.0) * min(1.0, done)


def ema_decay(step: int, steps: int, config: Config) -> float:
    """Return how much of the average stays at `step`: short memory at first, then `config.ema` of the run."""
    rising = (1 + step) / (10 + step)
    if config.ema == 0:
        return 0.0
    if step < PLANNING_STEPS:
        return rising
    return min(rising, max(0.0, 1 - 2 / (config.ema * steps)))


def least_quality(step: int, steps: int) -> float:
    """Return the floor of the assigner's targets: 0.1 in the first 2 % of the run, while every box is still wrong."""
    return 0.1 if step < max(PLANNING_STEPS, 0.02 * steps) else 0.0


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Return after which steps the run is evaluated: evenly spaced, the last step always.

    >>> evaluation_steps(100, 3)
    [33, 67, 100]
    """
    return sorted({max(1, round(steps * (index + 1) / evaluations)) for index in range(evaluations)})
