"""Export weights to a graph file that runs without torch, and certify it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from detector.arrays import ImageArray
from detector.config import config_of
from detector.data.open_data import open_data
from detector.data.split import evenly_spaced
from detector.errors import ConfigError
from detector.exporting.certificate import Certificate, certificate_path
from detector.exporting.certify import certify_export
from detector.exporting.output import check_onnx_path, check_openvino_path, write_openvino
from detector.files import write_atomic
from detector.graph.int8_onnx import quantize
from detector.graph.nms_in_graph import add_nms
from detector.graph.openvino_ir import export_files, to_ir
from detector.graph.to_onnx import to_onnx
from detector.letterbox import input_hw_for_aspect, letterbox_image
from detector.media.sources import Source, find_sources, sources_of
from detector.model.checkpoint import load_weights
from detector.options import MAX_PIXELS, DetectOptions, ReadOptions, RuntimeName
from detector.weights_info import WeightsInfo

Format = Literal["onnx", "openvino"]
"""A file in ONNX format, or a folder with an OpenVINO IR."""

_DEFAULT_READ_OPTIONS = ReadOptions()

_MIN_IMAGES, _CALIBRATION_IMAGES = 16, 128
"""Images for int8 calibration: with fewer the activation ranges are random, with more they hardly change."""


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        path: the .onnx file, or the folder of an OpenVINO export.
        input_hw: height and width of the network input.
        size_bytes: size of the file, or of the files in the folder, without the certificate.
        certificate: differences to the weights; None: the export was not run, because `certify` was False or because
            neither OpenVINO nor ONNX Runtime is installed.
    """

    path: Path
    input_hw: tuple[int, int]
    size_bytes: int
    certificate: Certificate | None

    @property
    def megabytes(self) -> float:
        """Size in MB (10^6 bytes)."""
        return self.size_bytes / 1e6

    @property
    def certificate_path(self) -> Path:
        """Path of the certificate, if there is one."""
        return certificate_path(self.path)


def export(
    weights: str | Path,
    path: str | Path,
    *,
    format: Format = "onnx",
    input_size: int | None = None,
    int8_images: Sequence[Source | str | Path] | None = None,
    nms: DetectOptions | None = None,
    dynamic: bool = False,
    data: str | Path | None = None,
    split: str = "test",
    runtime: RuntimeName = "auto",
    certificate_images: Sequence[Source | str | Path] = (),
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    certify: bool = True,
) -> ExportResult:
    """Write weights as an ONNX file or as the folder of an OpenVINO IR, and certify the export.

    The file or folder is written completely or not at all. To certify, the export and its weights run on the same
    images; the certificate is a JSON file beside the file or in the folder.

    Args:
        weights: a .safetensors file, or the name of shipped weights.
        path: a file name that ends in .onnx; for "openvino" a folder, which must not exist, be empty, or contain an
            earlier export, which is replaced.
        format: "onnx" or "openvino".
        input_size: long side of the network input in pixels, a multiple of 32; None: as in training.
        int8_images: quantize to int8 (post-training quantization); the activation ranges are measured on 128 of these
            images: files, folders or glob patterns, or the result of `training_images`. None: float32.
        nms: put NMS with these fixed thresholds into the graph; None: the graph outputs a prediction per grid point.
        dynamic: whether the graph takes inputs of any size (multiples of 32).
        data: data set on which the certificate also compares AP; anything `open_data` takes.
        split: split of this data set.
        runtime: inference backend that runs the export for the certificate.
        certificate_images: images on which the certificate also compares detections, given like `int8_images`; empty:
            those of the split.
        allow_outside: as for `open_data`.
        max_pixels: pixels of the largest image that is decoded.
        certify: whether to certify the export.

    Raises:
        InputError: a parameter is out of range, a file or image cannot be read or written, a package is not installed,
            there are too few images for int8, or the network does not support these options.
        WeightsError: the export differs from its weights by more than rounding errors. It and the certificate have been
            written.
    """
    path = Path(path)
    _check_format(format)
    (check_openvino_path if format == "openvino" else check_onnx_path)(path)
    network, info = load_weights(weights)
    if nms is not None:
        _check_nms(info)
    height, width = info.input_hw
    input_hw = info.input_hw if input_size is None else input_hw_for_aspect(input_size, width / height)
    options = ReadOptions(allow_outside=allow_outside, max_pixels=max_pixels)
    int8_inputs = None
    if int8_images is not None:
        int8_inputs = _calibration_inputs(list(_as_sources(int8_images, options)), input_hw)
    graph = to_onnx(network, info, input_hw, dynamic)
    _write(path, graph, format, int8_inputs, nms)
    certificate = None
    if certify and (find_spec("openvino") or find_spec("onnxruntime")):
        certificate = certify_export(
            weights,
            path,
            runtime=runtime,
            data=data,
            split=split,
            images=list(_as_sources(certificate_images, options)),
            allow_outside=allow_outside,
            max_pixels=max_pixels,
        )
    size_bytes = sum(file.stat().st_size for file in export_files(path))
    return ExportResult(path, input_hw, size_bytes, certificate)


def format_of(path: Path) -> Format:
    """Return the format that the name of an export implies.

    Raises:
        ConfigError: the name has a suffix of neither format.
    """
    if path.suffix and path.suffix != ".onnx" and not path.name.endswith("_openvino"):
        raise ConfigError(
            f"{path}: expected a name that ends in .onnx; for an OpenVINO folder of this name, add --format openvino"
        )
    return "onnx" if path.suffix == ".onnx" else "openvino"


def training_images(data: str | Path, options: ReadOptions = _DEFAULT_READ_OPTIONS) -> list[Source]:
    """Return the training images of a data set, for int8 calibration.

    Args:
        data: anything `open_data` takes.
        options: `allow_outside` and `max_pixels` apply.

    Raises:
        InputError: the data set cannot be read, or has no train split.
    """
    data_set = open_data(data, allow_outside=options.allow_outside, max_pixels=options.max_pixels)
    return sources_of(data_set.read("train"))


def _write(
    path: Path, graph: bytes, format: Format, int8_inputs: Sequence[ImageArray] | None, nms: DetectOptions | None
) -> None:
    """Quantize a graph, add NMS, convert it and write it, where requested.

    Args:
        path: file or folder.
        graph: bytes of an ONNX file in float32, without NMS.
        format: format to write.
        int8_inputs: letterboxed images for int8 calibration; None: float32.
        nms: options of the NMS in the graph; None: no NMS.
    """
    if format == "onnx" and int8_inputs is not None:
        graph = quantize(graph, int8_inputs)
    if nms is not None:
        graph = add_nms(graph, nms)
    if format == "openvino":
        write_openvino(path, to_ir(graph, int8_inputs))
    else:
        write_atomic(path, graph)


def _check_format(format: str) -> None:
    if format not in get_args(Format):
        raise ConfigError(f"format: expected {' or '.join(get_args(Format))}, got {format!r}")


def _check_nms(info: WeightsInfo) -> None:
    """Raise ConfigError if the settings of the weights ask for another NMS than the one a graph can contain."""
    config = config_of(dict(info.config))
    if config.suppression != "classic" or config.class_agnostic:
        raise ConfigError(
            "nms: a graph can only contain classic NMS per class, but the settings of the weights are suppression="
            f"{config.suppression}, class_agnostic={config.class_agnostic}: export with --nms out"
        )


def _as_sources(images: Sequence[Source | str | Path], options: ReadOptions) -> Iterator[Source]:
    """Yield the images as sources; paths may name files, folders or glob patterns."""
    for image in images:
        if isinstance(image, Source):
            yield image
        else:
            yield from find_sources([str(image)], options)


def _calibration_inputs(sources: Sequence[Source], input_hw: tuple[int, int]) -> list[ImageArray]:
    """Read and letterbox at most 128 of the images, evenly spaced; returns arrays [H, W, 3]."""
    if len(sources) < _MIN_IMAGES:
        raise ConfigError(
            f"int8: {len(sources)} images are too few to measure the range of every activation: use at least "
            f"{_MIN_IMAGES}, better {_CALIBRATION_IMAGES}"
        )
    return [letterbox_image(source.read(), input_hw)[1] for source in evenly_spaced(sources, _CALIBRATION_IMAGES)]
