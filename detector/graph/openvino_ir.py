"""Create and read an OpenVINO IR: a folder with the graph (model.xml) and its weights (model.bin).

model.xml contains the metadata, including a hash of model.bin. So `read_ir` can detect that the two files come from
different exports.
"""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from detector.arrays import ImageArray
from detector.errors import FileError, WeightsError
from detector.graph.export_format import OPENVINO_FILES
from detector.graph.int8_openvino import quantize_model
from detector.graph.metadata import GraphInfo, graph_info_metadata
from detector.graph.no_telemetry import import_openvino, openvino_core
from detector.weights_info import damaged

if TYPE_CHECKING:
    import openvino

XML, BIN = OPENVINO_FILES

_SECTION = "framework"
"""Section of model.xml in which OpenVINO stores the metadata of the ONNX file that it converted."""

_DEEPEST = 100
"""Largest depth of nested elements in model.xml; an export has less than ten."""

_HASH_KEY = "numbers_sha256"
"""Metadata key of the SHA-256 hash of model.bin."""


@dataclass(frozen=True, repr=False)
class Ir:
    """Contents of the two files of an OpenVINO IR.

    Attributes:
        xml: bytes of model.xml, the graph.
        weights: bytes of model.bin, the weights.
    """

    xml: bytes
    weights: bytes


def to_ir(
    graph: bytes, inputs: Sequence[ImageArray] | None = None, int8_full_range: bool = False, fp16: bool = False
) -> Ir:
    """Convert an ONNX file to an OpenVINO IR, and return the contents of the two files of the IR.

    Args:
        graph: bytes of the ONNX file.
        inputs: calibration images for int8 quantization, as in `quantize_model`. None: the IR is in float32.
        int8_full_range: as `full_range` in `quantize_model`.
        fp16: whether the weights are stored in float16.
    """
    openvino = import_openvino()
    model = openvino_core().read_model(graph)
    if inputs is not None:
        model = quantize_model(model, inputs, int8_full_range)
        int8 = GraphInfo(int8=True, int8_weight_bits=8 if int8_full_range else 7)
        for key, value in graph_info_metadata(int8).items():
            model.set_rt_info(value, [_SECTION, key])
    if fp16:
        for key, value in graph_info_metadata(GraphInfo(fp16=True)).items():
            model.set_rt_info(value, [_SECTION, key])
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder) / XML, Path(folder) / BIN
        openvino.save_model(model, xml, compress_to_fp16=fp16)
        model.set_rt_info(_sha256(weights.read_bytes()), [_SECTION, _HASH_KEY])
        openvino.save_model(model, xml, compress_to_fp16=fp16)
        return Ir(xml.read_bytes(), weights.read_bytes())


def read_ir(folder: Path) -> Ir:
    """Read model.xml and model.bin from an export folder and return their contents.

    Args:
        folder: folder of an OpenVINO export.

    Raises:
        FileError: one of the two files is missing or cannot be read.
        WeightsError: model.bin is damaged, or the two files come from different exports.
    """
    for path in (folder / XML, folder / BIN):
        if not path.is_file():
            raise FileError(
                f"{folder}: the folder contains no {path.name}; pass a folder that `detector export --format openvino` "
                "wrote, or if this is the folder of a training run, its file weights/best.safetensors"
            )
    try:
        ir = Ir((folder / XML).read_bytes(), (folder / BIN).read_bytes())
    except OSError as error:
        raise FileError(f"{folder}: {XML} and {BIN} cannot be read ({error.strerror})") from None
    _check_xml(ir.xml, folder / XML)
    expected = re.search(rb'<%b value="([^"]*)"' % _HASH_KEY.encode(), ir.xml)
    if expected and expected[1] != _sha256(ir.weights).encode():
        raise WeightsError(
            f"{folder / BIN}: the file does not belong to {XML}; it is damaged, truncated, or from another export: "
            "export again"
        )
    return ir


def _check_xml(xml: bytes, path: Path) -> None:
    """Raise WeightsError if model.xml is not XML, or is nested so deeply that OpenVINO would crash.

    Args:
        xml: content of the file.
        path: the file, for error messages.
    """
    depth = 0

    def enter(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise WeightsError(f"{path}: not an OpenVINO IR (nested more than {_DEEPEST} deep); export it again")

    def leave(name: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = enter, leave
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise WeightsError(f"{path}: not a readable OpenVINO IR ({error}); export it again") from None


def model_metadata(model: "openvino.Model", source: str) -> dict[str, str]:
    """Return the metadata of an OpenVINO model that was read from an ONNX file or an IR; empty if there is none.

    Args:
        model: the model.
        source: name of the file or folder, for error messages.

    Raises:
        WeightsError: the metadata is not text, or not a mapping.
    """
    try:
        metadata = dict(model.get_rt_info(_SECTION).value) if model.has_rt_info(_SECTION) else {}
    except (ValueError, TypeError) as error:  # for example, text that is not UTF-8
        raise damaged(source, error) from None
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _sha256(data: bytes) -> str:
    """Return the SHA-256 hash of `data`, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
