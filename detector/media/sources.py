"""Image sources: files, folders, globs, lists of these, standard input, URLs, and the built-in scenes."""

import glob
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

from detector.arrays import ImageArray
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.errors import ConfigError, FileError, InputError, location
from detector.files import free_name, is_file
from detector.images import IMAGE_SUFFIXES, find_images, read_image
from detector.media.urls import MAX_BYTES, check_allowed, fetch, file_name_from_url, is_http_url
from detector.media.video_io import VIDEO_SUFFIXES
from detector.options import ReadOptions

_SCENE_COUNT = 12
"""Number of built-in images that the source `scenes` stands for."""

_SUFFIXES_TO_REPORT = VIDEO_SUFFIXES | {".avif", ".gif", ".heic", ".heif", ".jp2", ".pgm", ".ppm"}
"""Suffixes of images and videos that are not collected from folders; a warning reports them."""

_LOG = logging.getLogger(__name__)

_MAX_FOLDERS_SEARCHED = 1000
"""Number of subfolders searched to find out whether the message can suggest --recursive."""

_LONGEST_SHOWN = 300
"""Characters of an unusable name that a message shows."""

_DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True, slots=True)
class Source:
    """An image that can be read.

    Attributes:
        name: identifies the image in results: its path, or a generated file name for images without a path.
        read: returns the image [H, W, 3] RGB; raises InputError.
    """

    name: Path
    read: Callable[[], ImageArray]


_SourceByKey = dict[Path | str, Source]
"""Sources by what identifies them, so that each is taken once: a path, a URL, or `-`."""


def find_sources(specs: Sequence[str], options: ReadOptions = _DEFAULT_OPTIONS) -> list[Source]:
    """Return the images that `specs` name, each once, in the order given; no image is opened yet.

    A spec is a file, a folder, a glob pattern, a URL (downloaded when the image is read), `-` for one image on standard
    input, `scenes` for a dozen images of the built-in set (unless a file or folder has that name), or a .txt file.
    A .txt file lists one file, folder, glob pattern or URL per line, relative to its own folder; blank lines and lines
    that begin with # are skipped.

    Args:
        specs: what to read, as given on the command line.
        options: `recursive` includes the images in subfolders (links are followed, but no folder is searched twice),
            `allow_url` allows http:// and https:// URLs, `max_pixels` applies when an image is read.

    Raises:
        FileError: a spec, or a line of a list, matches nothing; a folder cannot be read.
        ConfigError: no specs; a URL where URLs are not allowed.
    """
    if not specs:
        raise ConfigError("no images given; name files, folders or glob patterns, or `scenes` for built-in images")
    found: _SourceByKey = {}
    for spec in specs:
        path = Path(spec)
        if spec == "-":
            # Standard input can be read only once, so the decoded image is cached.
            found[spec] = Source(Path("stdin.jpg"), cache(partial(_read_stdin, options.max_pixels)))
        elif spec == "scenes" and not path.exists():
            found |= {source.name: source for source in sources_of(scenes.read_split("test"))[:_SCENE_COUNT]}
        elif path.suffix.lower() == ".txt" and is_file(path):
            found |= _find_listed(path, options)
        else:
            found |= _find(spec, Path(), options)
    return _with_unique_names(found)


def sources_of(split: Split) -> list[Source]:
    """Return the images of a split."""
    return [Source(annotation.image_path, partial(split.read_image, annotation)) for annotation in split.annotations]


def _with_unique_names(found: _SourceByKey) -> list[Source]:
    """Return the sources; number the generated names (of URLs and standard input) that are already in use."""
    generated = [key for key in found if isinstance(key, str)]
    taken = dict.fromkeys(map(str, found), 1) if generated else {}
    for key in generated:
        name = found[key].name
        found[key] = replace(found[key], name=Path(free_name(name.stem, taken, name.suffix)))
    return list(found.values())


def _find_listed(path: Path, options: ReadOptions) -> _SourceByKey:
    """Return the sources that the lines of a .txt list name."""
    try:
        # File names may contain bytes that are not UTF-8, as they may on the command line.
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    found: _SourceByKey = {}
    for number, line in enumerate(text.split("\n"), 1):
        spec = line.strip(" \t\r")
        if not spec or spec.startswith("#"):
            continue
        try:
            if spec.lower().endswith(".txt") and is_file(path.parent / spec):
                raise FileError(f"{spec}: a list cannot contain another list; give it as a source of its own")
            found |= _find(spec, path.parent, options)
        except InputError as error:
            raise type(error)(f"{location(path, number)}: {error}") from None
    if not found:
        raise FileError(f"{path}: the list contains no images; expected one file, folder or glob pattern per line")
    return found


def _find(spec: str, folder: Path, options: ReadOptions) -> _SourceByKey:
    """Return the sources that a URL, file, folder or glob pattern names, relative to a folder."""
    if is_http_url(spec):
        check_allowed(spec, options.allow_url)
        return {spec: Source(file_name_from_url(spec), partial(fetch, spec, max_pixels=options.max_pixels))}
    try:
        paths = _find_files(spec, folder, options.recursive)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # a name that is too long; too many folders in a pattern
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{_shown(spec)}: no such file, folder or pattern ({reason})") from None
    return {path: Source(path, partial(read_image, path, max_pixels=options.max_pixels)) for path in paths}


def _find_files(spec: str, folder: Path, recursive: bool) -> list[Path]:
    if not spec or "\0" in spec:
        raise FileError(f"{spec[:_LONGEST_SHOWN]!r}: not a file name (a list of images must be a UTF-8 file)")
    path = folder / spec
    if path.is_dir():
        return _find_in_folder(path, recursive)
    if path.exists():
        return [path]
    matches = (folder / match for match in glob.glob(spec, root_dir=folder, recursive=True))  # noqa: PTH207 (may be absolute)
    if paths := sorted(match for match in matches if match.is_file()):
        return paths
    raise FileError(f"{_shown(str(path))}: no such file, folder or pattern")


def _find_in_folder(path: Path, recursive: bool) -> list[Path]:
    """Return the images in a folder, and in its subfolders if `recursive`."""
    folders = _walk(path) if recursive else [path]
    if paths := [image for folder in folders for image in find_images(folder)]:
        _warn_of_skipped_files(path)
        return paths
    where = "in this folder or its subfolders" if recursive else "in this folder"
    message = f"{path}: no images {where} ({', '.join(sorted(IMAGE_SUFFIXES))})"
    with suppress(InputError):
        if any(map(find_images, islice(_walk(path), _MAX_FOLDERS_SEARCHED))):
            message += ", but its subfolders contain images: add --recursive"
    raise FileError(message)


def _warn_of_skipped_files(folder: Path) -> None:
    """Warn of videos and rare image formats in a folder: they are read only if named explicitly."""
    suffixes = [suffix for path in folder.iterdir() if (suffix := path.suffix.lower()) in _SUFFIXES_TO_REPORT]
    if suffixes:
        patterns = ", ".join(str(folder / f"*{suffix}") for suffix in sorted(set(suffixes)))
        _LOG.warning(
            "%s: skipped %d files that are videos or rare image formats; to include them, name them: %s",
            *(folder, len(suffixes), patterns),
        )


def _walk(top: Path) -> Iterator[Path]:
    """Yield a folder and all folders below it, sorted by name; a folder that links lead to again is yielded once."""
    seen, remaining = set(), [top]
    while remaining:
        folder = remaining.pop()
        try:
            status = folder.stat()
            if (identity := (status.st_dev, status.st_ino)) in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                candidates = [Path(entry) for entry in entries if entry.is_symlink() or entry.is_dir()]
            # `is_dir` of the path is False for links that point to nothing or to themselves.
            subfolders = sorted((path for path in candidates if path.is_dir()), reverse=True)
        except OSError as error:
            raise FileError(f"{error.filename or folder}: the folder cannot be read ({error.strerror})") from None
        yield folder
        remaining += subfolders


def _shown(text: str) -> str:
    """Return the beginning of a text that may be very long, for messages."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _read_stdin(max_pixels: int) -> ImageArray:
    """Read and decode the image on standard input."""
    if sys.stdin is None:
        raise FileError("-: there is no standard input")
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileError(f"-: standard input cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise FileError(f"-: more than {MAX_BYTES / 1e6:.0f} MB on standard input")
    return read_image(data, name="standard input", max_pixels=max_pixels)
