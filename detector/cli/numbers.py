"""Types of numeric arguments. A number that is not understood is refused with the number that was probably meant."""

import math
import re
from argparse import ArgumentTypeError

from detector.options import Shard
from detector.wording import decimal_hint

_NUMBER = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+(_\d+)*", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+", re.ASCII)
_PERCENT = re.compile(r"([+-]?\d+(\.\d*)?) ?%", re.ASCII)

_LONGEST = 40
"""Largest number of characters of an argument that a message shows."""

_MOST_DIGITS = 18
"""Largest number of digits of a whole number: more would not fit into 64 bits."""


def number(text: str) -> float:
    """Return the finite number in an argument, else raise ArgumentTypeError."""
    text = text.strip()
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ArgumentTypeError(f"expected a number such as 0.4, got {_shown(text)}{_hint(text)}")
    return float(text)


def fraction(text: str) -> float:
    """Return the number in an argument if it is from 0 to 1, else raise ArgumentTypeError."""
    value = number(text)
    if not 0 <= value <= 1:
        hint = f"; for {value:g} % write {value / 100:g}" if 1 < value <= 100 else ""
        raise ArgumentTypeError(f"must be from 0 to 1, got {_shown(text)}{hint}")
    return value


def whole(text: str) -> int:
    """Return the whole number in an argument, else raise ArgumentTypeError."""
    text = text.strip()
    if not _WHOLE.fullmatch(text) or len(text) > _MOST_DIGITS:
        hint = f"; write {text.replace(',', '')}" if _THOUSANDS.fullmatch(text) else ""
        raise ArgumentTypeError(f"expected a whole number such as 32, got {_shown(text)}{hint}")
    return int(text)


def count(text: str) -> int:
    """Return the whole number in an argument if it is at least 1, else raise ArgumentTypeError."""
    value = whole(text)
    if value < 1:
        raise ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def count_or_zero(text: str) -> int:
    """Return the whole number in an argument if it is at least 0, else raise ArgumentTypeError."""
    value = whole(text)
    if value < 0:
        raise ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def shard(text: str) -> Shard:
    """Return the shard in an argument such as 0/8, else raise ArgumentTypeError."""
    match = _SHARD.fullmatch(text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        hint = f"; the last is {int(match[2]) - 1}/{match[2]}" if match and int(match[2]) else ""
        raise ArgumentTypeError(f"expected INDEX/COUNT with an index from 0, such as 0/8, got {_shown(text)}{hint}")
    return Shard(int(match[1]), int(match[2]))


def port(text: str) -> int:
    """Return the whole number in an argument if it is from 0 to 65535, else raise ArgumentTypeError."""
    value = whole(text)
    if not 0 <= value < 2**16:
        raise ArgumentTypeError(f"must be from 0 to 65535, got {value}")
    return value


def _hint(text: str) -> str:
    """Return the number that was probably meant by text that is no number; empty if there is none."""
    if match := _PERCENT.fullmatch(text):
        return f"; write {float(match[1]) / 100:g}"
    return decimal_hint(text)


def _shown(text: str) -> str:
    """Return the text of an argument in quotes, shortened if it is long."""
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
