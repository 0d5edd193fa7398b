"""A data set reads within its own folders: what a downloaded file names cannot lead to the user's other files."""

from collections.abc import Iterable
from pathlib import Path

from detector.errors import InputError, location


class PathGuard:
    """Knows the folders a data set may read from; links are followed before it is asked where a file lies.

    A folder that is a link itself is where it leads to, and so are the links to folders directly in it: those the
    user laid there. Links to single files count as what they are.

    Args:
        folders: the data set's own, wherever they are; none at all: no fence.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        own = [folder for folder in folders if folder.is_dir()]
        links = [child for folder in own for child in folder.iterdir() if child.is_symlink() and child.is_dir()]
        self._roots = {_resolve(folder): None for folder in [*own, *links]}  # a set that keeps the order
        self._is_inside: dict[Path, bool] = {}

    def check(self, path: Path, said_in: Path, line: int | None = None) -> None:
        """Refuse a file outside.

        Args:
            path: the file to be read; need not be there.
            said_in: the file or folder that names it.
            line: where.

        Raises:
            InputError: it lies outside.
        """
        if not self._roots:
            return
        if path.parent not in self._is_inside:
            self._is_inside[path.parent] = self._holds(path.parent)
        try:
            leads_on = path.name == ".." or path.is_symlink()
            is_inside = self._holds(path) if leads_on else self._is_inside[path.parent]
        except (OSError, ValueError):  # no name a file can have
            return
        if not is_inside:
            raise InputError(
                f"{location(said_in, line)}: {path} lies outside of the data set's folder {next(iter(self._roots))}: "
                "move it there, or say --allow-outside if this data set may read your other files"
            )

    def _holds(self, path: Path) -> bool:
        resolved = _resolve(path)
        return any(resolved.is_relative_to(root) for root in self._roots)


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a ring of links, or no name a file can have: nothing to be read
        return path
