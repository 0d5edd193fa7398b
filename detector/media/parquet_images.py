"""Images in a column of a Parquet file, such as those of Hugging Face datasets.

Listing a file reads its schema and the column with the names. Images are then read row by row in small batches, so that
a row group is not in memory as a whole. Rows should be read in their order: a step back reads the row group again.
"""

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from detector.arrays import ImageArray
from detector.errors import ConfigError, FileError, ImageError, MissingPackageError
from detector.images import read_image
from detector.media.packed_images import NamesInFile, PackedImage, PackedImages, check_image_size
from detector.options import ReadOptions

_BATCH_ROWS = 8
"""Number of rows that are read at once: their image files are in memory."""

_NAME_ROWS = 10_000
"""Number of names that are read at once."""

_READ_BYTES = 2**20
"""Size of the buffer through which a column is read; without one, a row group is read as a whole."""

_NAME_COLUMNS = (
    *("file_name", "filename", "image_path", "path", "file_path", "name", "__key__", "key"),
    *("image_id", "id", "uid", "uuid", "url"),
)
"""Columns (lower case) that are used as names if none is given, the best first."""

_MOST_NAMED = 20
"""Largest number of columns that a message names."""


@dataclass(frozen=True)
class _Table:
    """A Parquet file and its column with images.

    Attributes:
        path: the file.
        column: the column with the bytes of image files: `image`, or `image.bytes` in a struct.
        starts: number of the first row of each row group, and the number of all rows.
    """

    path: Path
    column: str
    starts: tuple[int, ...]


def list_parquet(path: Path, options: ReadOptions) -> PackedImages:
    """List the images in a Parquet file, in the order of the rows; no image is read.

    Args:
        path: the file.
        options: `image_column` is the column with the images: the bytes of image files, or structs with these in the
            field `bytes`. None: the only such column, or the one named `image`. `name_column` is the column with the
            names of the images, text or whole numbers. None: a column with a usual name, the field `path` of the
            structs, or else the numbers of the rows. `max_pixels` is the largest number of pixels of an image.

    Raises:
        MissingPackageError: the package pyarrow is not installed.
        FileError: the file is no Parquet file, or is damaged.
        ConfigError: there is no such column, it contains something else, or several may contain the images.
    """
    file = _open(path)
    try:
        schema, groups = file.schema_arrow, file.metadata
        column = _image_column(path, schema, options.image_column)
        name_column = _name_column(path, schema, column, options.name_column)
        sizes = (groups.row_group(index).num_rows for index in range(groups.num_row_groups))
        table = _Table(path, column, tuple(accumulate(sizes, initial=0)))
        names, images = NamesInFile(path), list[PackedImage]()
        for row, value in enumerate(_values(file, name_column) if name_column else [None] * table.starts[-1]):
            name = names.add(None if value is None else str(value), row)
            images.append(PackedImage(name, partial(_read_row, table, row, name, options.max_pixels)))
    except (import_pyarrow().ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: a damaged Parquet file ({_reason(error)}); copy or write it again") from None
    finally:
        file.close()
    note = f"images in the column {column}, names " + (f"in {name_column}" if name_column else "are row numbers from 0")
    if names.repeated:
        note += "; row numbers were added to names that occur again"
    return PackedImages(images, column, note)


def _image_column(path: Path, schema: Any, wanted: str | None) -> str:
    """Return the column with the bytes of images; see `list_parquet`."""
    columns = {field.name: leaf for field in schema if (leaf := _bytes_in(field)) is not None}
    known = ", ".join(f"{field.name} ({_shown(field.type)})" for field in list(schema)[:_MOST_NAMED])
    expected = "bytes of image files, or structs with these in the field bytes"
    if wanted is not None:
        wanted = wanted.removesuffix(".bytes") if wanted not in schema.names else wanted
        if wanted not in schema.names:
            raise ConfigError(f"{path}: there is no column {wanted!r} for --image-column; the columns are {known}")
        if wanted not in columns:
            raise ConfigError(
                f"{path}: the column {wanted!r} of --image-column contains {_shown(schema.field(wanted).type)}; "
                f"expected {expected}"
            )
        return columns[wanted]
    if not columns:
        raise ConfigError(f"{path}: no column with images; expected {expected}; the columns are {known}")
    if len(columns) > 1 and "image" not in columns:
        raise ConfigError(
            f"{path}: several columns may contain the images: {', '.join(columns)}; pass one with --image-column"
        )
    return columns.get("image") or next(iter(columns.values()))


def _bytes_in(field: Any) -> str | None:
    """Return the name of a column of bytes, or of the field `bytes` in a column of structs; None for other columns."""
    types = import_pyarrow().types
    if types.is_binary(field.type) or types.is_large_binary(field.type):
        return str(field.name)
    if types.is_struct(field.type) and (index := field.type.get_field_index("bytes")) >= 0:
        inner = field.type.field(index).type
        return f"{field.name}.bytes" if types.is_binary(inner) or types.is_large_binary(inner) else None
    return None


def _name_column(path: Path, schema: Any, image_column: str, wanted: str | None) -> str | None:
    """Return the column with the names, or None if the rows have none; see `list_parquet`."""
    types = import_pyarrow().types

    def is_name(kind: Any) -> bool:
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind))

    columns = {str(field.name): str(field.name) for field in schema if is_name(field.type)}
    inner = ""
    if image_column not in schema.names:
        parent = image_column.removesuffix(".bytes")
        kind = schema.field(parent).type
        if (index := kind.get_field_index("path")) >= 0 and is_name(kind.field(index).type):
            inner = f"{parent}.path"
            columns[inner] = inner
    if wanted is None:
        lower = {name.lower(): name for name in columns}
        return next((lower[name] for name in _NAME_COLUMNS if name in lower), inner or None)
    if wanted not in columns:
        raise ConfigError(
            f"{path}: there is no column {wanted!r} with text or whole numbers for --name-column; such columns are "
            f"{', '.join(list(columns)[:_MOST_NAMED]) or 'missing, so the rows are numbered without --name-column'}"
        )
    return wanted


def _values(file: Any, column: str) -> Iterator[Any]:
    """Yield the value of a column in each row, in small batches of rows."""
    for batch in file.iter_batches(_NAME_ROWS, columns=[column], use_threads=False):
        yield from _leaf(batch, column).to_pylist()


def _leaf(batch: Any, column: str) -> Any:
    """Return a column of a batch, or a field of its structs, as an array."""
    values = batch.column(0)
    if import_pyarrow().types.is_struct(values.type):
        import pyarrow.compute

        return pyarrow.compute.struct_field(values, column.rpartition(".")[2])
    return values


class _Rows:
    """Reads the images of a table in batches, from row to row. Close it after use.

    Args:
        table: the table.

    Raises:
        FileError: the file cannot be opened, or was changed since it was listed.
    """

    def __init__(self, table: _Table) -> None:
        self._table, self._file = table, _open(table.path)
        self._batches: Iterator[Any] = iter(())
        self._values: Any = ()
        self._start = self._stop = 0  # rows in `_values`
        self._damaged: dict[int, tuple[int, str]] = {}  # row group → first row that cannot be read, and why
        metadata = self._file.metadata
        groups = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        if tuple(accumulate(groups, initial=0)) != table.starts:
            raise FileError(f"{table.path}: the file was changed since it was listed; repeat the command")

    def read(self, row: int) -> bytes | None:
        """Return the bytes of the image in a row, or None if there are none.

        Raises:
            ImageError: the file is damaged there, or before it in the same row group.
        """
        group = bisect_right(self._table.starts, row) - 1
        damaged_row, reason = self._damaged.get(group, (row + 1, ""))
        if row < damaged_row:
            try:
                return self._read(row, group)
            except (import_pyarrow().ArrowException, OSError, StopIteration) as error:
                damaged_row, reason = self._damaged[group] = (
                    max(self._stop, self._table.starts[group]),
                    _reason(error),
                )
        raise ImageError(
            f"{self._table.path}: row {row} cannot be read: the file is damaged at row {damaged_row} ({reason})"
        )

    def _read(self, row: int, group: int) -> bytes | None:
        """Return the bytes of the image in a row of a row group, or None; raise various errors if it is damaged."""
        first = self._table.starts[group]
        if not max(self._start, first) <= row < self._table.starts[group + 1] or self._stop <= first:
            self._batches = self._file.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=[self._table.column], use_threads=False
            )
            self._values, self._start, self._stop = (), first, first
        while row >= self._stop:
            self._values = _leaf(next(self._batches), self._table.column)
            self._start, self._stop = self._stop, self._stop + len(self._values)
        value = self._values[row - self._start]
        return value.as_py() if value.is_valid else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_lock = threading.Lock()
_open_rows: dict[tuple[int, _Table], _Rows] = {}
"""The table of which this process (its id is in the key) has read rows last."""


def _read_row(table: _Table, row: int, name: Path, max_pixels: int) -> ImageArray:
    """Decode the image in a row.

    Raises:
        ImageError: it cannot be decoded, the row has no image, or the file is damaged there.
        FileError: the file cannot be opened, or was changed since it was listed.
    """
    key = os.getpid(), table
    with _lock:
        if key not in _open_rows:
            for other in list(_open_rows):
                _open_rows.pop(other).close()
            _open_rows[key] = _Rows(table)
        data = _open_rows[key].read(row)
        if row + 1 == table.starts[-1]:
            _open_rows.pop(key).close()
    if data is None:
        raise ImageError(f"{name}: row {row} has no image in the column {table.column}; expected the bytes of a file")
    check_image_size(str(name), len(data))
    return read_image(data, name=str(name), max_pixels=max_pixels, accept_truncated=True)


def _open(path: Path) -> Any:
    """Open a Parquet file.

    Raises:
        MissingPackageError: the package pyarrow is not installed.
        FileError: the file cannot be read, or is no Parquet file.
    """
    arrow = import_pyarrow()
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False)
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise FileError(f"{path}: cannot be read ({error.strerror})") from None
        raise FileError(
            f"{path}: no Parquet file, or an incomplete one ({_reason(error)}); copy or write it again"
        ) from None


def _reason(error: Exception) -> str:
    """Return the first line of an error message, without the point at its end."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _shown(kind: Any) -> str:
    """Return the type of a column for a message, shortened."""
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:60]}..."


def import_pyarrow(purpose: str = "reading Parquet files") -> Any:
    """Import pyarrow, and return it.

    Args:
        purpose: what needs it, for the message.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise MissingPackageError(
            f"{purpose} needs the package pyarrow: pip install 'grid-detector[parquet]'"
        ) from None
    return pyarrow
