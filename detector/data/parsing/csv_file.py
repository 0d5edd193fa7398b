"""Reads the rows of a CSV label file. Shared by the readers of CSV formats."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from detector.errors import LabelError, location
from detector.files import read_text

DELIMITERS = ",;\t"


class CsvRow(NamedTuple):
    """One row of a CSV file.

    Attributes:
        line: line number, counted from 1.
        cells: the text of the columns, without space around it.
    """

    line: int
    cells: tuple[str, ...]


def read_csv_file(path: Path, delimiter: str) -> list[CsvRow]:
    """Return all rows of a CSV file that are not blank.

    Raises:
        FileError: the file cannot be read or is not UTF-8.
        LabelError: a quotation mark is not closed on the same line, or a cell is too long.
    """
    return list(_rows(read_text(path).split("\n"), delimiter, path))


def first_rows(lines: Sequence[str], delimiter: str) -> list[CsvRow]:
    """Return the rows in the first lines of a file that are not blank, up to the first line that is not CSV."""
    rows: list[CsvRow] = []
    with suppress(LabelError):
        for row in _rows([line.lstrip("\ufeff").rstrip("\r\n") for line in lines], delimiter, Path()):
            rows.append(row)
    return rows


def _rows(lines: Sequence[str], delimiter: str, path: Path) -> Iterator[CsvRow]:
    reader, line = csv.reader(lines, delimiter=delimiter, strict=True), 0
    try:
        for cells in reader:
            line += 1
            if reader.line_num != line:
                raise _quote_error(path, line)
            if any(cell.strip() for cell in cells):
                yield CsvRow(line, tuple(cell.strip() for cell in cells))
    except csv.Error as error:
        if lines[line].count('"') % 2:
            raise _quote_error(path, line + 1) from None
        raise LabelError(f"{location(path, line + 1)}: not CSV: {error}; correct the row") from None


def _quote_error(path: Path, line: int) -> LabelError:
    return LabelError(f"{location(path, line)}: a quotation mark is not closed on this line; close or remove it")
