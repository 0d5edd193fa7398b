"""The cache: data that is expensive to compute, kept in files between processes. The only cache folder of the package.

The folder is `$XDG_CACHE_HOME/detector`, or `~/.cache/detector` if that variable is not set. Its size is limited: the
entries that were not used for the longest time are removed first. The contents of files at URLs have a folder and a
limit of their own, `REMOTE`, because they are larger. `DETECTOR_CACHE=off` in the environment turns the cache off.
Without the cache, everything works as with it, only slower. So a cache that cannot be read or written is no error.

What is read from the cache runs in this process. Therefore, only files of this user are read, from a folder in which no
other user can write, and each entry contains a hash of its data.
"""

import contextlib
import hashlib
import logging
import os
import re
import stat
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SWITCH = "DETECTOR_CACHE"
"""Environment variable that turns the cache off, with one of the values in `_OFF`."""

MAX_BYTES = 500_000_000
"""Largest size of all entries together, without those of `REMOTE`."""

REMOTE = "remote"
"""Name of the part of the cache, and of its folder, that holds the content of files at URLs."""

REMOTE_LIMIT = "DETECTOR_REMOTE_CACHE"
"""Environment variable with the largest size of `REMOTE` in GB, such as 50 or 0.5."""

_REMOTE_GB = 10.0
"""The default of `REMOTE_LIMIT`."""

_OFF = ("0", "off", "no", "false")

_HASH_BYTES = hashlib.sha256().digest_size
"""An entry is the hash of its key and its data, followed by the data."""

_ENTRY = re.compile(r"[0-9a-f]{64}(\.[^.]+\.part)?")
"""Name of an entry or of its temporary file. No other file is ever removed."""

_PART_SECONDS = 3600
"""Age at which a temporary file is removed: the process that wrote it was killed."""

_LOG = logging.getLogger(__name__)


def cache_key(*parts: str | int | None) -> str:
    """Return the key of an entry: a hash of everything that its data depend on, 64 hexadecimal digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def read_entry(key: str, part: str = "") -> bytes | None:
    """Return the data of an entry; None if there is no valid entry with this key. A damaged entry is removed.

    Args:
        key: a key of `cache_key`.
        part: part of the cache: "" or `REMOTE`.
    """
    if (folder := cache_folder(part)) is None:
        return None
    path = folder / key
    try:
        # O_NOFOLLOW: an entry is never a link. O_NONBLOCK: opening a pipe must not wait.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_own(status):
                return None
            content = file.read(_max_bytes(part) + 1)
    except OSError:  # there is no such entry, or another process has just removed it
        return None
    data = content[_HASH_BYTES:]
    if content[:_HASH_BYTES] != _hash(key, data):
        _LOG.warning("%s: this entry of the cache is damaged; it is removed and computed again", path)
        _remove(path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the time of the last use
    return data


def write_entry(key: str, data: bytes, part: str = "") -> None:
    """Write an entry, then remove the oldest entries until the cache is small enough. Does nothing if that fails.

    Several processes may write the same entry: each writes a file of its own and renames it.

    Args:
        key: a key of `cache_key`.
        data: the data.
        part: part of the cache: "" or `REMOTE`.
    """
    max_bytes = _max_bytes(part)
    if len(data) + _HASH_BYTES > max_bytes or (folder := cache_folder(part, create=True)) is None:
        return
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f"{key}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(_hash(key, data) + data)
        temporary.replace(folder / key)
    except OSError as error:  # for example a full disk
        _LOG.debug("the cache cannot be written: %s", error)
        if temporary is not None:
            _remove(temporary)
        return
    if not part:
        _shrink(folder, key, max_bytes, max_bytes)
    elif _filling.add(folder, len(data) + _HASH_BYTES, max_bytes):
        _filling.start(_shrink(folder, key, max_bytes, int(0.9 * max_bytes)))


def _max_bytes(part: str) -> int:
    """Return the largest size of a part of the cache in bytes."""
    if not part:
        return MAX_BYTES
    try:
        return int(float(os.environ.get(REMOTE_LIMIT) or _REMOTE_GB) * 1e9)
    except (ValueError, OverflowError):
        _warn_limit(os.environ[REMOTE_LIMIT])
        return int(_REMOTE_GB * 1e9)


@lru_cache(maxsize=8)
def _warn_limit(value: str) -> None:
    """Log a warning that the environment variable `REMOTE_LIMIT` cannot be used, once per process and value."""
    _LOG.warning("%s=%s: expected a number of GB, such as 50; %g is used", REMOTE_LIMIT, value, _REMOTE_GB)


@dataclass
class _Filling:
    """How full `REMOTE` is, so that its many files need not be listed for each new entry.

    Attributes:
        folder: the folder; None: it was not listed yet.
        size: size when the folder was listed, plus what this process has written since.
        written: what this process has written since, in bytes. Other processes write too, so the folder is listed
            again after a tenth of the limit.
    """

    folder: Path | None = None
    size: int = 0
    written: int = 0

    def add(self, folder: Path, size: int, max_bytes: int) -> bool:
        """Count a new entry; return whether the folder must be listed."""
        is_new, self.folder = folder != self.folder, folder
        self.size += size
        self.written += size
        return is_new or self.size > max_bytes or self.written > max_bytes / 10

    def start(self, size: int) -> None:
        """Start with the size of the folder, which was listed."""
        self.size, self.written = size, 0


_filling = _Filling()


def cache_folder(part: str = "", create: bool = False) -> Path | None:
    """Return the folder of the cache; None if the cache is off, or if the folder is missing, unusable or unsafe.

    Args:
        part: name of a folder in it; "": the folder itself.
        create: whether to create missing folders.
    """
    if (folder := _folder(create)) is None or not part:
        return folder
    folder = folder / part
    try:
        if create:
            folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    return folder if stat.S_ISDIR(status.st_mode) and _is_own(status) else None


def _folder(create: bool = False) -> Path | None:
    """Return the folder of the cache; None if the cache is off, or if the folder is missing, unusable or unsafe."""
    if os.environ.get(SWITCH, "").lower() in _OFF:
        return None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not base.is_absolute():  # the XDG specification: ignore a relative path
            base = Path.home() / ".cache"
        folder = base / "detector"
        if create:
            base.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        # The folder and, if it is a link, the link too must belong to this user.
        status, link = folder.stat(), folder.lstat()
    except (OSError, RuntimeError):  # no such folder, a read-only disk, or a user without home folder
        return None
    writable_by_others = os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not (_is_own(status) and _is_own(link)) or writable_by_others:
        _warn_unsafe(folder)
        return None
    return folder if stat.S_ISDIR(status.st_mode) else None


def _hash(key: str, data: bytes) -> bytes:
    """Return the hash of an entry. It contains the key, so that an entry with the name of another is damaged too."""
    return hashlib.sha256(key.encode() + data).digest()


def _is_own(status: os.stat_result) -> bool:
    """Return whether a file belongs to the user of this process. True on systems without user ids."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


@lru_cache(maxsize=8)
def _warn_unsafe(folder: Path) -> None:
    """Log a warning that the folder of the cache is not used, once per process and folder."""
    _LOG.warning(
        "%s: the cache is not used, because another user owns this folder or can write in it; remove the folder, set "
        "XDG_CACHE_HOME to a folder of your own, or turn the cache off with %s=off",
        folder,
        SWITCH,
    )


def _shrink(folder: Path, keep: str, max_bytes: int, rest: int) -> int:
    """Remove old temporary files and, if the entries are too large, those with the oldest use; return the size left.

    Args:
        folder: folder of a part of the cache.
        keep: key of the entry that was just written.
        max_bytes: largest size of all entries.
        rest: if they are larger, entries are removed until this size is left.
    """
    entries: list[tuple[float, int, Path]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):  # another process removes entries too
                status = file.stat(follow_symlinks=False)
                if _ENTRY.fullmatch(file.name) and stat.S_ISREG(status.st_mode):
                    entries.append((status.st_mtime, status.st_size, Path(file.path)))
    size = sum(bytes_ for _, bytes_, _ in entries)
    is_full = size > max_bytes
    for modified, bytes_, path in sorted(entries):
        is_part, is_old = path.suffix == ".part", modified < time.time() - _PART_SECONDS
        if path.name != keep and (is_old if is_part else is_full and size > rest):
            _remove(path)
            size -= bytes_
    return size


def _remove(path: Path) -> None:
    """Remove a file; do nothing if that is impossible or another process has removed it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
