from typing import Any

import pytest

from detector.config import Config, override
from detector.errors import ConfigError
from detector.tuning.space import SPACE, Value, default_values, read_space, settings_of


def test_default_space_contains_the_default_settings() -> None:
    space = read_space(None, Config())
    resolved = {"lr": 0.05, "lr_backbone": 0.3}
    assert [dimension.text for dimension in space] == list(SPACE)
    values = default_values(space, Config(), resolved)
    assert override(Config(), settings_of(space, values)) == Config(lr=0.05, lr_backbone=0.3)


def test_values_become_settings_with_four_digits() -> None:
    space = read_space(["lr=log:0.01..0.1", "assign_top_k=5..20", "scale={[0.6, 1.4],[1, 1]}"], Config())
    assert [(own.low, own.high, own.log, own.is_integer) for own in space[:2]] == [
        (0.01, 0.1, True, False),
        (5, 20, False, True),
    ]
    values: dict[str, Value] = {"lr": 0.0123456, "assign_top_k": 7, "scale": "[1, 1]"}
    assert settings_of(space, values) == ("lr=0.01235", "assign_top_k=7", "scale=[1, 1]")
    assert override(Config(), settings_of(space, values)).scale == (1.0, 1.0)


@pytest.mark.parametrize(
    ("spec", "base", "resolved", "value"),
    [
        ("lr=log:0.01..0.1", Config(), {"lr": 0.05}, 0.05),
        ("lr=log:0.01..0.1", Config(lr=0.02), {"lr": 0.05}, 0.02),
        ("lr=log:0.01..0.1", Config(lr=0.5), {"lr": 0.5}, None),
        ("mosaic={0.0,0.5}", Config(), {}, "0.5"),
        ("scale={[0.6, 1.4],[1, 1]}", Config(), {}, "[0.6, 1.4]"),
        ("input_size={256,320}", Config(), {"input_size": [256, 320]}, None),
        ("input_size={256,320}", Config(input_size=320), {"input_size": [256, 320]}, "320"),
        ("assign_top_k=5..20", Config(), {}, 10),
        ("residual={true,false}", Config(), {}, "true"),
    ],
)
def test_defaults_are_values_of_the_space_if_possible(
    spec: str, base: Config, resolved: dict[str, Any], value: object
) -> None:
    (dimension,) = read_space([spec], base)
    assert default_values([dimension], base, resolved) == ({} if value is None else {dimension.key: value})


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["lr=0.1"], "expected KEY=A..B, KEY=log:A..B or KEY="),
        (["lr"], "expected KEY=A..B"),
        (["lr=0.1..0.01"], "from a smaller to a larger number"),
        (["lr=log:0..0.01"], "both must be above 0"),
        (["lrr=0.1..0.2"], "did you mean 'lr'"),
        (["lr=-1..0.2"], "lr: must be at least 0"),
        (["mosaic=0..2"], "mosaic: must be from 0 to 1"),
        (["mosaic={0,2}"], "mosaic: must be from 0 to 1"),
        (["mosaic={0.5,0.5}"], "at least two different values"),
        (["mosaic={0.5}"], "at least two different values"),
        (["assign_top_k=1.5..3"], "assign_top_k: expected a whole number, got 1.5"),
        (["steps=10..20"], "steps cannot vary"),
        (["seed={1,2}"], "seed cannot vary"),
        (["val_fraction=0.1..0.2"], "val_fraction cannot vary"),
        (["lr=0.1..0.2", "lr={0.1,0.2}"], "lr is given twice"),
        (["lr=0.1..0.2 mosaic={0,1}"], "one setting per argument"),
        (["flip={0,x}"], "flip: expected a number"),
        ([], "at least one setting"),
    ],
)
def test_invalid_spaces_are_refused(specs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_space(specs, Config())


def test_default_ranges_are_refused_for_other_optimizers() -> None:
    with pytest.raises(ConfigError, match="for optimizer=muon, not sgd; say what to vary with --vary"):
        read_space(None, Config(optimizer="sgd"))
    assert read_space(["lr=log:0.01..0.5"], Config(optimizer="sgd"))
