"""The variations of a comparison, written as `key=value`: single settings, grids and random search."""

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
"""Name of the baseline, which changes no setting."""

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")
GRID = re.compile(r"\{([^{}]*)\}")
COMMA = re.compile(r",(?![^\[]*\])")  # a comma that is not between square brackets
_BEFORE_KEY = re.compile(r"\s+(?=\w+\s*=)")


@dataclass(frozen=True)
class Variation:
    """The settings of a run, and their differences from the base settings.

    Attributes:
        settings: the settings that differ from the base settings, each as `key=value`; empty for the baseline.
        config: all settings.
        group: the last heading `[group]` above the variation in its file; empty if there is none.
        remark: the comment after the variation in its file; empty if there is none.
    """

    settings: tuple[str, ...]
    config: Config
    group: str = ""
    remark: str = ""

    @property
    def name(self) -> str:
        """Name of the variation in the table and in compare.csv: its settings, separated by spaces."""
        return " ".join(self.settings) or BASELINE


@dataclass(frozen=True)
class _Line:
    """A line of text that describes one or several variations, and the place where the user gave it.

    Attributes:
        place: where the line was given, for messages: `FILE:LINE`, or the quoted argument.
        group: the last heading `[group]` above the line; empty if there is none.
        text: the settings, and the remark if there is one.
    """

    place: str
    group: str
    text: str


def read_variations(specs: Iterable[str], base: Config, trials: int = 10) -> list[Variation]:
    """Return the baseline and all variations that the specs describe; equal configurations are returned once.

    A spec that contains "=" is a variation: `activation=swish`, `lr_schedule=cosine lr_decay_start=0`. Any other spec
    is the path of a file with one variation per line. In a file, a line `[name]` starts a group, and text after a space
    and `#` is a remark. `{a,b}` makes a grid. A range `a..b` in place of a number stands for a random number, uniform
    from a to b; the logarithm of a number from `log:a..b` is uniform. A random number depends only on the text and on
    the index of the trial: the same call returns the same numbers, and a call with more trials returns them first.

    Args:
        specs: variations, and paths of files with variations.
        base: the base settings, which the variations change.
        trials: number of random draws for each variation that contains a range.

    Raises:
        InputError: a variation is invalid (the message names the file and line, or the spec), or neither `steps` nor
            `epochs` is set.

    >>> [variation.name for variation in read_variations(["optimizer={adam,sgd} lr=0.01"], Config(steps=9))]
    ['as configured', 'optimizer=adam lr=0.01', 'optimizer=sgd lr=0.01']
    """
    _check_length(base)
    found = {base: Variation((), base)}
    for line in _read_lines(specs):
        try:
            for variation in _expand_line(line, base, trials):
                if (first := found.setdefault(variation.config, variation)) is not variation:
                    log.info(f"{line.place}: '{variation.name}' has the same settings as '{first.name}' and is skipped")
        except InputError as error:
            raise ConfigError(f"{line.place}: {error}") from None
    return list(found.values())


def _check_length(config: Config) -> None:
    """Raise ConfigError if neither `steps` nor `epochs` is set."""
    if config.steps is None and config.epochs is None:
        raise ConfigError(
            "set steps or epochs: all compared runs must do the same number of steps, but with a length in minutes "
            "(the default: 10) the number of steps depends on the speed of the run"
        )


def _read_lines(specs: Iterable[str]) -> Iterator[_Line]:
    """Yield each spec that is a variation, and each variation line of each spec that is a file."""
    for spec in specs:
        if "=" in spec:
            yield _Line(f"'{spec}'", "", spec)
            continue
        if not Path(spec).is_file():
            raise ConfigError(f"'{spec}': no such file; expected key=value, or a file with one variation per line")
        group = ""
        for number, line in enumerate(read_text(Path(spec)).split("\n"), 1):
            text = line.strip()
            if text.startswith("[") and text.endswith("]"):
                group = text[1:-1].strip()
            elif text and not text.startswith("#"):
                yield _Line(location(spec, number), group, text)


def _expand_line(line: _Line, base: Config, trials: int) -> Iterator[Variation]:
    """Yield the variations of a line: several if the line contains a grid or a range, else one."""
    text, _, remark = line.text.partition(" #")
    for point in _expand_grid(text):
        for settings in _draw_trials(point, trials):
            config = override(base, settings)
            _check_length(config)
            if config.seed != base.seed:
                raise ConfigError(
                    "seed cannot vary: all variations use the same seeds; set the number of seeds with --seeds"
                )
            yield Variation(settings, config, line.group, remark.strip())


def _expand_grid(text: str) -> list[str]:
    """Return a copy of the text for each combination of choices in braces; the last braces change fastest.

    >>> _expand_grid("batch={4,8} input_size={320,[64, 96]}")
    ['batch=4 input_size=320', 'batch=4 input_size=[64, 96]', 'batch=8 input_size=320', 'batch=8 input_size=[64, 96]']
    """
    grid = GRID.search(text)
    if grid is None:
        return [text]
    before, after = text[: grid.start()], text[grid.end() :]
    return [point for choice in COMMA.split(grid[1]) for point in _expand_grid(before + choice.strip() + after)]


def _draw_trials(text: str, trials: int) -> Iterator[tuple[str, ...]]:
    """Yield the settings of each trial: `trials` times with other random numbers if the text has a range, else once.

    Args:
        text: settings, separated by spaces, without braces.
        trials: number of random draws.
    """
    pairs = [part.partition("=") for part in _BEFORE_KEY.split(" ".join(text.split()))]
    settings = tuple(key.strip() + equals + value.strip() for key, equals, value in pairs)
    for trial in range(trials if RANGE.search(text) else 1):
        rng = random.Random(f"{' '.join(settings)} #{trial}")
        yield tuple(_draw(setting, rng) for setting in settings)


def _draw(setting: str, rng: random.Random) -> str:
    """Return a setting `key=value` in which each range is replaced by a random number.

    The number is an integer if the setting is an integer, else a number with four significant digits.
    """
    key, equals, value = setting.partition("=")
    try:
        parse_value(key, yaml.safe_load(RANGE.sub("0.5", value)))
        is_integer = False
    except (InputError, yaml.YAMLError):
        is_integer = True

    def draw_number(match: re.Match[str]) -> str:
        low, high = float(match[2]), float(match[3])
        if not low < high or (match[1] and low <= 0):
            raise ConfigError(
                f"{setting:.100}: expected a range from a smaller to a larger number; after `log:` both must be above 0"
            )
        high += is_integer  # the integer n is drawn as a number from n to n + 1, rounded down
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if match[1] else rng.uniform(low, high)
        return str(min(math.floor(drawn), math.ceil(high) - 1)) if is_integer else f"{drawn:.4g}"

    return key + equals + RANGE.sub(draw_number, value)
