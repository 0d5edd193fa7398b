"""What a user can mend: every error of this kind names the file, what was expected and what to do."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Something given from outside is wrong: a file, a setting, an argument.

    The command line prints its message and exits with status 2; any other exception is a bug of ours.
    """


def at(path: Path | str, line: int | None = None) -> str:
    """Name a place the way compilers do.

    >>> at("data.yaml", 3)
    'data.yaml:3'
    """
    return f"{path}:{line}" if line is not None else str(path)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest known word, or the list of all of them.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    "did you mean 'epochs'?"
    """
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
