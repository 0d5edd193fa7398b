"""Restricts a data set to its own folders: a downloaded label file must not make it read the user's other files."""

from collections.abc import Iterable
from pathlib import Path

from detector.errors import LabelError, location
from detector.options import ReadOptions


class PathGuard:
    """Decides which files a data set may read: those in its own folders, after links are resolved.

    If a folder itself is a link, its target is allowed. So are the targets of links to folders that are directly in
    one of the folders, because the user created those. The target of a link to a single file is checked like any path.

    Args:
        folders: the data set's own folders; those that do not exist are ignored. If none exists, every path is allowed.
        options: of these, `allow_outside` allows every path.
    """

    def __init__(self, folders: Iterable[Path], options: ReadOptions) -> None:
        own = [] if options.allow_outside else [folder for folder in folders if folder.is_dir()]
        links = [child for folder in own for child in folder.iterdir() if child.is_symlink() and child.is_dir()]
        self._roots = {_resolve(folder): None for folder in [*own, *links]}  # an ordered set
        self._is_inside: dict[Path, bool] = {}

    def allows(self, path: Path) -> bool:
        """Return whether `path` may be read. It does not need to exist."""
        if not self._roots:
            return True
        if path.parent not in self._is_inside:
            self._is_inside[path.parent] = self._contains(path.parent)
        try:
            if path.name == ".." or path.is_symlink():
                return self._contains(path)
        except (OSError, ValueError):  # no file can have this name: opening it will fail
            return True
        return self._is_inside[path.parent]

    def check(self, path: Path, named_in: Path, line: int | None = None) -> None:
        """Check that `path` may be read.

        Args:
            path: the file to read.
            named_in: the file or folder that names `path`.
            line: the line of `named_in` that names `path`.

        Raises:
            LabelError: `path` is outside of the data set's folders.
        """
        if not self.allows(path):
            raise LabelError(
                f"{location(named_in, line)}: {path} is outside of the data set's folder {next(iter(self._roots))}: "
                "move it into that folder, or pass --allow-outside if this data set may read your other files"
            )

    def _contains(self, path: Path) -> bool:
        resolved = _resolve(path)
        return any(resolved.is_relative_to(root) for root in self._roots)


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that no file can have: cannot be read
        return path
