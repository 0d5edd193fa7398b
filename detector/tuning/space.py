"""The settings that a search varies: the default table, and the syntax `KEY=A..B`, `KEY=log:A..B` and `KEY={A,B}`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from detector.comparing.variations import COMMA, GRID, RANGE
from detector.config import Config, override, parse_value
from detector.errors import ConfigError, InputError

SPACE = (
    "lr=log:0.02..0.12",  # default with muon: 0.05
    "lr_adamw=log:0.001..0.01",  # 0.003
    "lr_backbone=log:0.2..1",  # auto
    "weight_decay=log:0.01..0.2",  # 0.05
    "class_weight=log:1..4",  # 2
    "iou_weight=log:1..5",  # 2.5
    "scale={[0.8, 1.2],[0.6, 1.4],[0.4, 1.6]}",  # [0.6, 1.4]
    "crop=0..0.5",  # 0
    "color_gain=0..0.4",  # 0.3
    "brightness=0..30",  # 20
    "flip_vertical={0.0,0.5}",  # 0
    "mosaic_from={0.0,60.0}",  # 60: trials are too short for mosaics otherwise
)
"""The settings that are varied by default. None of them changes the time of a step much: all trials do the same number
of steps. A larger input or network nearly always has a higher AP, and a higher price, which a search cannot weigh."""

_FIXED = (
    "seed", "minutes", "epochs", "steps", "evaluations", "patience", "val_fraction", "allow_outside", "max_pixels",
    "device", "workers", "save_every", "save_float16", "ignore_check", "allow_dropped",
)  # fmt: skip
"""Settings that cannot vary: trials would have other lengths or other images, or the result would not change."""

Value = float | int | str


@dataclass(frozen=True)
class Dimension:
    """A setting that varies, and its values.

    Attributes:
        key: name of the setting.
        text: the dimension as the user gave it, without spaces around it.
        choices: the values as text; empty: all numbers from `low` to `high`.
        low: smallest number.
        high: largest number.
        log: whether the logarithm of the number is drawn uniformly.
        is_integer: whether the numbers are integers.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    is_integer: bool = False

    def setting(self, value: Value) -> str:
        """Return `key=value`; a number has four significant digits."""
        text = f"{value:.4g}" if isinstance(value, float) and not self.is_integer else str(value)
        return f"{self.key}={text}"

    def value_of(self, values: Sequence[Any]) -> Value | None:
        """Return the first of several values that is in this dimension, as a value of it; None: there is none."""
        for value in values:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and not self.choices and self.low <= value <= self.high:
                return int(value) if self.is_integer else float(value)
            for choice in self.choices:
                if parse_value(self.key, yaml.safe_load(choice)) == parse_value(self.key, value):
                    return choice
        return None


def read_space(specs: Iterable[str] | None, base: Config) -> tuple[Dimension, ...]:
    """Return the settings to vary.

    Args:
        specs: one `KEY=A..B`, `KEY=log:A..B` or `KEY={A,B}` for each setting; None: those of `SPACE`.
        base: the base settings.

    Raises:
        ConfigError: a spec is invalid, a setting cannot vary, or the default ranges do not suit the base settings.

    >>> [(own.key, own.low, own.high, own.log) for own in read_space(["lr=log:0.01..0.1"], Config())]
    [('lr', 0.01, 0.1, True)]
    """
    if specs is None and base.optimizer != "muon":
        raise ConfigError(
            f"optimizer: the default ranges are for optimizer=muon, not {base.optimizer}; say what to vary with --vary"
        )
    space: dict[str, Dimension] = {}
    for spec in SPACE if specs is None else specs:
        try:
            dimension = _parse(spec, base)
        except InputError as error:
            raise ConfigError(f"'{spec:.100}': {error}") from None
        if space.setdefault(dimension.key, dimension) is not dimension:
            raise ConfigError(f"'{spec:.100}': {dimension.key} is given twice; give one range or one list of values")
    if not space:
        raise ConfigError("vary: give at least one setting to vary")
    return tuple(space.values())


def _parse(spec: str, base: Config) -> Dimension:
    """Return the dimension that a spec describes; raise ConfigError if it is invalid."""
    key, _, value = (part.strip() for part in spec.partition("="))
    if key in _FIXED:
        raise ConfigError(f"{key} cannot vary: all trials have the same {key}; set it with --set")
    text, found, grid = f"{key}={value}", RANGE.fullmatch(value), GRID.fullmatch(value)
    if grid is not None:
        choices = tuple(choice.strip() for choice in COMMA.split(grid[1]))
        configs = {override(base, [f"{key}={choice}"]) for choice in choices}
        if len(configs) < max(2, len(choices)):
            raise ConfigError("expected at least two different values in braces")
        return Dimension(key, text, choices=choices)
    if found is None:
        raise ConfigError("expected KEY=A..B, KEY=log:A..B or KEY={A,B}, one setting per argument")
    low, high, log = float(found[2]), float(found[3]), found[1] is not None
    if not low < high or (log and low <= 0) or not math.isfinite(high):
        raise ConfigError("expected a range from a smaller to a larger number; after `log:` both must be above 0")
    for end in (found[2], found[3]):
        override(base, [f"{key}={end}"])
    try:
        parse_value(key, 0.5)
        is_integer = False
    except ConfigError:
        is_integer = True
    return Dimension(key, text, low=low, high=high, log=log, is_integer=is_integer)


def settings_of(space: Sequence[Dimension], values: Mapping[str, Value]) -> tuple[str, ...]:
    """Return the values of a trial as `key=value`, in the order of the space."""
    return tuple(dimension.setting(values[dimension.key]) for dimension in space if dimension.key in values)


def default_values(space: Sequence[Dimension], base: Config, resolved: Mapping[str, Any]) -> dict[str, Value]:
    """Return the values of the base settings, as far as they are in the space, so that the search learns from them.

    Args:
        space: the settings that vary.
        base: the base settings.
        resolved: the same settings, with the values that "auto" was resolved to.
    """
    found = {own.key: own.value_of([getattr(base, own.key), resolved.get(own.key)]) for own in space}
    return {key: value for key, value in found.items() if value is not None}
