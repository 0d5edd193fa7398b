"""Where weights are: in the package, in a local file, or at a URL."""

from pathlib import Path

from detector.errors import FileError
from detector.files import local_path
from detector.mirror import local_copy
from detector.object_store import absolute_url, is_store_url

_FOLDER = Path(__file__).parent / "weights"
"""Folder of the shipped weights."""


def shipped_weights() -> dict[str, Path]:
    """Return name → path of all shipped weights, sorted by name."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.safetensors"))}


def find_shipped(source: str | Path) -> Path | None:
    """Return the path of shipped weights, or None if `source` is a path.

    A string that is exactly the name of shipped weights always means these weights, even if a file or folder of this
    name exists: a folder `cells` in the working directory must not change what `cells` means. `./cells` names that
    folder. A `Path` object is always a path.

    Args:
        source: a path, or the name of shipped weights.
    """
    return shipped_weights().get(source) if isinstance(source, str) else None


def weights_path(source: str | Path) -> Path:
    """Return the path of weights, which may not exist: of shipped ones, of a copy of the file at a URL, or `source`.

    Args:
        source: a path, the name of shipped weights, or a URL.

    Raises:
        FileError: there is no file at the URL, or this kind of URL is not read.
        StorageError: the file at the URL cannot be downloaded.
    """
    if (shipped := find_shipped(source)) is not None:
        return shipped
    return local_copy(str(source)) if is_store_url(source) else local_path(source)


def lasting_name(source: str | Path) -> str:
    """Return a text that names weights in another process too: a name, an absolute path, or a URL.

    Args:
        source: as for `weights_path`.
    """
    if find_shipped(source) is not None:
        return str(source)
    return absolute_url(str(source)) if is_store_url(source) else str(local_path(source).absolute())


def find_weights(source: str | Path) -> Path:
    """Return the path of a weights file: of the shipped weights with the name `source`, else the path `source`.

    Args:
        source: as for `weights_path`.

    Raises:
        FileError: the file does not exist, and no shipped weights have this name.
        StorageError: as for `weights_path`.
    """
    path = weights_path(source)
    try:
        if path.is_file():
            return path
    except OSError as error:  # for example a name that is too long, or a folder without permission
        raise FileError(f"{source!s:.60}: the weights file cannot be opened: {error.strerror}") from None
    names = ", ".join(shipped_weights())
    raise FileError(f"{source}: there is no such weights file; pass a path, or the name of shipped weights: {names}")
