"""Finds the images that the user names: files, folders, glob patterns, lists, standard input, URLs, built-in scenes.

Also images in Parquet files and tar archives, where the caller allows them.
"""

import glob
import hashlib
import logging
import os
import re
import secrets
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
from detector.files import free_name, is_file, local_path, name_key
from detector.images import IMAGE_SUFFIXES, find_images, read_image, unread_images_note
from detector.media.packed_images import (
    COMPRESSED_SUFFIXES,
    PACKED_SUFFIXES,
    PARQUET,
    PackedImages,
    expand_braces,
    is_packed,
)
from detector.media.parquet_images import list_parquet
from detector.media.tar_images import list_tar
from detector.media.urls import MAX_BYTES, check_allowed, fetch, file_name_from_url, is_http_url
from detector.media.video_io import VIDEO_SUFFIXES
from detector.mirror import mirror
from detector.object_store import is_store_url
from detector.options import ReadOptions
from detector.progress import progress_bar
from detector.wording import plural

_SCENE_COUNT = 12
"""Number of images of the built-in dataset that the source `scenes` stands for."""

_LOG = logging.getLogger(__name__)

_MAX_FOLDERS_SEARCHED = 1000
"""If a folder contains no images, at most this many subfolders are searched before suggesting --recursive."""

_TRANSPORT_STREAM = b"G"
"""First byte of each packet of an MPEG transport stream. Source: ISO/IEC 13818-1, 2.4.3.2."""

_PATTERN = re.compile(r"[*?\[]")
"""The start of a glob pattern in a URL."""

_LONGEST_SHOWN = 300
"""Largest number of characters of an invalid name that a message contains."""

_DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True, slots=True)
class Source:
    """An image that is not decoded yet: a name and a function that decodes the image.

    Attributes:
        name: name of the image in results: the path of the image, or a generated file name if the image has no path.
        read: decodes the image and returns it as [H, W, 3] RGB; raises InputError if the image cannot be decoded.
        origin: of an image with a generated name: a hash of its URL, or for standard input a value that is never the
            same. So another image with the same generated name is noticed. Of an image in a Parquet file: its column.
            "": the name is a path.
        container: the Parquet file or tar archive that contains the image; None: the image is a file of its own.
    """

    name: Path
    read: Callable[[], ImageArray]
    origin: str = ""
    container: Path | None = None


_SourceByKey = dict[Path | str, Source]
"""Key → source. The key is a path, a URL or `-`; each key occurs once, so that no image is processed twice."""


def find_sources(specs: Sequence[str], options: ReadOptions = _DEFAULT_OPTIONS) -> list[Source]:
    """List the images that `specs` name and return one `Source` per image; no image is opened.

    Each image is returned once, in the order of `specs`. Each spec is one of:

    - a file, a folder or a glob pattern;
    - an http:// or https:// URL; the image is downloaded when `Source.read` is called;
    - the URL of an image, a folder or a glob pattern in an object store, or of a zip archive; see docs/remote.md;
    - `-`: one image on standard input;
    - `scenes`: twelve images of the built-in dataset, unless a file or folder has the name `scenes`;
    - a .txt file with one file, folder, glob pattern or URL per line. Paths in the list are relative to the folder of
      the list. Blank lines and lines that begin with # are skipped;
    - if `options.packed`: a Parquet file, an uncompressed tar archive, a pattern that matches such files, also with a
      range of numbers as in `shard-{000000..000009}.tar`, or a folder with such files and without images. They are
      opened to list the images in them.

    Args:
        specs: arguments of the command line.
        options: `recursive` includes the images in subfolders (links are followed, but no folder is searched twice),
            `videos` includes the videos in folders, as sources that cannot be read as an image, `allow_url` allows
            http:// and https:// URLs, `max_pixels` is the largest number of pixels of an image that is decoded.

    Raises:
        FileError: a spec or a line of a list matches no image, or a folder or a packed file cannot be read.
        ConfigError: `specs` is empty, a spec is a URL and `allow_url` is False, or a Parquet file has no such column.
        MissingPackageError: a Parquet file is read, and the package pyarrow is not installed.
    """
    if not specs:
        raise ConfigError("no image is given; pass files, folders or glob patterns, or `scenes` for built-in images")
    found: _SourceByKey = {}
    for spec in specs:
        path = Path(spec)
        if spec == "-":
            # The bytes on standard input can be read only once, so the decoded image is cached.
            read = cache(partial(_read_stdin, options.max_pixels))
            found[spec] = Source(Path("stdin.jpg"), read, secrets.token_hex(32))
        elif spec == "scenes" and not path.exists():
            found |= {source.name: source for source in sources_of(scenes.read_split("test"))[:_SCENE_COUNT]}
        elif path.suffix.lower() == ".txt" and is_file(path):
            found |= _find_listed(path, options)
        else:
            found |= _find(spec, Path(), options)
    return _with_unique_names(found)


def sources_of(split: Split) -> list[Source]:
    """Return one `Source` per image of a split; no image is decoded."""
    return [Source(annotation.image_path, partial(split.read_image, annotation)) for annotation in split.annotations]


def _with_unique_names(found: _SourceByKey) -> list[Source]:
    """Return the sources with unique names: a number is added to a generated name that is already in use.

    The names of URLs and of standard input are generated; the names of all other sources are unique paths.
    """
    generated = [key for key in found if isinstance(key, str)]
    taken = dict.fromkeys((name_key(str(key)) for key in found), 1) if generated else {}
    for key in generated:
        name = found[key].name
        found[key] = replace(found[key], name=Path(free_name(name.stem, taken, name.suffix)))
    return list(found.values())


def _find_listed(path: Path, options: ReadOptions) -> _SourceByKey:
    """Read a .txt list and return the sources that its lines name.

    Raises:
        InputError: a line matches no image or is a URL that is not allowed, or the list contains no images.
    """
    try:
        # File names may contain bytes that are not UTF-8; Python decodes command line arguments in the same way.
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
                raise FileError(f"{spec}: a list must not contain another list; pass it as a separate source")
            found |= _find(spec, path.parent, options)
        except InputError as error:
            raise type(error)(f"{location(path, number)}: {error}") from None
    if not found:
        raise FileError(f"{path}: the list contains no images; expected one file, folder, glob pattern or URL per line")
    return found


def _find(spec: str, folder: Path, options: ReadOptions) -> _SourceByKey:
    """Return the sources that one spec names.

    Args:
        spec: a URL, or the path of a file or folder, or a glob pattern.
        folder: folder that paths and patterns are relative to.
        options: as for `find_sources`.

    Raises:
        InputError: as for `find_sources`.
    """
    if is_http_url(spec):
        check_allowed(spec, options.allow_url)
        read = partial(fetch, spec, max_pixels=options.max_pixels)
        # A hash, because the journal must not contain passwords and tokens.
        return {spec: Source(file_name_from_url(spec), read, hashlib.sha256(os.fsencode(spec)).hexdigest())}
    if not spec or "\0" in spec:
        raise FileError(
            f"{spec[:_LONGEST_SHOWN]!r}: not a valid file name; if this is a line of a list, save the list as UTF-8"
        )
    if is_stored := is_store_url(spec):
        spec, folder, options = str(_place_of_url(spec, options)), Path(), replace(options, videos=False)
    local_path(spec)
    try:
        paths = _find_files(spec, folder, options)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # the name is too long, or a pattern has too many folders
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{_shown(spec)}: no such file, folder or pattern ({reason})") from None
    if is_stored and (video := next((path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES), None)):
        raise FileError(f"{video}: videos at this kind of URL are not read; download the video first")
    packed = [path for path in paths if is_packed(path)] if options.packed else []
    if packed and is_stored:
        raise FileError(f"{packed[0]}: Parquet files and tar archives at URLs are not read; download the file first")
    if options.packed and (compressed := [path for path in paths if path.name.lower().endswith(COMPRESSED_SUFFIXES)]):
        raise FileError(
            f"{compressed[0]}: images in a compressed archive cannot be found one by one; decompress it: gunzip, unzstd"
        )
    found: _SourceByKey = {}
    inside = _list_packed(packed, options)
    for path in paths:
        if path not in inside:
            found[path] = Source(path, partial(read_image, path, max_pixels=options.max_pixels))
            continue
        own = inside.pop(path)
        found |= {image.name: Source(image.name, image.read, own.column, path) for image in own.images}
    if not found:
        raise FileError(f"{_shown(spec)}: there are no images in {'this file' if len(packed) == 1 else 'these files'}")
    return found


def _list_packed(paths: Sequence[Path], options: ReadOptions) -> dict[Path, PackedImages]:
    """List the images in Parquet files and tar archives. Log which columns were chosen, and which files are empty."""
    packed: dict[Path, PackedImages] = {}
    bar = progress_bar(paths, unit="file", description="listing images") if len(paths) > 1 else paths
    for path in bar:
        packed[path] = list_parquet(path, options) if path.suffix.lower() == PARQUET else list_tar(path, options)
    if (empty := [path for path, own in packed.items() if not own.images]) and len(empty) < len(packed):
        _LOG.warning("%s without images, such as %s", plural(len(empty), "file"), empty[0])
    for note in dict.fromkeys(own.note for own in packed.values() if own.note):
        alike = [path for path, own in packed.items() if own.note == note]
        others = f" and {plural(len(alike) - 1, 'more file')}" if alike[1:] else ""
        _LOG.info("%s%s: %s; change this with --image-column and --name-column", alike[0], others, note)
    return packed


def _place_of_url(url: str, options: ReadOptions) -> Path:
    """Return the path of a URL, which may be a glob pattern, in a mirror of the folder with its images."""
    if (pattern := _PATTERN.search(url)) is None:
        return mirror(url, labels=False, recursive=options.recursive)
    if "::" in url:
        raise FileError(f"{url}: patterns in archives are not supported; pass the folder in the archive")
    folder, _, first = url[: pattern.start()].rpartition("/")
    is_deep = options.recursive or "/" in url[pattern.start() :]
    return mirror(folder, labels=False, recursive=is_deep) / (first + url[pattern.start() :])


def _find_files(spec: str, folder: Path, options: ReadOptions) -> list[Path]:
    path = folder / spec
    if path.is_dir():
        return _find_in_folder(path, options)
    if path.exists():
        return [path]
    if options.packed and (names := expand_braces(spec)) != [spec]:
        if missing := [name for name in names if not (folder / name).exists()]:
            raise FileError(f"{_shown(str(folder / missing[0]))}: no such file; it is one of {_shown(spec)}")
        return [folder / name for name in names]
    matches = (folder / match for match in glob.glob(spec, root_dir=folder, recursive=True))  # noqa: PTH207 (may be absolute)
    if paths := sorted(match for match in matches if match.is_file()):
        return paths
    raise FileError(f"{_shown(str(path))}: no such file, folder or pattern")


def _find_in_folder(path: Path, options: ReadOptions) -> list[Path]:
    """Return the paths of the images (and videos, if requested) in a folder, and in its subfolders if requested.

    Raises:
        FileError: there are none, or a folder cannot be read.
    """
    folders = list(_walk(path)) if options.recursive else [path]
    paths = [image for folder in folders for image in find_images(folder)]
    if options.videos:
        paths += [video for folder in folders for video in _find_videos(folder)]
    packed = [file for folder in folders for file in _find_packed(folder)] if options.packed else []
    if paths:
        _warn_about_skipped_files(path, options)
        if packed:
            _LOG.warning(
                "%s: skipped %s with images (%s) beside the images; to include these, also pass the files",
                path, plural(len(packed), "file"), ", ".join(sorted({file.suffix.lower() for file in packed})),
            )  # fmt: skip
    if paths or packed:
        return paths or packed
    what = "images or videos" if options.videos else "images"
    where = "in this folder or its subfolders" if options.recursive else "in this folder"
    message = f"{path}: no {what} {where} ({', '.join(sorted(IMAGE_SUFFIXES))})"
    if (note := unread_images_note(path.iterdir())) is not None:
        message += f"; {note}"
    with suppress(InputError):
        if any(map(find_images, islice(_walk(path), _MAX_FOLDERS_SEARCHED))):
            message += ", but its subfolders contain images: add --recursive"
    raise FileError(message)


def _find_packed(folder: Path) -> list[Path]:
    """Return the paths of the Parquet files and tar archives directly in a folder, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PACKED_SUFFIXES and path.is_file() and not path.name.startswith((".", "_"))
    )


def _find_videos(folder: Path) -> list[Path]:
    """Return the paths of the videos directly in a folder, sorted by name. A .ts file may be source code instead."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not path.name.startswith("._")
        and not _is_source_code(path)
    )


def _is_source_code(path: Path) -> bool:
    """Return True if a .ts or .mts file is no MPEG transport stream: then it is source code in TypeScript."""
    if path.suffix.lower() not in (".ts", ".mts"):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(5)
    except OSError:  # reading the video will give a message
        return False
    return _TRANSPORT_STREAM not in (head[:1], head[4:])  # some files have a time stamp of four bytes first


def _warn_about_skipped_files(folder: Path, options: ReadOptions) -> None:
    """Log a warning if a folder contains videos that are not read, or images in formats that are not read."""
    paths = list(folder.iterdir())
    suffixes = [suffix for path in paths if (suffix := path.suffix.lower()) in VIDEO_SUFFIXES]
    if suffixes and not options.videos:
        patterns = ", ".join(str(folder / f"*{suffix}") for suffix in sorted(set(suffixes)))
        _LOG.warning(
            "%s: skipped %s; to include videos, also pass: %s", folder, plural(len(suffixes), "video"), patterns
        )
    if (note := unread_images_note(paths)) is not None:
        _LOG.warning("%s: skipped: %s", folder, note)


def _walk(top: Path) -> Iterator[Path]:
    """Yield a folder and all its subfolders at any depth, sorted by name, following links.

    Each folder is yielded once, also if several links lead to it.

    Raises:
        FileError: a folder cannot be read.
    """
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
            # `Path.is_dir` is False for a link whose target does not exist, and for a link to itself.
            subfolders = sorted((path for path in candidates if path.is_dir()), reverse=True)
        except OSError as error:
            raise FileError(f"{error.filename or folder}: the folder cannot be read ({error.strerror})") from None
        yield folder
        remaining += subfolders


def _shown(text: str) -> str:
    """Return a text for a message: shortened to `_LONGEST_SHOWN` characters and `...` if it is longer."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _read_stdin(max_pixels: int) -> ImageArray:
    """Read standard input and return the decoded image [H, W, 3] RGB.

    Raises:
        InputError: standard input cannot be read, is too large, or is not an image that can be decoded.
    """
    if sys.stdin is None:
        raise FileError("-: standard input is closed; pipe an image into the command")
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileError(f"-: standard input cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise FileError(f"-: the file on standard input is larger than {MAX_BYTES / 1e6:.0f} MB; pass its path instead")
    return read_image(data, name="standard input", max_pixels=max_pixels)
