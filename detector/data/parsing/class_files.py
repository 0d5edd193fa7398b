"""Finds and reads files that name the classes, for the readers of formats whose rows have the numbers of classes."""

from collections.abc import Sequence
from pathlib import Path

from detector.errors import LabelError
from detector.files import is_file, read_text


def find_class_file(folders: Sequence[Path], pattern: str) -> Path | None:
    """Return the first file in some folders whose name matches a pattern; None if there is none.

    Args:
        folders: the folders, in the order in which they are searched; the last one contains the others.
        pattern: name of the file as in `Path.glob`, such as `*class-descriptions*.csv`.

    Raises:
        LabelError: the file is a link that leads out of the last folder. Names of classes are stored with the weights
            and shown, so a downloaded dataset must not take them from any file of the user.
    """
    file = next((file for folder in folders for file in sorted(folder.glob(pattern)) if is_file(file)), None)
    if file is not None and not file.resolve().is_relative_to(folders[-1].resolve()):
        raise LabelError(f"{file}: is a link to a file outside of the dataset; copy the file to its place")
    return file


def read_class_file(file: Path) -> tuple[str, ...]:
    """Return the lines of a file with one class name per line; the name of class i is at index i.

    Raises:
        FileError: the file cannot be read or is not UTF-8.
    """
    return tuple(name.strip() for name in read_text(file).strip("\n").split("\n"))
