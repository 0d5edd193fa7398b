"""What a user names, as single images: files, folders, globs, lists of these, standard input, URLs."""

import glob
import logging
import os
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Protocol

from detector.arrays import ImageArray
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.errors import InputError, location
from detector.files import free_name, is_file
from detector.images import IMAGE_SUFFIXES, find_images, read_image
from detector.media.urls import MOST_BYTES, check_allowed, fetch, is_on_web, name_of
from detector.media.video_io import VIDEO_SUFFIXES

_SCENES_SHOWN = 12

_MAYBE_MEANT = VIDEO_SUFFIXES | {".avif", ".gif", ".heic", ".heif", ".jp2", ".pgm", ".ppm"}
"""Endings of files that are not looked for in folders."""

_LOG = logging.getLogger(__name__)

_MOST_FOLDERS = 1000
"""Subfolders that are looked through for the sake of a better message."""


class _Read(Protocol):
    def __call__(self) -> ImageArray: ...


@dataclass(frozen=True, slots=True)
class Source:
    """An image that can be read.

    Attributes:
        name: as results call it: the path, or a made-up one for what has none.
        read: gives the image [H, W, 3]; raises InputError.
    """

    name: Path
    read: _Read


_Found = dict[Path | str, Source]
"""What tells a source from others (its path, its URL, the word itself) → the source."""


def find_sources(words: Sequence[str], recursive: bool = False, allow_url: bool = False) -> list[Source]:
    """Return the images that `words` name, each once, in order.

    A word is a file, a folder, a glob; a .txt file with a file, folder, glob or URL per line, relative to the list's
    own folder, where blank lines and those that begin with # are skipped; `-` for one image on standard input; a URL,
    fetched when it is read; or "scenes" for a dozen images of the built-in set, unless there is a file of that name.

    Args:
        words: what a user said.
        recursive: take the images in the subfolders of folders too; links are followed, but no folder is taken twice.
        allow_url: allow http:// and https://.

    Raises:
        InputError: a word, or a line of a list, names nothing; a folder cannot be read.
    """
    if not words:
        raise InputError("no images given; name files, folders or patterns, or `scenes`")
    found: _Found = {}
    for word in words:
        path = Path(word)
        if word == "-":
            found[word] = Source(Path("stdin.jpg"), cache(_read_stdin))  # which gives its bytes but once
        elif word == "scenes" and not path.exists():
            found |= {source.name: source for source in sources_of(scenes.read_split("test"))[:_SCENES_SHOWN]}
        elif path.suffix.lower() == ".txt" and is_file(path):
            found |= _find_listed(path, recursive, allow_url)
        else:
            found |= _find(word, Path(), recursive, allow_url)
    made_up = [key for key in found if isinstance(key, str)]
    taken = dict.fromkeys(map(str, found), 1) if made_up else {}
    for key in made_up:
        name = found[key].name
        found[key] = replace(found[key], name=Path(free_name(name.stem, taken, name.suffix)))
    return list(found.values())


def sources_of(split: Split) -> list[Source]:
    """Return the images of a split."""
    return [Source(annotation.image_path, partial(split.read_image, annotation)) for annotation in split.annotations]


def _find_listed(path: Path, recursive: bool, allow_url: bool) -> _Found:
    """Find what the lines of a list name."""
    try:
        # Names may be of bytes that are no UTF-8, as on the command line.
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    found: _Found = {}
    for number, line in enumerate(text.split("\n"), 1):
        word = line.strip(" \t\r")
        if not word or word.startswith("#"):
            continue
        try:
            if word.lower().endswith(".txt") and is_file(path.parent / word):
                raise InputError(f"{word}: a list in a list; name what it names here, or give it as a source too")
            found |= _find(word, path.parent, recursive, allow_url)
        except InputError as error:
            raise InputError(f"{location(path, number)}: {error}") from None
    if not found:
        raise InputError(f"{path}: a list without images; expected a file, folder or pattern per line")
    return found


def _find(word: str, folder: Path, recursive: bool, allow_url: bool) -> _Found:
    """Find what one word names, relative to a folder."""
    if is_on_web(word):
        check_allowed(word, allow_url)
        return {word: Source(name_of(word), partial(fetch, word))}
    try:
        paths = _find_files(word, folder, recursive)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # too long a name, a zero byte, too many folders
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{word[:100]!r}: cannot be looked for ({reason})") from None
    return {path: Source(path, partial(read_image, path)) for path in paths}


def _find_files(word: str, folder: Path, recursive: bool) -> list[Path]:
    if not word or "\0" in word:
        raise InputError(f"{word[:100]!r}: no name of a file (a list has to be UTF-8)")
    path = folder / word
    if path.is_dir():
        folders = _folders(path) if recursive else [path]
        if paths := [image for each in folders for image in find_images(each)]:
            _say_what_is_left_out(path)
            return paths
        where = "in this folder or below" if recursive else "in this folder"
        missing = f"{path}: no images {where} ({', '.join(sorted(IMAGE_SUFFIXES))})"
        with suppress(InputError):
            if any(map(find_images, islice(_folders(path), _MOST_FOLDERS))):
                missing += ", but in its subfolders: add --recursive"
        raise InputError(missing)
    if path.exists():
        return [path]
    matches = (folder / match for match in glob.glob(word, root_dir=folder, recursive=True))  # noqa: PTH207 (may be absolute)
    if paths := sorted(match for match in matches if match.is_file()):
        return paths
    raise InputError(f"{path}: no such file, folder or pattern")


def _say_what_is_left_out(folder: Path) -> None:
    """Say which files of a folder may be meant too, but are taken only where they are named."""
    endings = [suffix for path in folder.iterdir() if (suffix := path.suffix.lower()) in _MAYBE_MEANT]
    if endings:
        named = ", ".join(str(folder / f"*{suffix}") for suffix in sorted(set(endings)))
        _LOG.warning("%s: %d files that may be meant too are taken only if named: %s", folder, len(endings), named)


def _folders(top: Path) -> Iterator[Path]:
    """Yield a folder and all below it, by name; one that links lead to again is not taken again."""
    seen, todo = set(), [top]
    while todo:
        folder = todo.pop()
        try:
            status = folder.stat()
            if (identity := (status.st_dev, status.st_ino)) in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                maybe = [Path(entry) for entry in entries if entry.is_symlink() or entry.is_dir()]
            below = sorted((path for path in maybe if path.is_dir()), reverse=True)  # no ring of links
        except OSError as error:
            raise InputError(f"{error.filename or folder}: the folder cannot be read ({error.strerror})") from None
        yield folder
        todo += below


def _read_stdin() -> ImageArray:
    """Read the image on standard input."""
    if sys.stdin is None:
        raise InputError("-: there is no standard input")
    try:
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"-: standard input cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"-: more than {MOST_BYTES / 1e6:.0f} MB on standard input")
    return read_image(data, name="standard input")


def not_done(sources: Sequence[Source], done: Container[str], batch: int) -> list[Source]:
    """Return the sources of all batches of which an image is not done, by name.

    Whole batches, since the last digits of an answer may depend on the images that are computed beside it: a run that
    goes on gives the same answers as one that was never stopped.
    """
    batches = (sources[start : start + batch] for start in range(0, len(sources), batch))
    return [source for some in batches if any(str(one.name) not in done for one in some) for source in some]
