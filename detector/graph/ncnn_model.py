"""The folder of an ncnn export: graph (model.ncnn.param), weights (model.ncnn.bin) and metadata (model.json).

The formats of ncnn have no place for metadata. So a JSON file contains them, with the hashes of the two other files.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detector.errors import FileError, WeightsError
from detector.graph.export_format import NCNN_FILES
from detector.outputs import is_signed, signed_json

_PARAM, _BIN, _JSON = NCNN_FILES
_HASHES = {_PARAM: "param_sha256", _BIN: "bin_sha256"}
"""File name → key in model.json of the SHA-256 hash of the file."""


@dataclass(frozen=True, repr=False)
class NcnnModel:
    """Contents of an ncnn export.

    Attributes:
        param: bytes of model.ncnn.param, the graph as text.
        weights: bytes of model.ncnn.bin, the weights.
        metadata: the metadata of the graph, as in an ONNX file.
    """

    param: bytes
    weights: bytes
    metadata: Mapping[str, str]

    def files(self) -> dict[str, bytes]:
        """Return name → content of the files of the folder. model.json is signed."""
        contents = {_PARAM: self.param, _BIN: self.weights}
        hashes = {_HASHES[name]: _sha256(data) for name, data in contents.items()}
        return contents | {_JSON: signed_json(dict(self.metadata) | hashes)}


def read_ncnn(folder: Path) -> NcnnModel:
    """Read the three files of an ncnn export and return their contents.

    Args:
        folder: folder of an ncnn export.

    Raises:
        FileError: one of the files is missing or cannot be read.
        WeightsError: a file is damaged, or the files come from different exports.
    """
    for name in NCNN_FILES:
        if not (folder / name).is_file():
            raise FileError(
                f"{folder}: the folder contains no {name}; pass a folder that `detector export --format ncnn` wrote, "
                "with all of its files"
            )
    try:
        contents = {name: (folder / name).read_bytes() for name in NCNN_FILES}
    except OSError as error:
        raise FileError(f"{folder}: cannot be read ({error.strerror})") from None
    if not is_signed(contents[_JSON]):
        raise WeightsError(
            f"{folder / _JSON}: the file was changed, is damaged, or was not written by `detector export`; export again"
        )
    metadata: dict[str, str] = json.loads(contents[_JSON])
    for name, key in _HASHES.items():
        if metadata.get(key) != _sha256(contents[name]):
            raise WeightsError(
                f"{folder / name}: the file does not belong to {_JSON}; it is damaged, truncated, changed, or from "
                "another export: export again"
            )
    return NcnnModel(contents[_PARAM], contents[_BIN], metadata)


def _sha256(data: bytes) -> str:
    """Return the SHA-256 hash of `data`, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
