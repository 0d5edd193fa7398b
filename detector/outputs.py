"""The rule for overwriting, and files that prove that this package wrote them.

The rule: a file is written only where nothing is, or where this package provably wrote the file that is there, and
never through a link inside the output folder. Everything else is an error before the work starts, unless the user asks
for `--overwrite`. There are two kinds of proof:

- A file that the user names (`--json`, `--results`, `export --out`) contains a signature: the hash of the file itself.
  See `claim_file` and `write_file` here.
- A folder that the user names (`--out`) contains a manifest: the names and hashes of the files that were written there.
  See `claim_folder` in `output_folder.py`.

So a command that is repeated replaces its own files, and a file that the user has changed is kept.
"""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detector.errors import FileError
from detector.files import json_bytes, local_path, make_folder, write_atomic, write_errors

SIGNATURE_KEY = "written_by"
"""Key of the signature: in a JSON object, in the first row of a JSON list, and in the metadata of a graph."""

UNSIGNED = "detector sha256:" + "0" * 64
"""Value of the signature before `sign` puts the hash into it."""

_SIGNATURE = re.compile(rb"detector sha256:([0-9a-f]{64})")

_STREAM = re.compile(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)")
"""An open file of this process as a path. On Linux, the names /dev/stdout and /dev/stderr are links to such paths."""

_STANDARD_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}

WAYS_OUT = "use another name, move the file away, or add --overwrite to replace it"
"""What the user can do about a file that is not overwritten."""


def sign(data: bytes) -> bytes:
    """Return the content of a file with its first `UNSIGNED` replaced by a signature, which has the same length.

    The signature contains the hash of `data`. So `is_signed` detects a change of any byte.
    """
    assert UNSIGNED.encode() in data
    return data.replace(UNSIGNED.encode(), f"detector sha256:{hashlib.sha256(data).hexdigest()}".encode(), 1)


def is_signed(data: bytes) -> bool:
    """Return True if the content of a file is as `sign` returned it; False if another program wrote or changed it.

    >>> is_signed(sign(b"a" + UNSIGNED.encode())), is_signed(sign(b"a" + UNSIGNED.encode()) + b"b"), is_signed(b"a")
    (True, False, False)
    """
    found = _SIGNATURE.search(data)
    if found is None:
        return False
    digest = hashlib.sha256(data[: found.start()] + UNSIGNED.encode())
    digest.update(memoryview(data)[found.end() :])
    return digest.hexdigest().encode() == found[1]


def signed_json(values: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    """Return values as JSON with a signature.

    The signature is the first key of an object, and an additional key of the first row of a list, which programs that
    read COCO results ignore. An empty list has no signature.
    """
    signature = {SIGNATURE_KEY: UNSIGNED}
    if isinstance(values, dict):
        return sign(json_bytes(signature | without_signature(values)))
    if not values:
        return json_bytes(values)
    return sign(json_bytes([without_signature(values[0]) | signature, *map(without_signature, values[1:])]))


def without_signature(values: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object without the signature that `signed_json` added."""
    return {key: value for key, value in values.items() if key != SIGNATURE_KEY}


def claim_file(path: Path | None, *, overwrite: bool = False, inputs: Iterable[Path | None] = ()) -> None:
    """Create the folder of a file, and raise FileError if the file must not or cannot be written.

    Called before the work whose result `write_file` writes to the path. A path of None is accepted and does nothing.
    A terminal, a pipe or another device is written to directly.

    Args:
        path: a file that the user names. Nothing may be there except an empty file, an empty JSON list, a signed file
            or a device.
        overwrite: also accept any other file or link. A link is replaced, and the file that it leads to is kept.
        inputs: files that the command reads or also writes; they are never accepted.

    Raises:
        FileError: the message names the file and says what is there.
    """
    if path is None or _stream(path) is not None:
        return
    path = local_path(path)
    make_folder(path.parent)
    for other in inputs:
        if other is not None and _same_file(path, other):
            raise FileError(f"{path}: the same command also uses this file; use another name for the output")
    if path.is_dir():
        raise FileError(f"{path}: cannot be written, because it is a folder; expected a file name")
    if reason := why_not_ours(path):
        if not overwrite:
            raise FileError(f"{path}: {reason}, so it is not overwritten; {WAYS_OUT}")
    elif path.exists() and not os.access(path, os.W_OK):
        raise FileError(f"{path}: cannot be written (it is read-only)")
    if not _is_device(path) and not os.access(path.parent, os.W_OK):
        raise FileError(f"{path}: cannot be written (no permission to create files in {path.parent})")


def why_not_ours(path: Path) -> str | None:
    """Return the reason why a file must not be overwritten, as text; None if it may.

    A file that holds nothing, such as one that `mktemp` created, may be overwritten.
    """
    if _is_device(path):
        return None
    if path.is_symlink():
        return f"is a link to {path.readlink()}"
    if not path.exists():
        return None
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"exists and cannot be read ({error.strerror})"
    if not data or data == json_bytes([]) or is_signed(data):
        return None
    return "was changed after it was written" if _SIGNATURE.search(data) else "was not written by this program"


def write_file(path: Path, data: bytes) -> None:
    """Write a file that `claim_file` has accepted: atomically, or directly if it is a terminal, a pipe or a device.

    Raises:
        FileError: the file cannot be written.
    """
    with write_errors(path):
        if (stream := _stream(path)) is not None:
            if sys.stdout is not None:
                sys.stdout.flush()  # so that the order of the output is that of the calls
            with os.fdopen(os.dup(stream), "wb") as file:
                file.write(data)
            return
        if _is_device(path):
            with path.open("wb") as file:
                file.write(data)
            return
    write_atomic(path, data)


def write_signed_json(path: Path, values: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write values as signed JSON to a file that `claim_file` has accepted.

    Raises:
        FileError: the file cannot be written.
    """
    write_file(path, signed_json(values))


def _stream(path: Path) -> int | None:
    """Return the number of the open file of this process that a path names, such as 1 for /dev/stdout; else None.

    Opening the path would truncate the file to which the shell has redirected the output.
    """
    name = path.as_posix()  # on Windows, str would have backslashes
    if (number := _STANDARD_STREAMS.get(name)) is not None:
        return number
    match = _STREAM.fullmatch(name)
    return int(match[1] or match[2]) if match else None


def _is_device(path: Path) -> bool:
    """Return True if a path leads to something that exists and is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _same_file(path: Path, other: Path) -> bool:
    """Return True if both paths lead to the same file, which may not exist yet."""
    try:
        return path.samefile(other)
    except OSError:
        return path.resolve() == other.resolve()
