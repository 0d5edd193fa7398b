"""Converts values of label files to numbers, names and sizes. Shared by the readers of formats that name classes.

The values are untrusted: they may have any type.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from detector.data.image_labels import BadRow, NamedRow
from detector.data.row_collector import Corners, RowError

_Item = TypeVar("_Item")
_MAX_SIDE = 2**31
_SHOWN_LENGTH = 60


def shown(value: object) -> str:
    """Return a short text for a value in a message. The contents of lists and objects are not shown.

    >>> shown("a.jpg"), shown({"a": 1}), shown(None)
    ("'a.jpg'", 'an object', 'null')
    """
    if isinstance(value, str):
        return repr(value[:_SHOWN_LENGTH])
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value!r:.{_SHOWN_LENGTH}}"


def number(value: object) -> float | None:
    """Return a number that is given as a number or as text, or None for any other value. It may be NaN or infinite.

    >>> number(1), number("1.50"), number("1_0"), number(True)
    (1.0, 1.5, None, None)
    """
    if type(value) is float:
        return value
    if isinstance(value, str) and "_" in value:  # Python's own syntax, and no other program's
        return None
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # an integer that is too large for a float
        return math.inf


def numbers(values: Mapping[str, Any], keys: Iterable[str], name: str) -> tuple[float, ...]:
    """Return the numbers of some keys.

    Args:
        values: key → value of any type.
        keys: the keys.
        name: what `values` is, for the reason, such as "the box".

    Raises:
        RowError: a key is missing or its value is not a number.
    """
    result = []
    for key in keys:
        value = values.get(key)
        if (converted := number(value)) is None:
            is_missing = value is None or value == ""
            problem = f"{name} has no {key}" if is_missing else f"{key} of {name} is {shown(value)}, not a number"
            raise RowError("malformed_row", problem)
        result.append(converted)
    return tuple(result)


def class_name(value: object, name: str) -> str:
    """Return the class name of a row; an integer becomes text.

    Args:
        value: the value in the label file.
        name: what contains the class name, for the reason, such as "`label`".

    Raises:
        RowError: the value is missing, empty, or neither text nor an integer.
    """
    if type(value) is int:
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowError("malformed_row", f"the row has no class: {name} is empty or missing")
    if not isinstance(value, str):
        raise RowError("malformed_row", f"{name} is {shown(value)}; expected the name of a class")
    return value.strip()


def image_size(height: object, width: object) -> tuple[int, int] | None:
    """Return (height, width), or None if one of them is missing, 0 or not a whole number: then the size is unknown.

    >>> image_size("40", 60.0), image_size(0, 0)
    ((40, 60), None)
    """
    h, w = number(height), number(width)
    if h is None or w is None or not (0 < h < _MAX_SIDE and 0 < w < _MAX_SIDE):
        return None
    return (int(h), int(w)) if h.is_integer() and w.is_integer() else None


def size_in(value: object) -> tuple[int, int] | None:
    """Return (height, width) of an object with these keys, as `image_size` does; None for any other value.

    >>> size_in({"width": 60, "height": 40}), size_in(None)
    ((40, 60), None)
    """
    return image_size(value.get("height"), value.get("width")) if isinstance(value, dict) else None


def image_path(text: str) -> str:
    """Return the path in the URL of an image; text that is not a URL is returned unchanged.

    >>> image_path("/data/local-files/?d=folder/a%20b.jpg"), image_path("s3://bucket/folder/a.jpg")
    ('folder/a b.jpg', 'folder/a.jpg')
    >>> image_path("/data/upload/1/0a1b2c3d-a.jpg")
    '/data/upload/1/0a1b2c3d-a.jpg'
    """
    try:
        parts = urlsplit(text.strip())
        if parts.path.rstrip("/").endswith("local-files") and (paths := parse_qs(parts.query).get("d")):
            return paths[0]
    except ValueError:  # not a valid URL, or too many parameters
        return text.strip()
    return unquote(parts.path).lstrip("/") if "://" in text else text.strip()


def first_key(item: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the first of `keys` that an object has, or the first key if it has none of them."""
    return next((key for key in keys if key in item), keys[0])


def parse_row(
    parse: Callable[[_Item], tuple[str, Corners] | NamedRow], item: _Item, line: int | None, name: str
) -> NamedRow | BadRow:
    """Parse one label row and return it, or the reason why it cannot be used.

    Args:
        parse: returns class name and corners, or a row whose line is ignored. Raises RowError.
        item: argument of `parse`.
        line: line number of the row in the label file; None if unknown.
        name: name of the row, such as "annotation 3 of a.jpg"; part of the reason if `line` is None.
    """
    try:
        parsed = parse(item)
        return parsed._replace(line=line) if isinstance(parsed, NamedRow) else NamedRow(line, *parsed)
    except RowError as error:
        # A new error: the one that was raised keeps the local variables of all its frames in memory.
        reason = error.reason if line is not None else f"{name}: {error.reason}"
        return BadRow(line, RowError(error.code, reason))


def are_fractions(rows: Iterable[NamedRow | BadRow]) -> bool:
    """Return whether the boxes must be in fractions of the image size, for formats that allow pixels and fractions.

    True if all coordinates are from 0 to 1 and at least one is not a whole number: in pixels, no such box could contain
    more than a part of the first pixel.
    """
    values = [value for row in rows if isinstance(row, NamedRow) for value in row.corners if math.isfinite(value)]
    return all(0 <= value <= 1 for value in values) and any(0 < value < 1 for value in values)


def is_list_of_objects(value: object, max_checked: int = 20) -> bool:
    """Return whether a JSON value is a list with at least one element, and the first elements are objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value[:max_checked])
