"""`FileIndex`: all files in the folder of a dataset, and the search for the image file that a label file names.

Label files often come from another computer: their paths begin with folders that do not exist here, or have
backslashes, or another case or Unicode form. The search therefore compares the ends of paths.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from detector.data.folder_walk import FolderWalk
from detector.data.path_guard import PathGuard, real_path
from detector.data.split import split_in
from detector.errors import LabelError
from detector.files import is_file
from detector.images import IMAGE_SUFFIXES
from detector.options import ReadOptions
from detector.wording import plural

_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""Label Studio puts eight hexadecimal digits before the name of an uploaded file."""


def other_folder_note(found: Sequence[tuple[str, "Match | None"]]) -> str:
    """Return a note about images whose folder differs from the one in the label file; empty if there are none.

    Args:
        found: name of an image in the label file, and the image that was found for it.
    """
    moved = [
        (name, match.path) for name, match in found if match and match.parts == 1 and re.search(r"[^/\\][/\\]", name)
    ]
    if not moved:
        return ""
    return (
        f"{plural(len(moved), 'image')} found by the file name only, in another folder than the label file says, the "
        f"first: {moved[0][0]} → {moved[0][1]}"
    )


class Match(NamedTuple):
    """An image file that matches a name.

    Attributes:
        path: the image file.
        parts: number of path parts at the end of the name that match, at least 1; `FULL` if the path is exactly the
            one that the label file names.
    """

    path: Path
    parts: int


FULL = 1000
"""`Match.parts` of a path that a label file names exactly."""


def without_weaker(matches: Sequence[Match | None]) -> list[Match | None]:
    """Return the matches, with None for a match whose file another name matches better.

    Of "a/1.jpg" and "b/1.jpg", only one can be the file a/1.jpg. The other image is missing.
    """
    best: dict[Path, int] = {}
    for match in matches:
        if match is not None:
            best[match.path] = max(match.parts, best.get(match.path, 0))
    return [match if match is not None and match.parts == best[match.path] else None for match in matches]


class FileIndex:
    """The files in a folder and its subfolders, without hidden files and files of the operating system.

    A name that begins with a dot, such as `.ipynb_checkpoints` or `._a.jpg`, belongs to a tool or to the operating
    system. A link to a folder is followed if the guard allows it, unless its files are in the index already. Links that
    the guard does not allow are not in the index; `check_links` refuses them.

    Args:
        folder: the folder of the dataset.
        guard: decides which links may be followed; None: those that a dataset in `folder` may have.

    Attributes:
        folder: the argument.
        guard: the guard.

    Raises:
        LabelError: there are too many files.
    """

    def __init__(self, folder: Path, guard: PathGuard | None = None) -> None:
        self.folder = folder
        self.guard = guard or PathGuard([folder], ReadOptions())
        walk = FolderWalk(str(folder), self.guard)
        self._paths = sorted(walk.files)
        self._refused, self._repeated = sorted(walk.refused), sorted(walk.repeated)

    def __contains__(self, path: Path) -> bool:
        return self._is_known(str(path))

    def check_links(self, guard: PathGuard | None = None) -> None:
        """Raise LabelError if a link in the folder leads to a folder, an image or a label file outside of it.

        Args:
            guard: a guard that allows more than that of the index; None: the guard of the index.
        """
        for link in self._refused:
            (guard or self.guard).check_link(Path(link))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the links in the folder, one sentence each."""
        notes = [self.guard.note] if self.guard.note else []
        if self._repeated:
            notes.append(
                f"{plural(len(self._repeated), 'link')} to folders of the dataset itself, whose files are used once, "
                f"first: {self._repeated[0]}"
            )
        return tuple(notes)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """All files, sorted by path."""
        return tuple(map(Path, self._paths))

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with one of these suffixes (lower case, with dot), sorted by path."""
        return [Path(path) for path in self._paths if path.lower().endswith(suffixes)]

    def without_suffix(self) -> list[Path]:
        """Return the files whose names have no suffix, sorted by path."""
        return [path for path in self.files if not path.suffix]

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """All image files, sorted by path."""
        return tuple(self.with_suffix(*IMAGE_SUFFIXES))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._paths)

    @cached_property
    def _images_by_name(self) -> dict[str, list[str]]:
        return _group(map(str, self.images), os.path.basename)

    @cached_property
    def _images_by_stem(self) -> dict[str, list[str]]:
        return _group(map(str, self.images), _stem)

    @cached_property
    def _texts_by_stem(self) -> dict[str, list[str]]:
        return _group(map(str, self.with_suffix(".txt")), _stem)

    def find_image(
        self,
        name: str,
        label_file: Path,
        split_name: str | None = None,
        *,
        folders: Sequence[Path] = (),
        any_suffix: bool = False,
    ) -> Match | None:
        """Return the image that a label file names, or None if there is none.

        First, the name is tried as a path relative to `folders`, the folder of the label file and the folder of the
        dataset. Then the image whose path has the longest common end with the name is searched. An image in a folder
        of another split (`train/`, `val/`, ...) is not a match.

        Args:
            name: file name or path, as written in the label file.
            label_file: the label file.
            split_name: split of the label file; None: unknown.
            folders: folders in which the name is tried first, in this order.
            any_suffix: whether an image with the same name but another suffix is a match, or the name has no suffix.

        Raises:
            LabelError: several images match equally well.
        """
        bases = [*folders, label_file.parent, self.folder]
        for variant in _variants(name):
            for base in bases:
                path = os.path.normpath(os.path.join(base, variant))
                if path != str(label_file) and self._is_known(path):
                    return Match(Path(path), FULL)
            last = variant.rpartition("/")[2]
            candidates = self._images_by_name.get(_key(last), ())
            if not candidates and any_suffix:
                candidates = self._images_by_stem.get(_key(_stem(last) if _has_image_suffix(last) else last), ())
            if match := self._best(candidates, variant, label_file, split_name):
                return match
        return None

    def _is_known(self, path: str) -> bool:
        """Return whether a path is one of the files, or leads to one of them through a link to a folder."""
        if path in self._known:
            return True
        return any(path.startswith(link + os.sep) for link in self._repeated) and is_file(Path(path))

    def find_text(self, image: Path) -> Path | None:
        """Return the only .txt file in the dataset with the stem of an image, or the one in a folder of its split.

        Raises:
            LabelError: several files match equally well.
        """
        candidates = self._texts_by_stem.get(_key(image.stem), ())
        name = _relative(image, self.folder).replace(os.sep, "/")
        match = self._best(candidates, name, image, None)
        return match and match.path

    def _best(self, candidates: Sequence[str], name: str, label_file: Path, split_name: str | None) -> Match | None:
        """Return the candidate whose path fits best, or None if all are in folders of other splits.

        Raises:
            LabelError: several candidates fit equally well.
        """
        if not candidates:
            return None
        parts = [_key(part) for part in name.split("/") if part not in ("", ".", "..")]
        wanted = {split for part in parts[:-1] if (split := split_in(part))} or {split_name} - {None}
        ranked = []
        for path in candidates:
            own = [_key(part) for part in _relative(path, self.folder).split(os.sep)]
            splits = {split for part in own[:-1] if (split := split_in(part))}
            if splits and wanted and not splits & wanted:
                continue
            count = _common_end(parts[:-1], own[:-1]) + 1
            near = _common_end(Path(path).parent.parts[::-1], label_file.parent.parts[::-1])
            same_case = _stem(path) == _stem(name)
            # annotations/cat/1.xml belongs to images/cat/1.jpg rather than to images/dog/1.jpg.
            parallel = _common_end([_key(part) for part in label_file.parent.parts], own[:-1])
            ranked.append((count, len(splits & wanted), near, same_case, parallel, path))
        ranked.sort(reverse=True)
        best = [path for *rank, path in ranked if rank == list(ranked[0][:-1])]
        if len(best) > 1 and len({real_path(Path(path)) for path in best}) > 1:
            raise LabelError(
                f"{label_file}: {name} may be {ranked[0][-1]} or {ranked[1][-1]}; "
                "write the folder of the image into the label file, or move one of the files out of the dataset"
            )
        return Match(Path(ranked[0][-1]), ranked[0][0]) if ranked else None


def find_end(place: str, roots: Iterable[Path], folders: dict[str, bool] | None = None) -> Path | None:
    """Return the file or folder with the longest end of the path `place` that exists in one of the folders.

    The end always contains the name of a split in the path: of `/content/x/val/images`, `val/images` is searched, but
    not `images`, which may contain the images of another split.

    Args:
        place: a path, possibly of another computer, with slashes or backslashes.
        roots: folders in which the end of the path is searched.
        folders: path → whether it is a folder, for the folders that were asked for before; the function adds others.
    """
    known = {} if folders is None else folders
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    last_split = max((i for i, part in enumerate(parts) if split_in(part)), default=len(parts) - 1)
    for start in range(last_split + 1):
        for root in roots:
            folder = os.path.join(root, *parts[start:-1])
            if folder not in known:
                known[folder] = os.path.isdir(folder)
            if known[folder] and os.path.exists(path := os.path.join(folder, *parts[-1:])):
                return Path(path)
    return None


def comparable_path(name: str) -> str:
    """Return the name of an image in the form in which names are compared: `/` for backslashes, lower case, NFC."""
    return _key(name.replace("\\", "/"))


def _variants(name: str) -> Iterator[str]:
    """Yield a name as written, then with `/` for backslashes, then decoded as a URL, then without an upload prefix."""
    yield name
    plain = name.replace("\\", "/")
    if plain != name:
        yield plain
    if "%" in plain or "?" in plain:
        decoded = unquote(plain.partition("?d=")[2] or plain.partition("?")[0] or plain)
        yield decoded
        plain = decoded
    folder, slash, last = plain.rpartition("/")
    if _UPLOAD_PREFIX.match(last):
        yield folder + slash + _UPLOAD_PREFIX.sub("", last)


def _group(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(_key(key(path)), []).append(path)
    return groups


def _key(text: str) -> str:
    """Return a text in the form in which names are compared: without case, in one Unicode form."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _relative(path: str | Path, folder: Path) -> str:
    """Return a path relative to a folder; the same path if they are on two drives of Windows."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return str(path)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the number of equal parts at the end of two paths."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count
