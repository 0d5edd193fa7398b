"""Lists the files in the folder of a dataset, and follows its links to folders."""

import os
from pathlib import Path

from detector.data.path_guard import LINK_DEPTH, PathGuard, may_link_outside
from detector.errors import FileError, LabelError
from detector.files import is_file
from detector.images import IMAGE_SUFFIXES
from detector.mirror import LABEL_SUFFIXES

_MAX_FILES = 5_000_000
"""Largest number of files in the folder of a dataset. More files mean that the folder is not a dataset."""

_NOT_DATA = ("__MACOSX", "@eaDir", "lost+found", "node_modules")
"""Folders that operating systems, network drives and tools create. Folders that begin with a dot are skipped too."""


class FolderWalk:
    """Finds the files in a folder and its subfolders that are not hidden.

    A link to a folder that may lead outside because of its name is always followed, because label files may name the
    images behind it. The files behind any other link are found once.

    Args:
        folder: the folder.
        guard: decides which links may be followed.

    Attributes:
        files: paths of the files, without pipes and the like, and of links that lead nowhere.
        refused: links to folders, images and label files that the guard does not allow.
        repeated: links to folders whose files were found elsewhere.
    """

    def __init__(self, folder: str, guard: PathGuard) -> None:
        self.files: list[str] = []
        self.refused: list[str] = []
        self.repeated: list[str] = []
        self._guard = guard
        self._seen: set[str] = set()  # folders without links
        self._postponed: list[str] = []  # links to folders
        self._find(folder, os.path.realpath(folder), 0)
        for link in self._postponed:  # the list grows while links are followed
            real = os.path.realpath(link)
            if real in self._seen:
                self.repeated.append(link)
            else:
                self._find(link, real, LINK_DEPTH, once=True)

    def _find(self, folder: str, real: str, depth: int, *, once: bool = False) -> None:
        """Add the files of a folder and its subfolders.

        Args:
            folder: path of the folder.
            real: its path without links.
            depth: number of folders above it in the dataset.
            once: whether to leave out the subfolders whose files were found already.
        """
        self._seen.add(real)
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            problem = f"{folder}: the folder cannot be read ({error.strerror})"
            raise FileError(f"{problem}; change its permissions, or move it out of the dataset") from None
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _NOT_DATA:
                continue
            if entry.is_symlink():
                self._add_link(entry, real, depth)
            elif entry.is_dir():
                subfolder = f"{real}{os.sep}{entry.name}"
                if not once or subfolder not in self._seen:
                    self._find(entry.path, subfolder, depth + 1, once=once)
            elif entry.is_file():  # reading a pipe would never end
                self._add_file(entry.path)

    def _add_link(self, link: "os.DirEntry[str]", folder: str, depth: int) -> None:
        """Add what a link in the real folder `folder` leads to."""
        is_allowed = self._guard.allows(Path(link.path))
        if not _is_folder(link):
            if is_allowed or not is_file(Path(link.path)):
                self._add_file(link.path)
            elif link.name.lower().endswith((*IMAGE_SUFFIXES, *LABEL_SUFFIXES)):
                self.refused.append(link.path)
            return
        if not is_allowed:
            self.refused.append(link.path)
        elif depth < LINK_DEPTH and may_link_outside(link.name):
            real = os.path.realpath(link.path)
            if Path(folder).is_relative_to(real):  # the link leads back to a folder that contains it
                self.repeated.append(link.path)
            else:
                self._find(link.path, real, depth + 1)
        else:
            self._postponed.append(link.path)

    def _add_file(self, path: str) -> None:
        self.files.append(path)
        if len(self.files) > _MAX_FILES:
            raise LabelError(
                f"more than {_MAX_FILES:,} files, such as {path}; put the dataset into a folder of its own"
            )


def _is_folder(link: "os.DirEntry[str]") -> bool:
    """Return whether a link leads to a folder."""
    try:
        return link.is_dir()
    except OSError:  # a loop of links
        return False
