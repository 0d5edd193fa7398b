"""The learning rates of complete runs equal a NumPy reference, for every schedule."""

from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import Doubles
from detector.config import Config
from detector.training.schedule import learning_rate_factor

Array = Doubles


def progress(number: Array, steps: int, config: Config) -> Array:
    """Return the position of each step: 0 before the learning rate starts to fall, 1 at the end, linear in between."""
    start = max(warmup_steps(steps, config), config.lr_decay_start * steps)
    return np.asarray(np.clip((number - start) / max(1, steps - start), 0, 1))


def warmup_steps(steps: int, config: Config) -> int:
    return min(300, int(config.warmup * steps))


def decay(number: Array, steps: int, epoch: Array, config: Config) -> Array:
    """Return the learning rate after warmup of each step, as a fraction of the peak; `number` counts steps from 1."""
    final = config.final_lr
    match config.lr_schedule:
        case "linear":
            return 1 - (1 - final) * progress(number, steps, config)
        case "cosine":
            return final + (1 - final) * (1 + np.cos(np.pi * progress(number, steps, config))) / 2
        case "step":
            first, second = (number > fraction * steps for fraction in config.lr_milestones)
            return np.where(first, config.lr_factor, 1) * np.where(second, config.lr_factor, 1)
        case "inverse":
            return 1 / (1 + config.lr_decay * epoch)
        case "exponential":
            return config.lr_base**epoch
        case "root_epoch":
            return np.minimum(1, config.lr_k / np.sqrt(epoch))
        case "root_step":
            return np.minimum(1, config.lr_k / np.sqrt(number))


def expected_rates(steps: int, config: Config, steps_per_epoch: float) -> Array:
    """Return the learning rate of every step: linear up to step 20 and up to the end of warmup, then the schedule."""
    number = np.arange(1, steps + 1, dtype=np.float64)
    warmup = warmup_steps(steps, config)
    rates = decay(number, steps, number / steps_per_epoch, config)
    rates = np.where(number <= warmup, 0.2 + 0.8 * (number - 20) / max(1, warmup - 20), rates)
    return np.where(number <= 20, 0.2 * number / 20, rates)


SETTINGS: list[dict[str, Any]] = [
    {"lr_schedule": "linear"},
    {"lr_schedule": "linear", "lr_decay_start": 0.0, "warmup": 0.9, "final_lr": 0.5},
    {"lr_schedule": "cosine"},
    {"lr_schedule": "cosine", "lr_decay_start": 0.95, "warmup": 0.0, "final_lr": 0.0},
    {"lr_schedule": "step"},
    {"lr_schedule": "step", "lr_milestones": (0.3, 0.3), "lr_factor": 0.5},
    {"lr_schedule": "inverse"},
    {"lr_schedule": "inverse", "lr_decay": 3.0},
    {"lr_schedule": "exponential"},
    {"lr_schedule": "exponential", "lr_base": 0.5},
    {"lr_schedule": "root_epoch"},
    {"lr_schedule": "root_epoch", "lr_k": 2.5},
    {"lr_schedule": "root_step"},
    {"lr_schedule": "root_step", "lr_k": 12.0, "warmup": 0.0},
]


def test_reference_has_every_schedule() -> None:
    assert {row["lr_schedule"] for row in SETTINGS} == set(get_args(get_type_hints(Config)["lr_schedule"]))


@pytest.mark.parametrize("row", SETTINGS, ids=str)
@pytest.mark.parametrize("steps", [1, 19, 21, 100, 333, 4000])
def test_learning_rates_of_a_run_equal_the_reference(row: dict[str, Any], steps: int) -> None:
    config = Config(**row)
    for steps_per_epoch in (0.5, 7.25, 150.0):
        rates = [learning_rate_factor(step, steps, config, steps_per_epoch) for step in range(steps)]
        np.testing.assert_allclose(rates, expected_rates(steps, config, steps_per_epoch), rtol=1e-12, atol=1e-12)


fractions = st.floats(0, 1)


@settings(max_examples=60)
@given(
    st.builds(
        Config,
        lr_schedule=st.sampled_from(sorted({row["lr_schedule"] for row in SETTINGS})),
        warmup=fractions,
        lr_decay_start=fractions,
        final_lr=fractions,
        lr_milestones=st.tuples(fractions, fractions).map(lambda pair: (min(pair), max(pair))),
        lr_factor=fractions,
        lr_decay=st.floats(0, 1e6),
        lr_base=fractions,
        lr_k=st.floats(0, 1e6),
    ),
    st.integers(1, 10_000),
    st.floats(0.01, 1e5),
    st.data(),
)
def test_learning_rate_stays_between_zero_and_the_peak(
    config: Config, steps: int, steps_per_epoch: float, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, steps - 1))
    rate = learning_rate_factor(step, steps, config, steps_per_epoch)
    assert 0 <= rate <= 1 + 1e-12
    assert rate == pytest.approx(expected_rates(steps, config, steps_per_epoch)[step], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("row", SETTINGS, ids=str)
def test_learning_rate_never_rises_after_warmup(row: dict[str, Any]) -> None:
    config = Config(**row)
    rates = [
        learning_rate_factor(step, 1000, config, 40.0) for step in range(max(20, warmup_steps(1000, config)), 1000)
    ]
    assert (np.diff(rates) <= 1e-12).all()
