"""The weights that are part of the package: their names, and the rule that tells a name from a path."""

from pathlib import Path

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
