"""The weights that are part of the package: their names, and the rule that tells a name from a path."""

from pathlib import Path

from detector.errors import FileError
from detector.files import local_path

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


def find_weights(source: str | Path) -> Path:
    """Return the path of a weights file: of the shipped weights with the name `source`, else the path `source`.

    Args:
        source: a path, or the name of shipped weights.

    Raises:
        FileError: the file does not exist, and no shipped weights have this name.
    """
    if (shipped := find_shipped(source)) is not None:
        return shipped
    path = local_path(source)
    try:
        if path.is_file():
            return path
    except OSError as error:  # for example a name that is too long, or a folder without permission
        raise FileError(f"{source!s:.60}: the weights file cannot be opened: {error.strerror}") from None
    names = ", ".join(shipped_weights())
    raise FileError(f"{source}: there is no such weights file; pass a path, or the name of shipped weights: {names}")
