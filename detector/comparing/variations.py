"""What a comparison tries: a list of settings, a grid and a random search are all lines of `key=value`."""

import logging
import math
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from detector.config import Config, override, parse_value
from detector.errors import InputError, location
from detector.files import read_text

log = logging.getLogger(__name__)

BASE_LINE = "as configured"
"""Name of the variation that changes nothing."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")
_GRID = re.compile(r"\{([^{}]*)\}")
_COMMA = re.compile(r",(?![^\[]*\])")  # not one between square brackets
_BEFORE_KEY = re.compile(r"\s+(?=\w+\s*=)")


@dataclass(frozen=True)
class Variation:
    """One thing to try.

    Attributes:
        settings: what it changes, as `--set` takes it; nothing: the base line.
        config: all settings.
        group: the heading it stands under in its file.
        remark: what the file says of it.
    """

    settings: tuple[str, ...]
    config: Config
    group: str = ""
    remark: str = ""

    @property
    def name(self) -> str:
        """What stands in tables and in the CSV."""
        return " ".join(self.settings) or BASE_LINE


def read_variations(words: Iterable[str], base: Config, trials: int = 10) -> list[Variation]:
    """Return the base line and all variations that words describe, each configuration once.

    A word that holds "=" is a variation: `activation=swish`, `lr_schedule=cosine lr_decay_start=0`. Any other is a file of
    variations, one a line; `[name]` starts a group, and what follows a blank and `#` is a remark. `{a,b}` anywhere
    makes a grid. `a..b` in place of a number is drawn at random, `log:a..b` evenly in the logarithm. Draws are a pure
    function of the text and of their number: another time the same come again, and more of them begin with the same.

    Args:
        words: as above.
        base: what the variations change.
        trials: draws of each variation with random numbers.

    Raises:
        InputError: a word or line that is no variation, with its place; a length that does not fix the steps.

    >>> [variation.name for variation in read_variations(["optimizer={adam,sgd} lr=0.01"], Config(steps=9))]
    ['as configured', 'optimizer=adam lr=0.01', 'optimizer=sgd lr=0.01']
    """
    _check_length(base)
    found = {base: Variation((), base)}
    for place, group, line in _lines(words):
        text, _, remark = line.partition(" #")
        try:
            for settings in (settings for point in _expand(text) for settings in _draw_each(point, trials)):
                config = override(base, settings)
                _check_length(config)
                if config.seed != base.seed:
                    raise InputError("seed: all variations run with the same seeds; say how many with --seeds")
                if config in found:
                    log.info(f"{place}: {' '.join(settings)} is the same as '{found[config].name}' and not run twice")
                found.setdefault(config, Variation(settings, config, group, remark.strip()))
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
    return list(found.values())


def _check_length(config: Config) -> None:
    if config.steps is None and config.epochs is None:
        raise InputError(
            "settings are compared after equally many steps: give steps or epochs, since a budget in minutes (ten, "
            "where nothing is said) comes to other steps in each run"
        )


def _lines(words: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield place, group and text of every variation in words and files."""
    for word in words:
        if "=" in word:
            yield f"'{word}'", "", word
            continue
        if not Path(word).is_file():
            raise InputError(f"'{word}': neither key=value nor a file of such lines")
        group = ""
        for number, line in enumerate(read_text(Path(word)).split("\n"), 1):
            text = line.strip()
            if text.startswith("[") and text.endswith("]"):
                group = text[1:-1].strip()
            elif text and not text.startswith("#"):
                yield location(word, number), group, text


def _expand(text: str) -> list[str]:
    """Return the points of a grid, the last braces changing fastest.

    >>> _expand("batch={4,8} input_size={320,[64, 96]}")
    ['batch=4 input_size=320', 'batch=4 input_size=[64, 96]', 'batch=8 input_size=320', 'batch=8 input_size=[64, 96]']
    """
    grid = _GRID.search(text)
    if grid is None:
        return [text]
    before, after = text[: grid.start()], text[grid.end() :]
    return [point for choice in _COMMA.split(grid[1]) for point in _expand(before + choice.strip() + after)]


def _draw_each(text: str, trials: int) -> Iterator[tuple[str, ...]]:
    """Yield the settings of a text without braces, `trials` times where there are random numbers in it."""
    pairs = [part.partition("=") for part in _BEFORE_KEY.split(" ".join(text.split()))]
    settings = tuple(key.strip() + equals + value.strip() for key, equals, value in pairs)
    for trial in range(trials if _RANGE.search(text) else 1):
        rng = random.Random(f"{' '.join(settings)} #{trial}")
        yield tuple(_draw(setting, rng) for setting in settings)


def _draw(setting: str, rng: random.Random) -> str:
    """Return a setting with a number in place of each range: of four digits, or whole where the setting is."""
    key, equals, value = setting.partition("=")
    try:
        parse_value(key, yaml.safe_load(_RANGE.sub("0.5", value)))
        is_whole = False
    except (InputError, yaml.YAMLError):
        is_whole = True

    def number(match: re.Match[str]) -> str:
        low, high = float(match[2]), float(match[3])
        if not low < high or (match[1] and low <= 0):
            raise InputError(f"{setting}: a range goes from a smaller to a larger number, with log: both above zero")
        high += is_whole  # a whole number stands for all between it and the next
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if match[1] else rng.uniform(low, high)
        return str(min(math.floor(drawn), math.ceil(high) - 1)) if is_whole else f"{drawn:.4g}"

    return key + equals + _RANGE.sub(number, value)
