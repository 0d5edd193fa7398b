"""Restricts a dataset to the files in its own folder.

Otherwise a downloaded dataset could name any file of the user, or link to it, and the file would be read.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from detector.data.split import SPLITS, canonical_name
from detector.errors import LabelError, location
from detector.options import ReadOptions

_LINK_NAMES = ("images", "labels", "jpegimages", "annotations")
"""Names of folders, in lower case, that may be links; so may folders that are named like a split."""

LINK_DEPTH = 2
"""Such a link may be directly in the folder of the dataset, or one level below: at most this deep."""

_ADVICE = "or pass --allow-outside if this dataset may read your other files"


class PathGuard:
    """Decides which files a dataset may read: the files in its own folders, after links are resolved.

    A link whose target is inside of a folder is allowed. The folder itself may be a link, and so may the folders
    `images`, `labels`, `JPEGImages`, `Annotations` and those named like a split, directly in the folder or one level
    below: people keep images on another disk. The target of such a link counts as a part of the dataset. No other
    path that leads outside is allowed. Hard links cannot be recognized: they are files of the folder.

    Args:
        folders: the dataset's own folders. Folders that do not exist are ignored. If no folder exists, every path is
            allowed.
        options: every path is allowed if `allow_outside` is True; the other options are not used.

    Attributes:
        links: links to folders that lead outside and are allowed by their name → target.
    """

    def __init__(self, folders: Iterable[Path], options: ReadOptions) -> None:
        own = {} if options.allow_outside else {folder: _resolve(folder) for folder in folders if folder.is_dir()}
        self._own = frozenset(own)
        self._roots = dict.fromkeys(own.values())  # an ordered set
        self.links: Mapping[Path, Path] = {
            link: target
            for folder in _outermost(own)
            for link in _standard_links(folder)
            if not _is_inside(target := _resolve(link), own.values())
        }
        self._roots |= dict.fromkeys(self.links.values())
        self._allowed_folders: dict[Path, bool] = {}

    def allows(self, path: Path) -> bool:
        """Return True if `path` is in an allowed folder, else False. The file does not need to exist."""
        if not self._roots or path in self._own:
            return True
        if path.parent not in self._allowed_folders:
            self._allowed_folders[path.parent] = _is_inside(_resolve(path.parent), self._roots)
        try:
            if path.name == ".." or path.is_symlink():
                return _is_inside(_resolve(path), self._roots)
        except (OSError, ValueError):  # not a valid file name: opening the file will fail
            return True
        return self._allowed_folders[path.parent]

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
                f"{location(named_in, line)}: {path} is outside of the dataset's folder {self._folder}; "
                f"move the file into this folder, {_ADVICE}"
            )

    def check_link(self, link: Path) -> None:
        """Raise LabelError if a link in the folder of the dataset leads outside and is not allowed by its name.

        Raises:
            LabelError: `allows(link)` is False.
        """
        if link.is_dir() and not self.allows(link):
            raise LabelError(
                f"{link}: the link leads to {_resolve(link)}, which is outside of the dataset's folder "
                f"{self._folder}; only folders named `images`, `labels`, `JPEGImages`, `Annotations` or like a split, "
                "in the folder or one level below, may be such links: remove the link, move the files into the "
                f"folder, {_ADVICE}"
            )
        self.check(link, link.parent)

    @property
    def note(self) -> str:
        """One sentence that names the followed links and their targets; empty if there are none."""
        if not self.links:
            return ""
        return f"links out of the folder are followed: {', '.join(f'{a} → {b}' for a, b in self.links.items())}"

    @property
    def _folder(self) -> Path:
        """The dataset's folder, for messages."""
        return next(iter(self._roots))


def may_link_outside(name: str) -> bool:
    """Return whether a folder with this name may be a link to a folder outside of the dataset.

    >>> [may_link_outside(name) for name in ("images", "JPEGImages", "train2017", "valid", "data", "my_train")]
    [True, True, True, True, False, False]
    """
    return name.lower() in _LINK_NAMES or canonical_name(name) in SPLITS


def real_path(path: Path) -> Path:
    """Return the path of a file with an absolute folder, whose links are resolved.

    Two paths of one file are then equal, for example `images/a.png` and `labels/../images/a.png`.
    """
    return _real_folder(path.parent) / path.name


def absolute(path: Path) -> Path:
    """Return an absolute path without `..`, in which links are not resolved."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` would follow links)


def have_one_path_each(files: Iterable[Path]) -> bool:
    """Return True if no two different paths can be the same file because of `..` or links to folders. This is fast."""
    folders = {file.parent for file in files}
    return len(set(map(_real_folder, folders))) == len(folders)


def _outermost(folders: Mapping[Path, Path]) -> list[Path]:
    """Return the folders that are in none of the others.

    Args:
        folders: folder → path without links.
    """
    places = {folder: {real, absolute(folder)} for folder, real in folders.items()}
    known = set().union(*places.values())
    return [
        folder for folder, own in places.items() if not any(parent in known for path in own for parent in path.parents)
    ]


def _standard_links(folder: Path) -> Iterator[Path]:
    """Yield the links to folders, directly in a folder or one level below, whose names allow them to lead outside."""
    real = _resolve(folder)
    for name, is_link in _subfolders(folder):
        if is_link and may_link_outside(name):
            yield folder / name
        elif is_link and not _is_inside(_resolve(folder / name), [real]):
            continue
        for below, is_link_below in _subfolders(folder / name):
            if is_link_below and may_link_outside(below):
                yield folder / name / below


def _subfolders(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield name, and whether it is a link, of each subfolder that is not hidden, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_symlink()) for entry in entries if entry.is_dir()]
    except (OSError, ValueError):  # reading the folder will fail with a better message
        return
    yield from sorted(pair for pair in found if not pair[0].startswith("."))


def _is_inside(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether a path without links is one of the folders, or in one of them."""
    return any(path.is_relative_to(folder) for folder in folders)


def _resolve(path: Path) -> Path:
    """Return a path without links; unchanged if it is a loop of links."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or not a valid file name: reading it will fail
        return path


@lru_cache(maxsize=1024)
def _real_folder(folder: Path) -> Path:
    """Return the absolute path of a folder without links."""
    return _resolve(folder)
