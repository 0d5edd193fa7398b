"""Restricts a data set to the files in its own folders.

Otherwise a downloaded label file could name any file of the user, and the data set would read that file.
"""

from collections.abc import Iterable
from pathlib import Path

from detector.errors import LabelError, location
from detector.options import ReadOptions


class PathGuard:
    """Decides which files a data set may read: the files in its own folders, after links are resolved.

    A folder may be a link: then the target of the link is allowed. A link to a folder that is directly in one of the
    folders is followed too, because the user created this link. A link to a file is allowed only if its target is in
    an allowed folder.

    Args:
        folders: the data set's own folders. Folders that do not exist are ignored. If no folder exists, every path is
            allowed.
        options: every path is allowed if `allow_outside` is True; the other options are not used.
    """

    def __init__(self, folders: Iterable[Path], options: ReadOptions) -> None:
        own = [] if options.allow_outside else [folder for folder in folders if folder.is_dir()]
        links = [child for folder in own for child in folder.iterdir() if child.is_symlink() and child.is_dir()]
        self._roots = {_resolve(folder): None for folder in [*own, *links]}  # an ordered set
        self._is_inside: dict[Path, bool] = {}

    def allows(self, path: Path) -> bool:
        """Return True if `path` is in an allowed folder, else False. The file does not need to exist."""
        if not self._roots:
            return True
        if path.parent not in self._is_inside:
            self._is_inside[path.parent] = self._contains(path.parent)
        try:
            if path.name == ".." or path.is_symlink():
                return self._contains(path)
        except (OSError, ValueError):  # not a valid file name: opening the file will fail
            return True
        return self._is_inside[path.parent]

    def check(self, path: Path, named_in: Path, line: int | None = None) -> None:
        """Raise LabelError if `path` is outside of the allowed folders.

        Args:
            path: the file to read.
            named_in: the label file or list that contains `path`, or the folder in which `path` was found.
            line: line of `named_in` that contains `path`, counted from 1; None if `named_in` is a folder or the line
                is unknown.

        Raises:
            LabelError: `allows(path)` is False.
        """
        if not self.allows(path):
            raise LabelError(
                f"{location(named_in, line)}: {path} is outside of the data set's folder {next(iter(self._roots))}; "
                "move the file into this folder, or pass --allow-outside if this data set may read your other files"
            )

    def _contains(self, path: Path) -> bool:
        resolved = _resolve(path)
        return any(resolved.is_relative_to(root) for root in self._roots)


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or not a valid file name: reading it will fail
        return path
