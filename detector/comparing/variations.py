"""The variations of a comparison: single settings, grids and random search, all written as `key=value`."""

import logging
import math
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from detector.config import Config, override, parse_value
from detector.errors import ConfigError, InputError, location
from detector.files import read_text

log = logging.getLogger(__name__)

BASELINE = "as configured"
"""Name of the variation that changes nothing."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")
_GRID = re.compile(r"\{([^{}]*)\}")
_COMMA = re.compile(r",(?![^\[]*\])")  # not a comma between square brackets
_BEFORE_KEY = re.compile(r"\s+(?=\w+\s*=)")


@dataclass(frozen=True)
class Variation:
    """A set of settings to train with.

    Attributes:
        settings: the changed settings, each as `key=value`; empty: the baseline.
        config: all settings.
        group: heading above the variation in its file; empty: none.
        remark: comment behind the variation in its file; empty: none.
    """

    settings: tuple[str, ...]
    config: Config
    group: str = ""
    remark: str = ""

    @property
    def name(self) -> str:
        """Name in the tables and in the CSV."""
        return " ".join(self.settings) or BASELINE


@dataclass(frozen=True)
class _Line:
    """The text of a variation and where it was given.

    Attributes:
        place: file and line, or the quoted argument; for messages.
        group: heading above it.
        text: the variation, with its remark.
    """

    place: str
    group: str
    text: str


def read_variations(specs: Iterable[str], base: Config, trials: int = 10) -> list[Variation]:
    """Return the baseline and all variations that the specs describe, each configuration once.

    A spec that contains "=" is a variation: `activation=swish`, `lr_schedule=cosine lr_decay_start=0`. Any other spec
    is a file with one variation per line. In a file, `[name]` starts a group, and text after a space and `#` is a
    remark. `{a,b}` makes a grid. `a..b` in place of a number is drawn uniformly at random, `log:a..b` uniformly in the
    logarithm. Draws depend only on the text and on the number of the trial: they repeat in every call, and with more
    trials the first ones stay the same.

    Args:
        specs: variations and files of variations.
        base: the settings that the variations change.
        trials: number of draws for each variation with random numbers.

    Raises:
        InputError: a spec or line is not a variation (the message names its place), or the length of a run does not
            fix the number of steps.

    >>> [variation.name for variation in read_variations(["optimizer={adam,sgd} lr=0.01"], Config(steps=9))]
    ['as configured', 'optimizer=adam lr=0.01', 'optimizer=sgd lr=0.01']
    """
    _check_length(base)
    found = {base: Variation((), base)}
    for line in _read_lines(specs):
        try:
            for variation in _expand_line(line, base, trials):
                if (first := found.setdefault(variation.config, variation)) is not variation:
                    log.info(f"{line.place}: {variation.name} is the same as '{first.name}' and is not run twice")
        except InputError as error:
            raise ConfigError(f"{line.place}: {error}") from None
    return list(found.values())


def _check_length(config: Config) -> None:
    if config.steps is None and config.epochs is None:
        raise ConfigError(
            "settings are compared after the same number of steps: set steps or epochs; with a length in minutes (the "
            "default: ten minutes) each run does a different number of steps"
        )


def _read_lines(specs: Iterable[str]) -> Iterator[_Line]:
    """Yield each variation in the specs and in the files that they name."""
    for spec in specs:
        if "=" in spec:
            yield _Line(f"'{spec}'", "", spec)
            continue
        if not Path(spec).is_file():
            raise ConfigError(f"'{spec}': expected key=value, or a file with one such variation per line")
        group = ""
        for number, line in enumerate(read_text(Path(spec)).split("\n"), 1):
            text = line.strip()
            if text.startswith("[") and text.endswith("]"):
                group = text[1:-1].strip()
            elif text and not text.startswith("#"):
                yield _Line(location(spec, number), group, text)


def _expand_line(line: _Line, base: Config, trials: int) -> Iterator[Variation]:
    """Yield the variations of a line: one, or several where it has a grid or random numbers."""
    text, _, remark = line.text.partition(" #")
    for point in _expand_grid(text):
        for settings in _draw_trials(point, trials):
            config = override(base, settings)
            _check_length(config)
            if config.seed != base.seed:
                raise ConfigError("seed: all variations run with the same seeds; set their number with --seeds")
            yield Variation(settings, config, line.group, remark.strip())


def _expand_grid(text: str) -> list[str]:
    """Return the points of a grid; the last braces change fastest.

    >>> _expand_grid("batch={4,8} input_size={320,[64, 96]}")
    ['batch=4 input_size=320', 'batch=4 input_size=[64, 96]', 'batch=8 input_size=320', 'batch=8 input_size=[64, 96]']
    """
    grid = _GRID.search(text)
    if grid is None:
        return [text]
    before, after = text[: grid.start()], text[grid.end() :]
    return [point for choice in _COMMA.split(grid[1]) for point in _expand_grid(before + choice.strip() + after)]


def _draw_trials(text: str, trials: int) -> Iterator[tuple[str, ...]]:
    """Yield the settings in a text without braces: once, or `trials` times where it contains random numbers."""
    pairs = [part.partition("=") for part in _BEFORE_KEY.split(" ".join(text.split()))]
    settings = tuple(key.strip() + equals + value.strip() for key, equals, value in pairs)
    for trial in range(trials if _RANGE.search(text) else 1):
        rng = random.Random(f"{' '.join(settings)} #{trial}")
        yield tuple(_draw(setting, rng) for setting in settings)


def _draw(setting: str, rng: random.Random) -> str:
    """Replace each range in a setting by a random number: an integer for integer settings, else four digits."""
    key, equals, value = setting.partition("=")
    try:
        parse_value(key, yaml.safe_load(_RANGE.sub("0.5", value)))
        is_integer = False
    except (InputError, yaml.YAMLError):
        is_integer = True

    def draw_number(match: re.Match[str]) -> str:
        low, high = float(match[2]), float(match[3])
        if not low < high or (match[1] and low <= 0):
            raise ConfigError(
                f"{setting}: expected a range from a smaller to a larger number; with log: both must be above zero"
            )
        high += is_integer  # an integer n stands for the interval from n to n + 1
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if match[1] else rng.uniform(low, high)
        return str(min(math.floor(drawn), math.ceil(high) - 1)) if is_integer else f"{drawn:.4g}"

    return key + equals + _RANGE.sub(draw_number, value)
