r"""Text for a terminal: characters that a terminal would obey, or that hide or reorder text, become visible escapes.

File names, class names and other text from datasets can contain any character. An escape sequence can clear the
screen or change the title of the window, and a bidirectional override can show `exe.gpj` for `jpg.exe`. Files such as
JSON and CSV keep the true names. Local copies of files at URLs get the names of their URLs.
"""

import re
import unicodedata

from detector.url_names import with_urls

_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f"  # soft hyphen, Arabic letter mark, zero width space, direction marks
    "\u2028-\u202e\u2060-\u206f"  # line and paragraph separator, bidirectional overrides and isolates
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # byte order mark, annotations, tags
)
"""Characters without a shape of their own. Without U+200C and U+200D, which join letters and emoji."""

_SURROGATES = "\ud800-\udfff"
"""Python reads bytes of a file name that are not UTF-8 as surrogates, which cannot be printed."""

_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_INVISIBLE}{_SURROGATES}]")
_UNSAFE_IN_LINE = re.compile(f"[\x00-\x1f\x7f-\x9f{_INVISIBLE}{_SURROGATES}]")

_LONGEST_MESSAGE = 2000
_LAST_CHARACTERS = 400
"""Number of the last characters that remain of a message that is too long. They say what to do."""

_DOTS = "..."


def escape(text: str) -> str:
    r"""Return text of one or more lines with escapes for unsafe characters; tabs and line breaks remain.

    >>> print(escape("a\x1b[2J\u202egpj.exe"))
    a\x1b[2J\u202egpj.exe
    """
    return _UNSAFE.sub(_escaped, with_urls(text))


def escape_line(text: str) -> str:
    r"""Return text on one line, with escapes for unsafe characters, tabs and line breaks.

    >>> print(escape_line("two\nlines"))
    two\nlines
    """
    return _UNSAFE_IN_LINE.sub(_escaped, with_urls(text))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def shorten_message(text: str) -> str:
    """Return a message that fits on a screen: of a longer text, the beginning and the end."""
    if len(text) <= _LONGEST_MESSAGE:
        return text
    first, last = text[: _LONGEST_MESSAGE - _LAST_CHARACTERS], text[-_LAST_CHARACTERS:]
    return f"{first} [... {len(text) - _LONGEST_MESSAGE:,} characters ...] {last}"


def columns(text: str) -> int:
    """Return the number of columns that text takes in a terminal: wide characters take two, combining ones none.

    >>> columns("ä"), columns("细胞"), columns("a\u0308")
    (1, 4, 1)
    """
    shown = (sign for sign in text if unicodedata.category(sign) not in ("Mn", "Me", "Cf"))
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in shown)


def cell(text: str, width: int) -> str:
    """Return text for a cell of a table: escaped, on one line, and shortened or filled with spaces to `width` columns.

    >>> cell("erythrocyte", 8), cell("细胞", 8)
    ('eryth...', '细胞    ')
    """
    text = escape_line(text)
    if columns(text) > width:
        while columns(text) > width - len(_DOTS):
            text = text[:-1]
        text += _DOTS
    return text + " " * (width - columns(text))
