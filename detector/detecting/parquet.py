"""Detections as a Parquet file: one row per image, also for images without objects."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from detector.detecting.journal import JournalEntry
from detector.errors import FileError
from detector.media.parquet_images import import_pyarrow

_GROUP_ROWS = 10_000
"""Number of images in a row group, which is in memory while it is written."""


def check_parquet(names: Iterable[str]) -> None:
    """Check before the work that a Parquet file with these names of images can be written.

    Raises:
        MissingPackageError: the package pyarrow is not installed.
        FileError: a name is not UTF-8, as text in Parquet files must be.
    """
    import_pyarrow("--parquet")
    for name in names:
        _check_name(name)


def write_parquet(path: Path, entries: Iterable[JournalEntry]) -> None:
    """Write the detections of all images to a Parquet file.

    The columns are `image_id` (int64), `file_name` (string), `height` and `width` (int32), and `detections`: a list of
    structs with `class` (string), `category_id` (int64), `score` (float32) and the box `x1`, `y1`, `x2`, `y2` (float32)
    in pixels.

    Raises:
        OSError: the file cannot be written.
        FileError: the name of an image is not UTF-8.
    """
    pa = import_pyarrow("--parquet")
    import pyarrow.parquet

    numbers = [(name, pa.float32()) for name in ("score", "x1", "y1", "x2", "y2")]
    detection = pa.struct([("class", pa.string()), ("category_id", pa.int64()), *numbers])
    size = [("height", pa.int32()), ("width", pa.int32())]
    columns = [("image_id", pa.int64()), ("file_name", pa.string()), *size, ("detections", pa.list_(detection))]
    schema = pa.schema([pa.field(*column, nullable=False) for column in columns])
    rows = map(_row, entries)
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rows, _GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise FileError(
            f"{name}: this name is not UTF-8, so it cannot be written to a Parquet file; rename the image, or leave "
            "out --parquet"
        ) from None


def _row(entry: JournalEntry) -> dict[str, Any]:
    """Return the row of an image.

    Raises:
        FileError: its name is not UTF-8.
    """
    _check_name(entry["file_name"])
    detections = []
    for row in entry["detections"]:
        x, y, w, h = row["bbox"]
        values = {"class": row["class"], "category_id": row["category_id"], "score": row["score"]}
        detections.append(values | {"x1": x, "y1": y, "x2": x + w, "y2": y + h})
    image: dict[str, Any] = {"image_id": entry["image_id"], "file_name": entry["file_name"]}
    return image | {"height": entry["height"], "width": entry["width"], "detections": detections}
