"""Wording of messages: numbers with the right form of a noun, and metrics that may be undefined."""


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


_SEPARATORS_FROM = 10_000
_WITH_ES = ("x", "s", "ch", "sh")
