"""Export weights to a graph file that runs without PyTorch, and compare the export with the weights."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from detector.arrays import ImageArray
from detector.config import config_of
from detector.data.open_data import open_data
from detector.data.split import evenly_spaced
from detector.data.training_splits import choose_training_split
from detector.errors import ConfigError
from detector.exporting.certificate import Certificate, certificate_path
from detector.exporting.certify import certify_export
from detector.exporting.coreml_structure import CoreMlCertificate, certify_package
from detector.exporting.output import check_output, write_folder
from detector.exporting.requirements import check_options, check_packages
from detector.files import local_path
from detector.graph.export_format import Format, export_files
from detector.graph.fp16_onnx import to_fp16
from detector.graph.int8_onnx import quantize
from detector.graph.nms_in_graph import add_nms
from detector.graph.openvino_ir import BIN, XML, to_ir
from detector.graph.to_onnx import to_onnx
from detector.html_table import html_table
from detector.letterbox import letterbox_image
from detector.media.sources import Source, find_sources, sources_of
from detector.model.checkpoint import load_weights
from detector.model.network import GridNetwork
from detector.options import MAX_PIXELS, DetectOptions, ReadOptions, RuntimeName
from detector.outputs import sign, write_file
from detector.predict.detector import stored_thresholds
from detector.weights_info import WeightsInfo
from detector.wording import plural

log = logging.getLogger(__name__)

_DEFAULT_READ_OPTIONS = ReadOptions()

_MIN_IMAGES, _CALIBRATION_IMAGES = 16, 128
"""Smallest and largest number of images for int8 calibration. With fewer than 16 images the measured activation ranges
are random; with more than 128 they hardly change."""


@dataclass(frozen=True)
class ExportResult:
    """The files that an export has written, and the certificate.

    Attributes:
        path: path of the file, folder or package that was written.
        input_hw: height and width of the network input, in pixels.
        size_bytes: size of the file, or of all files in the folder, without the certificate.
        certificate: measured differences between the export and its weights. None if the export was not compared:
            `certify` was False, or neither OpenVINO nor ONNX Runtime is installed to run an ONNX file, or nothing on
            this machine runs the format (Core ML).
        structure: what was checked in a Core ML package, which was not run; None for the other formats.
    """

    path: Path
    input_hw: tuple[int, int]
    size_bytes: int
    certificate: Certificate | None
    structure: CoreMlCertificate | None = None

    @property
    def megabytes(self) -> float:
        """Size of the export in MB (10^6 bytes), without the certificate."""
        return self.size_bytes / 1e6

    def _repr_html_(self) -> str:
        """Return the result as an HTML table, which notebooks show."""
        rows: list[tuple[str, object]] = [("export", self.path), ("size", f"{self.megabytes:.1f} MB")]
        if self.certificate is None:
            return html_table((), [*rows, ("parity", "not compared with the weights")])
        return html_table((), [*rows, *((f"parity on {name}", p) for name, p in self.certificate.parity.items())])

    @property
    def certificate_path(self) -> Path:
        """Path of the certificate; the file is missing if `certificate` and `structure` are None."""
        return certificate_path(self.path)


def export(
    weights: str | Path,
    path: str | Path,
    *,
    format: Format = "onnx",
    input_size: int | None = None,
    int8_images: Sequence[Source | str | Path] | None = None,
    int8_full_range: bool = False,
    fp16: bool = False,
    nms: DetectOptions | None = None,
    dynamic: bool = False,
    data: str | Path | None = None,
    split: str | None = None,
    runtime: RuntimeName = "auto",
    threads: int | None = None,
    certificate_images: Sequence[Source | str | Path] = (),
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    certify: bool = True,
    overwrite: bool = False,
) -> ExportResult:
    """Write weights in a format that runs without PyTorch, and compare the export with the weights.

    The file or folder is written completely or not at all. With `certify`, the export and the weights then run on the
    same images, and the differences are written to a certificate: a JSON file beside the file or in the folder. A Core
    ML package cannot run here: its certificate contains only what was checked in its files.

    Args:
        weights: path of a .safetensors file, or the name of shipped weights.
        path: for "onnx" a file name that ends in .onnx, for "litert" in .tflite, for "coreml" in .mlpackage. For
            "openvino" and "ncnn" a folder, which must be missing or empty, or contain only an earlier export. An
            unchanged earlier export and its certificate are replaced.
        format: "onnx", "openvino", "ncnn", "litert" (LiteRT, formerly TensorFlow Lite) or "coreml". "ncnn" and
            "coreml" cannot be int8; only "onnx" and "openvino" can contain NMS or be dynamic.
        input_size: long side of the network input in pixels, a multiple of 32; None: as in training.
        int8_images: images for post-training quantization to int8: paths of files or folders, glob patterns, or the
            result of `training_images`. At least 16; the activation ranges are measured on at most 128 of them. None:
            the export is in float32.
        int8_full_range: whether the weights of an int8 export use all 8 bits. Such an export is only for CPUs with
            exact int8 sums (x86 with VNNI, ARM); on others its detections are worse. False: the weights use 7 bits, so
            that the export gives the same detections on every CPU. Only for "onnx" and "openvino".
        fp16: whether the weights are stored in float16, which halves the size. Where the runtime can, it also computes
            in float16: ONNX Runtime, ncnn and LiteRT on ARM, Core ML on its accelerators. The normalization and
            the decoding of boxes stay in float32 in ONNX files.
        nms: options of NMS inside the graph; their thresholds are fixed in the graph. With a score threshold of "auto",
            the graph uses the lowest of the thresholds stored with the weights, and `Detector.detect` with "auto" those
            of the classes. None: the graph contains no NMS and returns one prediction per grid point.
        dynamic: whether the graph accepts inputs of any size (multiples of 32).
        data: dataset on which the certificate also compares AP, in any form that `open_data` accepts.
        split: split of this dataset; None: as for `evaluate`.
        runtime: inference backend that runs the export for the certificate.
        threads: largest number of threads that run the export and the weights for the certificate, as for
            `Detector.load`.
        certificate_images: images on which the certificate also compares detections, in the same forms as
            `int8_images`. If empty, the images of the split are used.
        allow_outside: as for `open_data`.
        max_pixels: largest number of pixels of an image that is decoded.
        certify: whether to compare the export with the weights and write a certificate.
        overwrite: whether to replace a file that this package did not write, or that was changed since.

    Returns:
        The path and size of the export, and its certificate.

    Raises:
        InputError: an argument is out of range, a file or image cannot be read or written, a package is not installed,
            there are fewer than 16 images for int8, or the network does not support these options.
        WeightsError: the detections of a float32 export differ from those of the weights by more than rounding errors,
            or those of a float16 export are of other objects. The export and the certificate have been written.
    """
    path = local_path(path)
    _check_format(format)
    int8 = int8_images is not None
    used = {"int8": int8, "fp16": fp16, "nms": nms is not None, "dynamic": dynamic, "int8_full_range": int8_full_range}
    check_options(format, used)
    check_packages(format, int8=int8, fp16=fp16)
    check_output(path, format, overwrite)
    network, info = load_weights(weights)
    if nms is not None:
        _check_nms(info)
        nms = replace(nms, score_threshold=_lowest_threshold(nms, info))
    input_hw = info.choose_input_hw(input_size, str(weights))
    options = ReadOptions(allow_outside=allow_outside, max_pixels=max_pixels)
    int8_inputs = None
    if int8_images is not None:
        _warn_other_levels(info, 8 if int8_full_range or format == "litert" else 7)
        int8_inputs = _calibration_inputs(list(_as_sources(int8_images, options)), input_hw)
    sources = list(_as_sources(certificate_images, options))
    existed = path.exists()
    if format in ("onnx", "openvino"):
        graph = to_onnx(network, info, input_hw, dynamic)
        _write(path, graph, format, nms, int8_inputs, int8_full_range, fp16)
    else:
        _write_mobile(path, format, network, info, input_hw, int8_inputs, fp16)
    certificate, structure = None, None
    if format == "coreml":
        # Also without `certify`: only the certificate proves that this package wrote the files.
        structure = certify_package(path, weights)
    elif certify and _has_runtime(format):
        with _removed_without_certificate(path, existed):
            certificate = certify_export(
                weights,
                path,
                runtime=runtime,
                input_size=max(input_hw),
                threads=threads,
                data=data,
                split=split,
                images=sources,
                allow_outside=allow_outside,
                max_pixels=max_pixels,
            )
    size_bytes = sum(file.stat().st_size for file in export_files(path))
    return ExportResult(path, input_hw, size_bytes, certificate, structure)


def training_images(data: str | Path, options: ReadOptions = _DEFAULT_READ_OPTIONS) -> list[Source]:
    """Return the images of the training split of a dataset, for int8 calibration.

    Args:
        data: the dataset, in any form that `open_data` accepts.
        options: only `allow_outside` and `max_pixels` are used.

    Raises:
        InputError: the dataset cannot be read, or has no training split.
    """
    data_set = open_data(data, allow_outside=options.allow_outside, max_pixels=options.max_pixels)
    return sources_of(data_set.read(choose_training_split(data_set, None)))


def _write(
    path: Path,
    graph: bytes,
    format: Format,
    nms: DetectOptions | None,
    int8_inputs: Sequence[ImageArray] | None,
    int8_full_range: bool,
    fp16: bool,
) -> None:
    """Write a graph; before that, quantize it, add NMS or convert it to float16 or OpenVINO if requested.

    Args:
        path: the .onnx file or the OpenVINO folder to write.
        graph: content of an ONNX file in float32, without NMS.
        format: "onnx" or "openvino".
        nms: options of the NMS to add to the graph; None: no NMS.
        int8_inputs: letterboxed images [H, W, 3] for int8 calibration; None: the graph stays in float32.
        int8_full_range: whether int8 weights use all 8 bits.
        fp16: whether the weights are stored in float16.
    """
    if int8_inputs is not None:
        log.info("int8: measuring the ranges of the activations on %s", plural(len(int8_inputs), "image"))
    if format == "onnx" and int8_inputs is not None:
        graph = quantize(graph, int8_inputs, int8_full_range)
    if format == "onnx" and fp16:
        graph = to_fp16(graph)
    if nms is not None:
        graph = add_nms(graph, nms)
    if format == "openvino":
        ir = to_ir(graph, int8_inputs, int8_full_range, fp16)
        write_folder(path, {XML: sign(ir.xml), BIN: ir.weights})
    else:
        write_file(path, sign(graph))


def _write_mobile(
    path: Path,
    format: Format,
    network: GridNetwork,
    info: WeightsInfo,
    input_hw: tuple[int, int],
    int8_inputs: Sequence[ImageArray] | None,
    fp16: bool,
) -> None:
    """Write a network in a format for phones and small devices.

    Args:
        path: the file or folder to write.
        format: "ncnn", "litert" or "coreml".
        network: the trained network.
        info: information about the weights.
        input_hw: height and width of the network input, in pixels.
        int8_inputs: letterboxed images [H, W, 3] for int8 calibration; None: the export is not int8.
        fp16: whether the weights are stored in float16.
    """
    # Imported here, because each of these imports a large package.
    if format == "ncnn":
        from detector.graph.to_ncnn import to_ncnn

        write_folder(path, to_ncnn(network, info, input_hw, fp16).files())
    elif format == "litert":
        from detector.graph.to_litert import to_litert

        write_file(path, sign(to_litert(network, info, input_hw, fp16, int8_inputs)))
    else:
        from detector.graph.to_coreml import to_coreml

        write_folder(path, to_coreml(network, info, input_hw, fp16))


def _has_runtime(format: Format) -> bool:
    """Return whether a package that runs an export is installed, which "ncnn" and "litert" also need to write it."""
    return format not in ("onnx", "openvino") or bool(find_spec("openvino") or find_spec("onnxruntime"))


@contextmanager
def _removed_without_certificate(path: Path, existed: bool) -> Iterator[None]:
    """Context manager that removes a new export if an exception leaves it without a certificate.

    With a certificate, the export is complete: its differences are too large, and the user may inspect it.

    Args:
        path: the file or folder of the export.
        existed: whether it replaced an earlier export; then it stays.
    """
    certificate = certificate_path(path)
    try:
        yield
    except BaseException:
        if not existed and not certificate.exists():
            _remove(path)
        raise


def _remove(path: Path) -> None:
    """Remove the file or folder of an export that could not be certified."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _check_format(format: str) -> None:
    """Raise ConfigError unless `format` is the name of a format."""
    if format not in get_args(Format):
        raise ConfigError(f"format: expected {', '.join(get_args(Format))}, got {format!r}")


def _warn_other_levels(info: WeightsInfo, bits: int) -> None:
    """Log a warning if the weights come from quantization-aware training (QAT) for another number of bits.

    Args:
        info: information about the weights.
        bits: number of bits of the int8 weights of the export.
    """
    config = config_of(dict(info.config))
    if config.qat_start < 1 and config.qat_weight_bits != bits:
        log.warning(
            "the weights come from quantization-aware training for int8 weights of %d bits, and this export uses %d: "
            "%s",
            config.qat_weight_bits,
            bits,
            "add --int8-full-range if all CPUs that run it have VNNI or are ARM, or fine-tune the weights again"
            if bits == 7
            else "leave out --int8-full-range, or fine-tune the weights with --set qat_weight_bits=8",
        )


def _check_nms(info: WeightsInfo) -> None:
    """Raise ConfigError unless the weights use classic NMS per class, the only NMS that a graph can contain."""
    config = config_of(dict(info.config))
    if config.suppression != "classic" or config.class_agnostic:
        raise ConfigError(
            "nms: a graph can only contain classic NMS per class, but the settings of the weights are suppression="
            f"{config.suppression}, class_agnostic={config.class_agnostic}; export with --nms out"
        )


def _lowest_threshold(nms: DetectOptions, info: WeightsInfo) -> float:
    """Return the score threshold of the NMS in a graph, for which "auto" is the lowest threshold of the weights.

    Raises:
        ConfigError: the weights have no thresholds.
    """
    return replace(nms, score_threshold=stored_thresholds(nms.score_threshold, info)).lowest_threshold


def _as_sources(images: Sequence[Source | str | Path], options: ReadOptions) -> Iterator[Source]:
    """Yield a source per image; a string or path may be a file, a folder or a glob pattern."""
    for image in images:
        if isinstance(image, Source):
            yield image
        else:
            yield from find_sources([str(image)], options)


def _calibration_inputs(sources: Sequence[Source], input_hw: tuple[int, int]) -> list[ImageArray]:
    """Read at most 128 of the images, evenly spaced, and return them letterboxed, each as [H, W, 3].

    Raises:
        ConfigError: there are fewer than 16 images.
    """
    if len(sources) < _MIN_IMAGES:
        raise ConfigError(
            f"int8: {len(sources)} images are too few to measure the range of every activation; give at least "
            f"{_MIN_IMAGES} images, better {_CALIBRATION_IMAGES}"
        )
    return [letterbox_image(source.read(), input_hw)[1] for source in evenly_spaced(sources, _CALIBRATION_IMAGES)]
