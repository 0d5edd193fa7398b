"""The metadata of a LiteRT file (.tflite): a JSON file in a zip archive at the end of the model.

This is where TensorFlow Lite puts the files that belong to a model ("associated files"), and every runtime ignores it.
The comment of the archive is the signature of the whole file, so that any change of a byte is detected.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from detector.errors import FileError, WeightsError
from detector.outputs import SIGNATURE_KEY, UNSIGNED, is_signed
from detector.weights_info import damaged

METADATA_FILE = "detector.json"
"""Name of the file with the metadata in the archive."""

_LARGEST = 64_000_000
"""Largest size of the metadata in bytes; usually less than a megabyte."""


def append_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a LiteRT file with metadata, not signed yet; see `outputs.sign`.

    Args:
        model: the model without metadata.
        metadata: the metadata of the graph.
    """
    text = json.dumps({key: value for key, value in metadata.items() if key != SIGNATURE_KEY}, ensure_ascii=False)
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(METADATA_FILE), text)  # the ZipInfo has a fixed date
        archive.comment = UNSIGNED.encode()  # not in a member, whose checksum would change with the signature
    return file.getvalue()


def read_tflite(path: Path) -> tuple[bytes, dict[str, str]]:
    """Read a LiteRT file and return its content and its metadata.

    Raises:
        FileError: the file cannot be read.
        WeightsError: the file is damaged, was changed, or another program wrote it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise WeightsError(
            f"{path}: the file has no metadata of this package: another program wrote it, or it is truncated; use a "
            "file that `detector export --format litert` wrote"
        )
    if not is_signed(data):
        raise WeightsError(
            f"{path}: the file was changed, is damaged, or another program wrote it; use a file that `detector export "
            "--format litert` wrote"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(METADATA_FILE).file_size > _LARGEST:
                raise ValueError("the metadata are too large")
            metadata = json.loads(archive.read(METADATA_FILE))
            return data, {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (KeyError, ValueError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise damaged(str(path), error) from None
