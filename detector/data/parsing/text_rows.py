"""Reads text files of one image with one row per object, whose columns are separated by spaces or another character."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from detector.data.image_labels import ImageLabels, NamedRow
from detector.data.parsing.row_values import parse_row
from detector.files import read_text


def read_rows(
    path: Path,
    parse: Callable[[Sequence[str]], NamedRow],
    separator: str | None = None,
    header: re.Pattern[str] | None = None,
) -> tuple[ImageLabels, ...]:
    """Read the text file of one image, which has its name without suffix; an empty file is a background image.

    Args:
        path: the file.
        parse: returns the row of some columns. Raises RowError if it cannot be used.
        separator: what separates the columns; None: spaces and tabs.
        header: matches lines that are no rows, without the spaces around them; None: every line that is not blank is
            a row.

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    texts = ((line, text.strip()) for line, text in enumerate(read_text(path).split("\n"), start=1))
    rows = tuple(
        parse_row(parse, text.split(separator), line, path.stem)
        for line, text in texts
        if text and not (header and header.fullmatch(text))
    )
    return (ImageLabels(path, None, path.stem, rows),)
