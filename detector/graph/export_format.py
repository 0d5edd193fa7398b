"""The formats of exports: their names, and the files of which an export consists."""

from pathlib import Path
from typing import Literal

from detector.errors import ConfigError

Format = Literal["onnx", "openvino", "ncnn", "litert", "coreml"]
"""Format of an export: an ONNX file; a folder with an OpenVINO IR; a folder with an ncnn model; a LiteRT (TensorFlow
Lite) file; a Core ML package."""

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "litert": ".tflite", "coreml": ".mlpackage"}
"""Suffix of the name of an export, for the formats that have one."""

OPENVINO_FILES = ("model.xml", "model.bin")
"""Names of the graph and of its weights in the folder of an OpenVINO export."""

NCNN_FILES = ("model.ncnn.param", "model.ncnn.bin", "model.json")
"""Names of the graph, of its weights, and of the metadata in the folder of an ncnn export."""

FOLDER_FILES: dict[str, tuple[str, ...]] = {"openvino": OPENVINO_FILES, "ncnn": NCNN_FILES}
"""Names of the files of an export that is a folder."""


def format_of_name(path: Path) -> Format:
    """Return the format of an export to be written, from the end of its name.

    .onnx, .tflite and .mlpackage are those of `SUFFIXES`, "_ncnn" is ncnn, and "_openvino" or a name without suffix is
    OpenVINO.

    Raises:
        ConfigError: the name has another suffix.
    """
    for format, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            return format  # type: ignore[return-value]  # the keys are formats
    if path.name.endswith("_ncnn"):
        return "ncnn"
    if path.suffix and not path.name.endswith("_openvino"):
        raise ConfigError(
            f"{path}: expected a name that ends in {', '.join(SUFFIXES.values())}, _openvino or _ncnn; to write a "
            "folder of this name, add --format openvino or --format ncnn"
        )
    return "openvino"


def format_of_export(path: Path) -> Format:
    """Return the format of an export that exists, from its name and, for a folder, from its files."""
    if path.suffix.lower() == SUFFIXES["litert"]:
        return "litert"
    if path.suffix.lower() == SUFFIXES["coreml"]:
        return "coreml"
    if not path.is_dir():
        return "onnx"
    return "ncnn" if any((path / name).exists() for name in NCNN_FILES) else "openvino"


def export_files(path: Path) -> list[Path]:
    """Return the paths of the files of an export, without the certificate.

    Args:
        path: path of an .onnx or .tflite file, of the folder of an OpenVINO IR or ncnn model, or of a Core ML package.
    """
    if not path.is_dir():
        return [path]
    format = format_of_export(path)
    if format == "coreml":
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path / name for name in FOLDER_FILES.get(format, OPENVINO_FILES)]
