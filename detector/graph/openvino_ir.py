"""OpenVINO's IR: a folder with the graph (model.xml) and its numbers (model.bin); the metadata are in the graph.

So is the hash of the numbers, so that two files that do not belong together are noticed.
"""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detector.arrays import ImageArray
from detector.errors import InputError
from detector.graph.int8_openvino import quantize_model
from detector.graph.metadata import GraphInfo, graph_info_metadata
from detector.graph.no_telemetry import import_openvino, openvino_core
from detector.weights_info import FORMAT

if TYPE_CHECKING:
    import openvino

XML, BIN = "model.xml", "model.bin"

_SECTION = "framework"
"""Where OpenVINO puts the metadata of an ONNX file, and keeps them."""

_HASH = "numbers_sha256"


@dataclass(frozen=True, repr=False)
class Ir:
    """The bytes of the two files."""

    xml: bytes
    numbers: bytes


def to_ir(graph: bytes, inputs: Sequence[ImageArray] | None = None) -> Ir:
    """Return an ONNX file as an IR, its numbers in full precision or in eight-bit integers.

    Args:
        graph: the ONNX file's bytes.
        inputs: for eight bits: as of `quantize_model`.

    Raises:
        InputError: a package is not installed.
    """
    try:
        openvino = import_openvino()
    except ImportError:
        raise InputError("writing an IR needs the package openvino: pip install openvino onnx") from None
    model = openvino_core().read_model(graph)
    if inputs is not None:
        model = quantize_model(model, inputs)
        for key, value in graph_info_metadata(GraphInfo(int8=True)).items():
            model.set_rt_info(value, [_SECTION, key])
    with tempfile.TemporaryDirectory() as folder:
        xml, numbers = Path(folder) / XML, Path(folder) / BIN
        openvino.save_model(model, xml, compress_to_fp16=False)
        model.set_rt_info(_sha256(numbers.read_bytes()), [_SECTION, _HASH])
        openvino.save_model(model, xml, compress_to_fp16=False)
        return Ir(xml.read_bytes(), numbers.read_bytes())


def read_ir(folder: Path) -> Ir:
    """Read what `to_ir` gave from its folder.

    Raises:
        InputError: a file is missing, or the two do not belong together.
    """
    for path in (folder / XML, folder / BIN):
        if not path.is_file():
            raise InputError(
                f"{folder}: a folder without {path.name}: expected one that `detector export --format openvino` wrote; "
                "of a training run name weights/best.safetensors in it"
            )
    try:
        ir = Ir((folder / XML).read_bytes(), (folder / BIN).read_bytes())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    said = re.search(rb'<%b value="(\w*)"' % _HASH.encode(), ir.xml)
    if said and said[1].decode() != _sha256(ir.numbers):
        raise InputError(
            f"{folder / BIN}: is not the file that {XML} was written with: damaged, cut off, or of another export"
        )
    return ir


def export_files(path: Path) -> list[Path]:
    """Return the files of what an export wrote, without the certificate."""
    return [path / XML, path / BIN] if path.is_dir() else [path]


def is_ir(folder: Path) -> bool:
    """Say whether a folder holds what `to_ir` gave, judged by its text alone."""
    try:
        return FORMAT.encode() in (folder / XML).read_bytes()
    except OSError:
        return False


def metadata_of(model: "openvino.Model") -> dict[str, str]:
    """Return what a model says about itself, read from an ONNX file or an IR."""
    return dict(model.get_rt_info(_SECTION).value) if model.has_rt_info(_SECTION) else {}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
