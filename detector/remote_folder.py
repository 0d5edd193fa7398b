"""Output folders at URLs: a command works in a local folder, which is uploaded at each checkpoint and at the end.

`output_place` locks the URL, downloads the run that is resumed, and yields the local folder; the code of the commands
knows nothing else of the URL. `upload` uploads what has changed since the last time:

1. the manifest, in which the changed files have no hash: they count as being written, see `manifest.py`;
2. the changed files, one object each, so none is ever half written; checkpoints last, because they refer to the others;
3. the manifest with all hashes; then files that were removed are removed.

So a process that is killed at any point leaves a run that can be resumed, as in a local folder.

The lock is an object that is created by a conditional request, so only one of two writers gets it. A process that is
killed leaves its lock; nobody else can know that, so the next command names the file to remove.
"""

import atexit
import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from detector.errors import FileError, StorageError
from detector.files import LOCK_NAME, local_path
from detector.manifest import MANIFEST_NAME
from detector.mirror import make_file, temporary_folder
from detector.object_store import CONNECTIONS, ObjectStore, is_store_url
from detector.url_names import add_url
from detector.wording import plural

_LOG = logging.getLogger(__name__)

_STATE = "state/"
"""Beginning of the names of checkpoints."""


@dataclass(eq=False)
class _Remote:
    """The URL of a local output folder.

    Attributes:
        store: the store.
        token: content of the lock of this process.
        uploaded: name of each file at the URL → size and modification time of the local file when it was uploaded.
        time: `time.monotonic()` at the end of the last upload.
    """

    store: ObjectStore
    token: bytes
    uploaded: dict[str, tuple[int, int]] = field(default_factory=dict)
    time: float = field(default_factory=time.monotonic)

    def path(self, name: str) -> str:
        return f"{self.store.path}/{name}"


_remotes: dict[Path, _Remote] = {}
"""Local folder → its URL."""


@contextmanager
def output_place(out: str | Path, *, resume: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """Context manager that yields the path of an output folder; of a URL, a local folder that stands for it.

    The end of the `with` block uploads the folder for the last time, also after an error, and unlocks the URL.

    Args:
        out: path or URL of the folder.
        resume: whether the command continues what is in the folder. Otherwise, there must be nothing at the URL.
        overwrite: whether the user wants to replace files, which is not possible at a URL.

    Raises:
        FileError: another process writes to the URL, there is something and `resume` is False, or it cannot be used.
        StorageError: files cannot be downloaded or uploaded.
    """
    if not is_store_url(out):
        yield local_path(out)
        return
    url = str(out).rstrip("/")
    if overwrite:
        raise FileError(f"{url}: files at a URL are not overwritten; remove them first, or leave out --overwrite")
    store = ObjectStore(url)
    folder = temporary_folder(url)
    add_url(folder, url)
    remote = _Remote(store, f"{platform.node()}, process {os.getpid()}, {secrets.token_hex(8)}\n".encode())
    _lock(remote, url)
    _remotes[folder] = remote
    atexit.register(_unlock, folder)  # where the end of the block is not reached
    try:
        _download(remote, folder, url, resume)
        try:
            yield folder
        except BaseException:
            with suppress(StorageError):
                upload(folder)
            raise
        upload(folder)
    except BaseException:
        try:
            _unlock(folder)
        except StorageError as error:  # must not hide why the command ends
            _LOG.warning("%s; remove %s/%s before the next command", error, url, LOCK_NAME)
        raise
    _unlock(folder)


def _download(remote: _Remote, folder: Path, url: str, resume: bool) -> None:
    """Download what is at a URL, to resume it; raise FileError if there is something and `resume` is False."""
    store = remote.store
    found = [file for file in store.list(store.path) if file.path != remote.path(LOCK_NAME)]
    if found and not resume:
        raise FileError(f"{url}: {plural(len(found), 'file')} are there; choose another --out, or remove them first")
    names = [file.path.removeprefix(store.path).lstrip("/") for file in found]
    for name in names:
        make_file(folder, name)
    with ThreadPoolExecutor(CONNECTIONS // 4) as pool:
        contents = pool.map(lambda file, name: store.read(file, f"{folder}/{name}"), found, names)
        for name, data in zip(names, contents, strict=True):
            (folder / name).write_bytes(data)
            remote.uploaded[name] = _state(folder / name)


def upload(folder: Path, *, every: float = 0.0) -> None:
    """Upload what has changed in an output folder, if it is that of a URL.

    Args:
        folder: the local folder.
        every: do nothing if the last upload was less than this number of seconds ago.

    Raises:
        StorageError: a file cannot be uploaded, or another process writes to the URL.
    """
    remote = _remotes.get(folder)
    if remote is None or time.monotonic() - remote.time < every:
        return
    lock = f"{folder}/{LOCK_NAME}"
    if remote.store.read_text(remote.path(LOCK_NAME)) != remote.token:
        raise StorageError(
            f"{lock}: this lock was removed or replaced, so another process may write here; nothing was uploaded"
        )
    now = {
        path.relative_to(folder).as_posix(): _state(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK_NAME and not path.name.endswith(".part")
    }
    changed = [name for name, state in now.items() if name != MANIFEST_NAME and remote.uploaded.get(name) != state]
    removed = [name for name in remote.uploaded if name not in now]
    manifest = folder / MANIFEST_NAME
    if changed and manifest.is_file():
        lines = "".join(json.dumps({"name": name}) + "\n" for name in changed)
        _put(remote, folder, MANIFEST_NAME, manifest.read_bytes() + lines.encode())
    with ThreadPoolExecutor(CONNECTIONS // 4) as pool:
        others = [name for name in changed if not name.startswith(_STATE)]
        list(pool.map(lambda name: _put(remote, folder, name, (folder / name).read_bytes()), others))
    for name in (name for name in changed if name.startswith(_STATE)):
        _put(remote, folder, name, (folder / name).read_bytes())
    if manifest.is_file() and (changed or removed or remote.uploaded.get(MANIFEST_NAME) != now[MANIFEST_NAME]):
        _put(remote, folder, MANIFEST_NAME, manifest.read_bytes())
    for name in removed:
        remote.store.remove(remote.path(name), f"{folder}/{name}")
    remote.uploaded, remote.time = now, time.monotonic()


def _put(remote: _Remote, folder: Path, name: str, data: bytes) -> None:
    remote.store.write(remote.path(name), data, f"{folder}/{name}")


def _lock(remote: _Remote, url: str) -> None:
    """Lock a URL for this process.

    Raises:
        FileError: another process has locked it, or the store has no conditional requests.
    """
    place, name = remote.path(LOCK_NAME), f"{url}/{LOCK_NAME}"
    try:
        remote.store.create(place, remote.token, name)
        # Who has created it, is not enough: a request that is repeated after a lost answer finds its own lock; and a
        # store that checks the condition and writes in two steps lets two processes create it.
        owner = remote.store.read_text(place)
        # Some stores ignore the condition.
        if owner == remote.token and remote.store.create(place, remote.token, name):
            remote.store.remove(place, name)
            raise FileError(f"{url}: this store cannot exclude two writers, so nothing is written; use a local folder")
    except StorageError as error:
        raise FileError(*error.args) from None
    if owner != remote.token:
        raise FileError(
            f"{url}: another process is writing here ({(owner or b'').decode(errors='replace').strip():.200}); wait "
            f"until it has finished, or use another folder. If it was killed, remove {name} first"
        )


def _unlock(folder: Path) -> None:
    """Remove the lock of this process, if it has one."""
    if (remote := _remotes.pop(folder, None)) is not None:
        place = remote.path(LOCK_NAME)
        if remote.store.read_text(place) == remote.token:
            remote.store.remove(place, f"{folder}/{LOCK_NAME}")


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
