"""Read and write files: atomic writes, folder locks, file names that are valid on every operating system."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from detector.errors import FileError, location
from detector.url_names import with_urls
from detector.wording import shown

LOCK_NAME = ".detector.lock"
"""Name of the lock file that `locked` creates in a folder."""

_NO_FILE_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of a drive that has no file locks."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}")
"""The start of a URL. A single letter before the colon is a drive of Windows."""

_LONGEST_NAME = 150
"""Largest length of a generated name in bytes. Most systems allow 255; a number and a suffix are added later."""

RESERVED_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names reserved for devices on Windows, with or without a suffix."""


def local_path(value: str | Path) -> Path:
    """Return `value` as a path, unless it is a URL, which `Path` would change to the name of a local file.

    A `Path` object that was made from a URL is recognized too: `Path("s3://b/x")` is the path s3:/b/x.

    Args:
        value: a path.

    Raises:
        FileError: `value` is a URL, contains a NUL character, or is no path.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise FileError(f"expected a path of a file or folder, got {shown(value)}")
    if match := _URL.match(str(value)):
        url = f"{match[1]}://{str(value)[match.end() :]}"
        raise FileError(
            f"{url}: this is a URL, and only local files and folders can be used; download the files or mount the "
            "storage first, then pass the local path"
        )
    return Path(value)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Context manager for writing a file: an OSError inside becomes a FileError that names the file."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror or error})") from None


def make_folder(path: Path) -> None:
    """Create a folder and its parent folders, if they do not exist.

    Raises:
        FileError: the folder cannot be created, or `path` is a URL.
    """
    path = local_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: the folder cannot be created ({error.strerror})") from None


def file_sha256(*paths: Path) -> str:
    """Return the SHA-256 hash of the contents of one or more files, one after the other, as 64 hexadecimal digits.

    Raises:
        FileError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def part_name() -> str:
    """Return a new name for a temporary file, which no other file or link can have."""
    return f".{secrets.token_hex(8)}.part"


def append_line(file: io.FileIO, values: Any) -> None:
    """Append values to an unbuffered file as one line of JSON. If an error occurs, the file is not changed.

    Raises:
        OSError: the line cannot be written.
    """
    rest = memoryview(json.dumps(values).encode() + b"\n")
    end = file.tell()
    try:
        while rest:  # a disk that is nearly full accepts a part of the line and refuses the rest
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        raise


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the JSON object in a line that `append_line` wrote, or an empty dictionary if the line is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically: write a temporary file, flush the data to disk, then rename the temporary file.

    Raises:
        FileError: the file cannot be written. A file that existed before is not changed.
    """
    temporary = local_path(path).with_name(part_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # what prevented writing may also prevent removing
            temporary.unlink(missing_ok=True)
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None


def write_json(path: Path, values: Any) -> None:
    """Write values to a JSON file atomically."""
    write_atomic(path, json_bytes(values))


def json_bytes(values: Any) -> bytes:
    """Return the content of a JSON file, indented; tuples become lists.

    Local copies of files at URLs get the names of their URLs.
    """
    return (with_urls(json.dumps(values, indent=1)) + "\n").encode()


def flush_folder(folder: Path) -> None:
    """Flush the file names in a folder to disk after a rename. Does nothing on systems that cannot open a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_json(path: Path) -> Any:
    """Read a JSON file and return its values.

    Raises:
        FileError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{path}: cannot be read as JSON ({error})") from None


def read_text(path: Path) -> str:
    r"""Read a UTF-8 file and return its text, without byte order mark and with `\n` as line ending.

    Raises:
        FileError: the file cannot be opened or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FileError(f"{location(path, line)}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None


def is_file(path: Path) -> bool:
    """Return whether `path` is an existing file. Return False for an invalid path, such as a name that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Context manager that locks a folder, so that no other process can lock the same folder.

    The operating system releases the lock when the process ends. On drives without file locks (some network drives),
    nothing is locked.

    Args:
        folder: an existing folder.
        doing: what a process does that locks this folder, such as "training"; part of the error message.

    Raises:
        FileError: another process holds the lock, the lock file cannot be created, or a file or link of another
            program has its name.
    """
    path = folder / LOCK_NAME
    if path.is_symlink() or (path.is_file() and path.stat().st_size):  # to lock a file truncates it
        raise FileError(f"{path}: this file is not a lock of this program, so it is not used; move it away")
    lock = filelock.FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise FileError(
            f"{folder}: another process is {doing} in this folder; wait until it has finished, or use another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_FILE_LOCKS:
            raise FileError(f"{folder}: cannot be locked ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


def safe_name(text: str) -> str:
    """Convert text to a file or folder name that is valid on every operating system, and return the name.

    The name contains no path separators, is not a reserved name, and is not too long.

    >>> [safe_name(text) for text in ("red blood cell", "a/b", "..", "", "CON")]
    ['red blood cell', 'a_b', '_', '_', '_CON']
    """
    name = "".join(sign if sign.isprintable() and sign not in '<>:"/\\|?*' else "_" for sign in text)
    name = name.encode()[:_LONGEST_NAME].decode(errors="ignore").strip(". ")
    return f"_{name}" if not name or RESERVED_NAME.match(name) else name


def name_key(name: str) -> str:
    """Return a key that is equal for two names if a file system may take them for the same name.

    Some file systems do not distinguish upper and lower case, or the Unicode forms of an accented letter.

    >>> name_key("IMG.JPG") == name_key("img.jpg"), name_key("e\u0301") == name_key("\u00e9")
    (True, True)
    """
    return unicodedata.normalize("NFC", name).casefold()


def free_name(stem: str, taken: dict[str, int], suffix: str = "") -> str:
    """Return the name `stem + suffix` if it is free, else the first free of `stem-2 + suffix`, `stem-3 + suffix`, ...

    The key of the returned name is added to `taken`, whose keys are the `name_key` of the names that are not free.

    >>> taken = {"a.jpg": 1}
    >>> [free_name(stem, taken, ".jpg") for stem in ("a", "A")]
    ['a-2.jpg', 'A-3.jpg']
    """
    key, name = name_key(stem + suffix), stem + suffix
    number = taken.get(key, 1)
    while name_key(name) in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken[name_key(name)] = 1
    taken[key] = number  # so that the next search for the same name starts here
    return name
