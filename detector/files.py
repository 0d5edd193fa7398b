"""Writing files: whole or not at all, also when the program or the power fails; under names that will do anywhere.

A folder can be locked against other processes meanwhile.
"""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detector.errors import InputError, at

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST_NAME = 150
"""Bytes of a made-up name: most systems take 255, and a number and an ending are still to come."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that are devices on Windows, whatever stands behind the dot."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror})") from None


def append_line(file: io.FileIO, values: Any) -> None:
    """Add values as a line of JSON to a file opened without a buffer: at once, and whole or not at all.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    rest = memoryview(json.dumps(values).encode() + b"\n")
    end = file.tell()
    try:
        while rest:  # a disk that is nearly full takes a part and refuses the next
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, make sure that it is on the disk, then give it its name.

    Raises:
        InputError: it cannot be written; what stood there before is untouched.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def write_json(path: Path, values: Any) -> None:
    """Write JSON, whole or not at all; a tuple becomes a list."""
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode())


def _flush_folder(folder: Path) -> None:
    """Make sure that the new name is on the disk, where folders can be opened for it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # what kept it from being written may keep it from being removed
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is not there, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


@contextlib.contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder; the system lets go when the process ends, however.

    Nobody is kept out where there are no such locks: on Windows, and on some network drives.

    Args:
        folder: has to be there.
        doing: what other processes are told is being done in it.

    Raises:
        InputError: another process is there already, or the folder cannot be opened.
    """
    try:
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise InputError(f"{folder}: cannot be opened ({error.strerror})") from None
    try:
        try:
            if handle is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another process is {doing} in this folder; wait for it, or use another"
            ) from None
        except OSError:
            pass  # there are no locks on this drive
        yield
    finally:
        if handle is not None:
            os.close(handle)


def safe_name(text: str) -> str:
    """Return `text` as the name of one file or folder that every system takes: no path, not reserved, not too long.

    >>> [safe_name(text) for text in ("red blood cell", "a/b", "..", "", "CON")]
    ['red blood cell', 'a_b', '_', '_', '_CON']
    """
    name = "".join(sign if sign.isprintable() and sign not in '<>:"/\\|?*' else "_" for sign in text)
    name = name.encode()[:_LONGEST_NAME].decode(errors="ignore").strip(". ")
    return f"_{name}" if not name or _RESERVED.match(name) else name


def free_name(stem: str, taken: dict[str, int], suffix: str = "") -> str:
    """Return `stem` and `suffix`, numbered between if that is taken, and take it: `taken` grows.

    >>> taken = {"a.jpg": 1}
    >>> [free_name("a", taken, ".jpg") for _ in range(2)]
    ['a-2.jpg', 'a-3.jpg']
    """
    name, number = stem + suffix, taken.get(stem + suffix, 1)
    while name in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken[name] = 1
    taken[stem + suffix] = number  # so that thousands of one name are not counted through each time
    return name


def read_text(path: Path) -> str:
    r"""Return the text of a file in UTF-8, without its byte order mark and with `\n` as the only line end.

    Raises:
        InputError: the file cannot be opened or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{at(path, line)}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def is_file(path: Path) -> bool:
    """Say whether there is such a file; a name that none can have (too long, for one) is that of no file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
