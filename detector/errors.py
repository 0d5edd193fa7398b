"""Errors that the user can fix. Every message names the file or parameter, what was expected, and what to do.

Code branches on the type of an error, never on its message.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from detector.escaping import escape_line, shorten_message

_MOST_NAMES = 100
"""Largest number of known names that a message lists."""

_LONGEST_WORD = 1000
"""A word with more characters is not compared with the known words, which would take long."""


class InputError(ValueError):
    r"""A file, a setting or an argument from the user is wrong. Base class of the errors in this module.

    The command line prints the message and exits with status 2. Any other exception is a bug in this package.

    Each argument is one line of the message. Messages contain names from files, so control characters are shown as
    escapes, and a very long message is shortened; `args` has the true text.

    >>> print(InputError("a\x1b[2J.png: not an image", "  convert it"))
    a\x1b[2J.png: not an image
      convert it
    """

    def __str__(self) -> str:
        return shorten_message("\n".join(escape_line(str(line)) for line in self.args))


class FileError(InputError):
    """A file or folder is missing, cannot be read, or cannot be written."""


class ImageError(InputError):
    """An image cannot be decoded."""


class ImageTooLargeError(ImageError):
    """An image has more pixels than `max_pixels` allows."""


class LabelError(InputError):
    """A dataset or its labels cannot be used."""


class ConfigError(InputError):
    """A setting or an option is unknown or out of range."""


class WeightsError(InputError):
    """Weights or an exported graph are damaged, or do not match the data or the settings they are used with."""


class TransformError(InputError):
    """An own transform of the augmentation cannot be loaded, or breaks a promise."""


class MissingPackageError(InputError):
    """An optional package is not installed."""


class StorageError(Exception):
    """An object store fails, or files in it are changed or removed while they are read.

    Not an `InputError`, so that no code takes it for a fault of one image and goes on without this image. The command
    line prints the message and exits with status 2; repeated or resumed later, the command may succeed.
    """

    def __str__(self) -> str:
        return shorten_message(escape_line(super().__str__()))


class ProcessError(InputError):
    """This process, or another one with which it works, cannot go on: after a fork, or because the other has ended."""


class PeerError(ProcessError):
    """Another process of the same training run has stopped. That process shows the reason, so this one is silent."""


def location(path: Path | str, line: int | None = None) -> str:
    """Return the text `path:line`, or only `path` if the line is None.

    >>> location("data.yaml", 3)
    'data.yaml:3'
    """
    return f"{path}:{line}" if line is not None else str(path)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown word: the most similar known word, or all known words if no known word is similar.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    "did you mean 'epochs'?"
    """
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1) if len(word) <= _LONGEST_WORD else []
    return f"did you mean '{near[0]}'?" if near else known_names(known)


def known_names(names: Sequence[str]) -> str:
    """Return a text that lists known names: all, or the first 100 and the number of the others.

    >>> known_names(["a", "b"]), known_names([str(number) for number in range(300)])[-17:]
    ('known: a, b', '99 and 200 others')
    """
    others = len(names) - _MOST_NAMES
    return "known: " + ", ".join(names[:_MOST_NAMES]) + (f" and {others} others" if others > 0 else "")
