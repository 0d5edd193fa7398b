"""Image files as users have them: paths, bytes, and open files."""

import inspect
import os
from pathlib import Path
from typing import Protocol

from detector.errors import FileError


class BinaryFile(Protocol):
    """An open binary file, such as `io.BytesIO`, `open(path, "rb")` or the attribute `file` of an upload."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; -1: all bytes."""


ImageFile = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile
"""An image file: a path, its bytes, or an open binary file. An open file is read from its start, if it can seek, and
its position is restored."""


def path_or_bytes(source: ImageFile) -> tuple[Path | str | bytes, str | None]:
    """Return the path of an image file, or its content and its name in messages (None: it has no name).

    Raises:
        FileError: an open file cannot be read, or is not binary.
    """
    if isinstance(source, str | bytes | Path):
        return source, None
    if isinstance(source, os.PathLike):
        return os.fsdecode(source), None
    if isinstance(source, bytearray | memoryview):
        return bytes(source), None
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else f"<{type(source).__name__}>"
    return _read(source, name), name


def _read(file: BinaryFile, name: str) -> bytes:
    """Return the content of an open file, from its start if it can seek."""
    if inspect.iscoroutinefunction(file.read):
        raise FileError(
            f"{name}: an object with an asynchronous `read`; pass its attribute `file`, or `await x.read()`"
        )
    data: object = None
    try:
        if (seek := getattr(file, "seek", None)) is not None and _is_seekable(file):
            position = file.tell()  # type: ignore[attr-defined]
            seek(0)
            data = file.read()
            seek(position)
        else:
            data = file.read()
    except UnicodeDecodeError:  # a text file; `data` is None
        pass
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise FileError(f"{name}: the open file cannot be read ({error})") from None
    if not isinstance(data, bytes):
        raise FileError(f"{name}: the file is open as text; open it as binary: open(path, 'rb')")
    return data


def _is_seekable(file: BinaryFile) -> bool:
    """Return True unless a file says that it cannot seek, as a pipe does."""
    seekable = getattr(file, "seekable", None)
    return seekable is None or bool(seekable())
