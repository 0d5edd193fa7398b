"""Reads text files of one image with one row per object, whose columns are separated by spaces."""

from collections.abc import Callable, Sequence
from pathlib import Path

from detector.data.image_labels import ImageLabels, NamedRow
from detector.data.parsing.row_values import parse_row
from detector.files import read_text


def read_rows(path: Path, parse: Callable[[Sequence[str]], NamedRow]) -> tuple[ImageLabels, ...]:
    """Read the text file of one image, which has its name without suffix; an empty file is a background image.

    Args:
        path: the file.
        parse: returns the row of some columns. Raises RowError if it cannot be used.

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    rows = tuple(parse_row(parse, columns, line, path.stem) for line, text in lines if (columns := text.split()))
    return (ImageLabels(path, None, path.stem, rows),)
