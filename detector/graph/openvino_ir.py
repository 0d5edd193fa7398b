"""OpenVINO IR: a folder with the graph (model.xml) and its weights (model.bin). The graph contains the metadata.

The metadata includes a hash of the weights, so that a model.xml and a model.bin from different exports are detected.
"""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detector.arrays import ImageArray
from detector.errors import FileError, MissingPackageError, WeightsError
from detector.graph.int8_openvino import quantize_model
from detector.graph.metadata import GraphInfo, graph_info_metadata
from detector.graph.no_telemetry import import_openvino, openvino_core
from detector.weights_info import FORMAT

if TYPE_CHECKING:
    import openvino

XML, BIN = "model.xml", "model.bin"

_SECTION = "framework"
"""Section of the IR in which OpenVINO stores the metadata of an ONNX file."""

_HASH_KEY = "numbers_sha256"


@dataclass(frozen=True, repr=False)
class Ir:
    """Contents of the two files of an OpenVINO IR.

    Attributes:
        xml: bytes of model.xml.
        weights: bytes of model.bin.
    """

    xml: bytes
    weights: bytes


def to_ir(graph: bytes, inputs: Sequence[ImageArray] | None = None) -> Ir:
    """Convert an ONNX file to an OpenVINO IR, in float32 or quantized to int8.

    Args:
        graph: bytes of the ONNX file.
        inputs: calibration images for int8, as in `quantize_model`; None: float32.

    Raises:
        MissingPackageError: the package openvino or, for int8, nncf is not installed.
    """
    try:
        openvino = import_openvino()
    except ImportError:
        raise MissingPackageError(
            "writing an OpenVINO IR needs the packages openvino and onnx: pip install openvino onnx"
        ) from None
    model = openvino_core().read_model(graph)
    if inputs is not None:
        model = quantize_model(model, inputs)
        for key, value in graph_info_metadata(GraphInfo(int8=True)).items():
            model.set_rt_info(value, [_SECTION, key])
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder) / XML, Path(folder) / BIN
        openvino.save_model(model, xml, compress_to_fp16=False)
        model.set_rt_info(_sha256(weights.read_bytes()), [_SECTION, _HASH_KEY])
        openvino.save_model(model, xml, compress_to_fp16=False)
        return Ir(xml.read_bytes(), weights.read_bytes())


def read_ir(folder: Path) -> Ir:
    """Read an OpenVINO IR that `to_ir` created from its folder.

    Raises:
        FileError: a file is missing or cannot be read.
        WeightsError: the two files do not belong together.
    """
    for path in (folder / XML, folder / BIN):
        if not path.is_file():
            raise FileError(
                f"{folder}: a folder without {path.name}: expected one written by `detector export --format openvino`; "
                "for a training run, give weights/best.safetensors in it"
            )
    try:
        ir = Ir((folder / XML).read_bytes(), (folder / BIN).read_bytes())
    except OSError as error:
        raise FileError(f"{folder}: cannot be read ({error.strerror})") from None
    expected = re.search(rb'<%b value="(\w*)"' % _HASH_KEY.encode(), ir.xml)
    if expected and expected[1].decode() != _sha256(ir.weights):
        raise WeightsError(
            f"{folder / BIN}: is not the file that {XML} was written with: it is damaged, truncated, or from another "
            "export; export again"
        )
    return ir


def export_files(path: Path) -> list[Path]:
    """Return the files of an export, without the certificate.

    Args:
        path: an .onnx file, or the folder of an OpenVINO IR.
    """
    return [path / XML, path / BIN] if path.is_dir() else [path]


def is_ir(folder: Path) -> bool:
    """Return whether a folder contains an OpenVINO IR that `to_ir` created; reads only model.xml."""
    try:
        return FORMAT.encode() in (folder / XML).read_bytes()
    except OSError:
        return False


def model_metadata(model: "openvino.Model") -> dict[str, str]:
    """Return the metadata of a model that was read from an ONNX file or an IR."""
    return dict(model.get_rt_info(_SECTION).value) if model.has_rt_info(_SECTION) else {}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
