"""Datasets and images at URLs: a local folder with the same file names, in which images are downloaded when read.

Everything that finds files works on this folder, the mirror, as on any other: the recognition of formats, the search
for images, the path guard. So reading from a URL adds no second way through the code:

1. `mirror` lists the files at the URL once and makes the folder, in which images are empty files. The label files are
   downloaded, because recognizing and reading them opens most of them. The mirror belongs to this process and is
   removed at its end, so nothing in it can be outdated.
2. Image files are opened with `open_file` or `read_file`. For a file of a mirror, they download the content, or take it
   from the cache (`cache.REMOTE`: limited, shared by processes, the least recently used content is removed first). The
   key is URL and version (ETag), so a file that changes at the URL is never mistaken for the cached one; one that
   changes after it was listed is an error.
3. `read_ahead` wraps a loop over images, and downloads the next ones while the loop works on one. Threads that wait for
   downloads may be more than the cores: `read_threads`.
4. `url_names.with_urls` shows the URL wherever the path of a mirror is printed or written.

A failed download is a `StorageError`, never an unreadable image: a training run must not go on without the images of
the minute in which the network was down.
"""

import atexit
import contextlib
import io
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TypeVar

from detector.cache import REMOTE, cache_folder, cache_key, read_entry, write_entry
from detector.errors import FileError
from detector.files import locked, safe_name
from detector.object_store import CONNECTIONS, ObjectStore, StoredFile
from detector.url_names import add_url

LABEL_SUFFIXES = (
    ".json",
    ".jsonl",
    ".manifest",
    ".xml",
    ".csv",
    ".tsv",
    ".txt",
    ".yaml",
    ".yml",
    ".data",
    ".names",
    ".labels",
)
"""Suffixes of files that a dataset may read; images have other suffixes."""

_CARD = "readme.md"
"""Name of a file that may name the classes: the dataset card of Hugging Face."""

_AHEAD_FILES = 2 * CONNECTIONS
_AHEAD_BYTES = 256_000_000
"""Largest number and size of the files that `read_ahead` downloads in advance."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class _Mirror:
    """The mirror of a URL: its store, and relative path → file that is downloaded when it is read."""

    store: ObjectStore
    files: Mapping[str, StoredFile]


_mirrors: dict[str, _Mirror] = {}
"""Folder of each mirror of this process, without links → mirror."""

_ahead: dict[str, Future[bytes]] = {}
"""Path of a file → its download, which `read_ahead` has started."""

_ahead_lock = Lock()


def mirror(url: str, *, labels: bool, recursive: bool = True, parts: Collection[str] = ()) -> Path:
    """Make a mirror of the files at a URL, and return the path in it that corresponds to the URL.

    Args:
        url: URL of a folder, of a file, or of a zip archive, whose files count as those of a folder. Of a file, the
            whole folder is copied.
        labels: whether to download the label files.
        recursive: whether to include subfolders.
        parts: names of folders, in lower case, that are a part of a dataset: the mirror is that of the folder above.

    Raises:
        FileError: there is nothing at the URL, it cannot be listed, or a name cannot be that of a local file.
        MissingPackageError: the package for this kind of URL is not installed.
        StorageError: a label file cannot be downloaded.
    """
    if url.lower().endswith(".zip") and "::" not in url:
        if url.lower().startswith("zip://"):
            raise FileError(f"{url}: this URL names no archive; for all files of an archive: zip://::{url[6:]}")
        url = f"zip://::{url}"
    store = ObjectStore(url)
    found = store.list(store.path, recursive=recursive)
    if not found:
        raise FileError(
            f"{url}: no file or folder is there{_or_no_bucket(store)}; expected the URL of a folder, of a file or of a "
            ".zip file"
        )
    base, inner = PurePosixPath(store.path), PurePosixPath()
    while (is_file := [file.path for file in found] == [_text(base)]) or base.name.lower() in parts:
        base, inner = base.parent, base.name / inner
        if not is_file:
            parts = ()
        found = store.list(_text(base), recursive=recursive)
    base_path = _text(base)
    shown = store.url_of(base_path)
    folder = temporary_folder(shown)
    add_url(folder, shown)
    files = {name: file for file in found if (name := file.path.removeprefix(base_path).lstrip("/"))}
    _mirrors[str(folder)] = made = _Mirror(store, files)
    for name in files:
        make_file(folder, name)
    if labels:
        names = {name: None for name in files if name.lower().endswith((*LABEL_SUFFIXES, _CARD))}
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for name, data in zip(names, pool.map(lambda name: _download(made, folder, name), names), strict=True):
                (folder / name).write_bytes(data)
        _mirrors[str(folder)] = _Mirror(store, {name: file for name, file in files.items() if name not in names})
    return folder / inner


def _or_no_bucket(store: ObjectStore) -> str:
    """Return a second cause for the message that a store has no files at a URL, if it hides a missing bucket."""
    return f", or there is no such {store.may_be_missing}" if store.may_be_missing else ""


@cache
def local_copy(url: str) -> Path:
    """Download the file at a URL, once per process; return the path of a copy, which is removed at its end.

    For files that a library reads, such as weights.

    Raises:
        FileError: there is no file at the URL, or it cannot be reached.
        MissingPackageError: the package for this kind of URL is not installed.
        StorageError: the file cannot be downloaded.
    """
    store = ObjectStore(url)
    found = store.list(store.path)
    if [file.path for file in found] != [store.path]:
        if found:
            raise FileError(f"{url}: a folder, and only single files at a URL can be used; download the folder")
        raise FileError(f"{url}: no such file{_or_no_bucket(store)}; expected the URL of a file")
    path = PurePosixPath(store.path)
    shown = store.url_of(_text(path.parent))
    folder = temporary_folder(shown)
    add_url(folder, shown)
    make_file(folder, path.name)
    (folder / path.name).write_bytes(_download(_Mirror(store, {path.name: found[0]}), folder, path.name))
    return folder / path.name


def is_at_url(path: Path | str) -> bool:
    """Return whether a path is that of a file at a URL, which `read_file` downloads."""
    return _find(path) is not None


def stored_file(path: Path | str) -> StoredFile | None:
    """Return size and version of a file at a URL; None if the path is another one."""
    found = _find(path)
    return found and found[0].files[found[2]]


def read_file(path: Path | str) -> bytes:
    """Return the content of a local file, or of a file at a URL.

    Raises:
        OSError: the local file cannot be read.
        StorageError: the file at the URL cannot be read.
    """
    if (found := _find(path)) is None:
        return Path(path).read_bytes()
    with _ahead_lock:
        download = _ahead.pop(_key(path), None)
    return download.result() if download is not None else _download(*found)


def open_file(path: Path | str) -> io.BytesIO | io.BufferedReader:
    """Open a local file, or a file at a URL, for reading. Raises errors as `read_file`."""
    return io.BytesIO(read_file(path)) if is_at_url(path) else Path(path).open("rb")


def read_threads() -> int | None:
    """Return how many threads should read files: one per core, or more if they wait for downloads."""
    return CONNECTIONS if _mirrors else os.cpu_count()


def read_ahead(items: Iterable[_Item], path_of: Callable[[_Item], Path | str]) -> Iterator[_Item]:
    """Yield the items; download the files of the next items at the same time.

    Args:
        items: what a loop reads the files of, in order.
        path_of: returns the path of the file of an item; a local file is only read when the loop reads it.
    """
    if not _mirrors:
        yield from items
        return
    waiting: deque[tuple[_Item, str, int]] = deque()
    given: deque[str] = deque()  # the loop may collect items before it reads their files
    size = 0

    def take() -> _Item:
        item, key, own_size = waiting.popleft()
        nonlocal size
        size -= own_size
        given.append(key)
        if len(given) > CONNECTIONS:
            _forget(given.popleft())
        return item

    try:
        for item in items:
            file = _start(path_of(item))
            waiting.append((item, _key(path_of(item)), file.size if file is not None else 0))
            size += waiting[-1][2]
            while len(waiting) > _AHEAD_FILES or size > _AHEAD_BYTES:
                yield take()
        while waiting:
            yield take()
    finally:
        for key in (*given, *(key for _, key, _ in waiting)):
            _forget(key)


def start_reading(paths: Iterable[Path]) -> None:
    """Start to download files that will be read soon."""
    for path in paths:
        _start(path)


def _start(path: Path | str) -> StoredFile | None:
    """Start to download a file, unless that is being done; return its size and version, None for a local file."""
    if (found := _find(path)) is None:
        return None
    with _ahead_lock:
        if _key(path) not in _ahead:
            _ahead[_key(path)] = _pool().submit(_download, *found)
    return found[0].files[found[2]]


def _forget(key: str) -> None:
    """Forget a download that nobody has waited for."""
    with _ahead_lock:
        download = _ahead.pop(key, None)
    if download is not None:
        download.cancel()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="download")


def _key(path: Path | str) -> str:
    return os.path.normpath(path)


def _find(path: Path | str) -> tuple[_Mirror, Path, str] | None:
    """Return the mirror of a path, its folder, and the path relative to the folder; None if there is no such file."""
    for folder, own in list(_mirrors.items()):
        text = str(path)
        if text.startswith(folder + os.sep):
            name = os.path.normpath(text)[len(folder) + 1 :].replace(os.sep, "/")
            return (own, Path(folder), name) if name in own.files else None
    return None


def _download(own: _Mirror, folder: Path, name: str) -> bytes:
    """Return the content of a file of a mirror, from the cache or from the store."""
    file = own.files[name]
    key = cache_key(own.store.url_of(file.path), file.size, file.version)
    data = read_entry(key, REMOTE) if file.version else None
    if data is None:
        data = own.store.read(file, str(folder / name))
        if file.version:
            write_entry(key, data, REMOTE)
    return data


def make_file(folder: Path, name: str) -> None:
    """Create an empty file in a mirror.

    Raises:
        FileError: the name cannot be that of a local file.
    """
    path, parts = folder / name, PurePosixPath(name).parts
    try:
        if ".." in parts or "/".join(parts) != name or (os.name == "nt" and any(sign in name for sign in '\\:*?"<>|')):
            raise ValueError("a part of it is empty, . or .., or has a sign that file names cannot have")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("xb").close()
    except FileExistsError:
        raise FileError(f"{path}: this file has the name of another file or of a folder here; rename it") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: this name cannot be the name of a local file ({error}); rename the file") from None


def _text(path: PurePosixPath) -> str:
    """Return a path in a store as text; "" for its root."""
    return str(path) if path.parts else ""


def temporary_folder(url: str) -> Path:
    """Return a new empty folder, which is removed at the end of the process, for the files of a URL."""
    parent = cache_folder("mirrors", create=True)
    if parent is not None:
        _remove_unused(parent)
    try:
        own = Path(tempfile.mkdtemp(dir=parent, prefix="mirror-")).resolve()
        lock = contextlib.ExitStack()
        lock.enter_context(locked(own, "reading"))
        atexit.register(_remove, own, lock)
        # The name of the folder is that of the dataset in messages.
        name = url.partition("::")[0].rpartition("/")[2] or PurePosixPath(url).stem
        folder = own / "files" / safe_name(name)
        folder.mkdir(parents=True)
    except OSError as error:
        raise FileError(f"{parent}: no folder for {url} can be created ({error.strerror})") from None
    return folder


def _remove(folder: Path, lock: contextlib.ExitStack) -> None:
    """Remove a mirror of this process."""
    lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def _remove_unused(parent: Path) -> None:
    """Remove the mirrors of processes that were killed: nobody holds their locks, taken before `files` was made."""
    for files in parent.glob("mirror-*/files"):
        with contextlib.suppress(FileError, OSError), locked(files.parent, "reading"):
            shutil.rmtree(files.parent, ignore_errors=True)
