"""Writing files so that they appear whole or not at all, also when the program or the power fails."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from detector.errors import InputError


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
