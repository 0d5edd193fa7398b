"""Reads a JSON label file and finds the lines of its elements. Shared by the readers of JSON formats."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.errors import LabelError, location
from detector.files import read_text

Key = str | int
"""A key of a JSON object or an index of a JSON list."""

_WHITESPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class JsonFile:
    """The value of a JSON file, and the lines of some of its elements.

    Attributes:
        path: the file.
        value: the JSON value.
        lines: path of an element, as keys and indices → line number, counted from 1; empty if the whole JSON value is
            on one line.
    """

    path: Path
    value: Any
    lines: Mapping[tuple[Key, ...], int] = field(default_factory=dict, repr=False)

    def line(self, *keys: Key) -> int | None:
        """Return the line on which an element starts, or None if it is unknown."""
        return self.lines.get(keys)

    def error(self, problem: str, *keys: Key) -> LabelError:
        """Return a LabelError about an element; the message starts with the file and, if it is known, the line."""
        return LabelError(f"{location(self.path, self.line(*keys))}: {problem}")


def read_json_file(path: Path, pattern: Sequence[Key] | Callable[[Any], Sequence[Key]] = ()) -> JsonFile:
    """Read a JSON file of untrusted content.

    Args:
        path: the file.
        pattern: which elements get line numbers, as in `find_lines`, or a function that returns this for a value.

    Raises:
        FileError: the file cannot be read or is not UTF-8.
        LabelError: the file is not JSON, is nested too deeply, or contains a number with thousands of digits.
    """
    text = read_text(path)
    value = parse_json(text, path)
    if "\n" not in text.strip():
        return JsonFile(path, value)
    return JsonFile(path, value, find_lines(text, pattern(value) if callable(pattern) else pattern))


def read_json_lines(path: Path) -> Iterator[JsonFile]:
    """Read a file of JSON lines, such as a `.jsonl`; yield one `JsonFile` per line that is not blank.

    The line of the value itself, `JsonFile.line()`, is known, and that of its elements is not.

    Raises:
        FileError: the file cannot be read or is not UTF-8.
        LabelError: a line is not JSON; see `parse_json`.
    """
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            yield JsonFile(path, parse_json(text, path, line), {(): line})


def parse_json(text: str, path: Path, line: int | None = None) -> Any:
    """Parse the text of a JSON file and return its value.

    Args:
        text: the text of the file, or of one of its lines.
        path: the file, for error messages.
        line: line number of the text, counted from 1; None: the text is the whole file.

    Raises:
        LabelError: the text is not JSON, is nested too deeply, contains a key of an object twice or a number with
            thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=without_repeated_keys)
    except RepeatedKeyError as error:
        raise LabelError(f"{location(path, line)}: {error}") from None
    except json.JSONDecodeError as error:
        hint = "; the file is empty" if not text.strip() else ""
        place = location(path, line or error.lineno)
        raise LabelError(f"{place}: not JSON: {error.msg} in column {error.colno}{hint}") from None
    except ValueError:
        problem = "the file contains a number with thousands of digits; correct the number"
        raise LabelError(f"{location(path, line)}: {problem}") from None
    except RecursionError:
        raise LabelError(f"{location(path, line)}: the JSON values are nested too deeply for a label file") from None


class RepeatedKeyError(Exception):
    """A JSON object contains a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the key {key!r:.60} occurs twice in an object, so one of its values would be lost; remove one"
        )


def without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dictionary of the keys and values of a JSON object.

    Raises:
        RepeatedKeyError: a key occurs twice: only its last value would be used.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        raise RepeatedKeyError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return values


def find_lines(text: str, pattern: Sequence[Key | Set[int]]) -> dict[tuple[Key, ...], int]:
    """Return path → line number, counted from 1, of all elements whose path matches the start of a pattern.

    Args:
        text: valid JSON. Lines end with a newline character.
        pattern: one item per level: a key, a set of indices, or "*" for all keys and indices. For example,
            `("*", "annotations", "*")` matches the elements of a list, the lists `annotations` in these, and the
            elements of these lists.

    >>> find_lines('{"a": [1,' + chr(10) + '2], "b": 3}', ("a", "*"))
    {('a',): 1, ('a', 0): 1, ('a', 1): 2}
    """
    starts: dict[tuple[Key, ...], int] = {}
    try:
        _Scanner(text, starts).walk(_WHITESPACE.match(text).end(), (), pattern)  # type: ignore[union-attr]
    except RecursionError:  # the value was parsed, but there are more frames on the stack now
        return {}
    lines, line, before = {}, 1, 0
    for path, start in sorted(starts.items(), key=lambda item: item[1]):
        line, before = line + text.count("\n", before, start), start
        lines[path] = line
    return lines


class _Scanner:
    """Finds the positions of elements in valid JSON text.

    Args:
        text: the text.
        starts: gets path → position in the text.
    """

    def __init__(self, text: str, starts: dict[tuple[Key, ...], int]) -> None:
        self._text, self._starts = text, starts
        self._decode = json.JSONDecoder().raw_decode

    def walk(self, position: int, path: tuple[Key, ...], pattern: Sequence[Key | Set[int]]) -> int:
        """Add the elements inside the value at `position` that match the pattern, and return the end of the value."""
        if not pattern or self._text[position] not in "[{":
            return self._decode(self._text, position)[1]
        for key, start in self._elements(position):
            wanted = pattern[0]
            if key in wanted if isinstance(wanted, Set) else wanted in ("*", key):
                self._starts[*path, key] = start
                self._end = self.walk(start, (*path, key), pattern[1:])
            else:
                self._end = self._decode(self._text, start)[1]
        return self._end

    def _elements(self, position: int) -> Iterator[tuple[Key, int]]:
        """Yield key or index, and position, of each element of a list or object; `_end` is the end of the last value.

        The caller sets `_end` to the end of an element before it asks for the next one. At the end, `_end` is the end
        of the list or object.
        """
        is_list, index = self._text[position] == "[", 0
        position = self._skip_space(position + 1)
        while self._text[position] not in "]}":
            key: Key = index
            if not is_list:
                key, position = self._decode(self._text, position)
                position = self._skip_space(self._skip_space(position) + 1)  # the colon
            yield key, position
            position, index = self._skip_space(self._end), index + 1
            if self._text[position] == ",":
                position = self._skip_space(position + 1)
        self._end = position + 1

    def _skip_space(self, position: int) -> int:
        return _WHITESPACE.match(self._text, position).end()  # type: ignore[union-attr]
