"""Wording of messages: numbers with the right form of a noun, metrics that may be undefined, names of classes."""

import re
import reprlib
from collections.abc import Sequence

UNDEFINED = -1
"""Value of a metric of COCO's evaluation that cannot be computed, because there are no such objects."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 120

_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+)", re.ASCII)

_SEPARATORS_FROM = 10_000
_WITH_ES = ("x", "s", "ch", "sh")


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """Return a count with its noun in the singular or the plural.

    Args:
        count: the number, printed with thousands separators from 10,000 on.
        noun: the noun in the singular.
        plural_noun: the noun in the plural; None: the singular with an s, or with `es` after x, s, ch and sh.

    >>> plural(1, "image"), plural(2, "box"), plural(0, "entry", "entries")
    ('1 image', '2 boxes', '0 entries')
    """
    number = f"{count:,}" if count >= _SEPARATORS_FROM else str(count)
    if count == 1:
        return f"{number} {noun}"
    return f"{number} {plural_noun or noun + ('es' if noun.endswith(_WITH_ES) else 's')}"


def metric(value: float, digits: int = 3) -> str:
    """Return a metric of COCO's evaluation as text, or "n/a" for -1: there are no objects from which to compute it.

    >>> metric(0.5), metric(-1)
    ('0.500', 'n/a')
    """
    return "n/a" if value == UNDEFINED else f"{value:.{digits}f}"


def distinct_names(class_names: Sequence[str], category_ids: Sequence[int]) -> list[str]:
    """Return the names of classes, with the category id after a name that several classes have.

    >>> distinct_names(["cat", "dog", "cat"], [1, 2, 3])
    ['cat (1)', 'dog', 'cat (3)']
    """
    return [
        name if class_names.count(name) == 1 else f"{name} ({category_id})"
        for name, category_id in zip(class_names, category_ids, strict=True)
    ]


def few_names(names: Sequence[str], most: int = 10) -> str:
    """Return the first `most` names as text.

    >>> few_names(["cat", "dog"]), few_names(["a"] * 11), few_names(["a", "b", "c"], most=2)
    ('cat, dog', 'a, a, a, a, a, a, a, a, a, a, ...', 'a, b, ...')
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def shown(value: object) -> str:
    """Return the representation of a wrong value for a message: one line, and shortened if it is long.

    >>> shown("no"), shown(list(range(1000))), shown(10**5000)
    ("'no'", '[0, 1, 2, 3, 4, 5, ...]', 'a value of type int')
    """
    try:
        return " ".join(_REPR.repr(value).split())
    except Exception:  # a very large int, or an error in the value's own `__repr__`
        return f"a value of type {type(value).__name__}"


def decimal_hint(text: str) -> str:
    """Return the end of a message about text that is no number: how to write a decimal comma; empty for other text.

    >>> decimal_hint("0,4"), decimal_hint("x")
    (' with a decimal comma; write 0.4', '')
    """
    match = _DECIMAL_COMMA.fullmatch(text)
    return f" with a decimal comma; write {match[1]}.{match[2]}" if match else ""
