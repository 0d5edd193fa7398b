"""Verify an export: compare its detections with those in its certificate, on any machine and without the weights."""

from dataclasses import dataclass
from pathlib import Path

from detector.errors import ConfigError, FileError, WeightsError
from detector.exporting.certificate import (
    BUILTIN_IMAGES,
    Certificate,
    certificate_path,
    read_certificate,
)
from detector.exporting.coreml_structure import NOT_RUN, read_structure
from detector.exporting.parity import Parity, compare_detections
from detector.exporting.reference_images import builtin_images, detect_one_by_one, image_hash
from detector.files import file_sha256, local_path
from detector.graph.export_format import export_files, format_of_export
from detector.html_table import html_table
from detector.options import RuntimeName
from detector.predict.detector import Detector
from detector.runtime.instruction_set import instruction_set


@dataclass(frozen=True)
class VerifyResult:
    """The result of a successful verification.

    Attributes:
        parity: differences between the detections of the export on this machine and those in the certificate.
        certificate: the certificate of the export.
    """

    parity: Parity
    certificate: Certificate

    def _repr_html_(self) -> str:
        """Return the result as an HTML table, which notebooks show."""
        return html_table((), [("verified", "ok"), ("parity", self.parity)])


def verify(path: str | Path, *, runtime: RuntimeName = "auto", threads: int | None = None) -> VerifyResult:
    """Run an export on the built-in images and return the differences from the detections in its certificate.

    Args:
        path: path of an exported file with its certificate beside it, or of the folder of an export.
        runtime: inference backend that runs the export.
        threads: as for `Detector.load`.

    Raises:
        FileError: the export or its certificate is missing or cannot be read.
        WeightsError: the certificate is damaged or belongs to another export, or the detections differ too much: for a
            float32 export by more than rounding errors, for an int8 export by more than
            `Parity.is_within_int8_rounding` allows, for a bf16 export by more than `Parity.is_similar_to` allows.
        InputError: the runtime is not available.
    """
    path = local_path(path)
    if not path.exists():
        raise FileError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        raise WeightsError(
            f"{path}: a weights file has no certificate; give an export that `detector export` has written"
        )
    if format_of_export(path) == "coreml":
        _refuse_package(path)
    certificate = read_certificate(path)
    # Only the hashes are compared, not the names: the user may have renamed the file.
    if [*certificate.files.values()] != [file_sha256(file) for file in export_files(path)]:
        raise WeightsError(
            f"{path}: the export is damaged, or is not the export that {certificate_path(path)} describes; export again"
        )
    parity = _measure_parity(path, certificate, runtime, threads)
    if not _is_small(parity, certificate, runtime):
        raise WeightsError(
            f"{path}: the detections differ too much from those in the certificate: {parity}; the certificate was "
            f"written with {certificate.runtime} on a CPU with {certificate.instruction_set}, this CPU has "
            f"{instruction_set()}; in the certificate, the differences between the export and its weights are: "
            f"{certificate.parity[BUILTIN_IMAGES]}"
        )
    return VerifyResult(parity, certificate)


def _refuse_package(path: Path) -> None:
    """Check the files of a Core ML package, then raise ConfigError: nothing can compare its detections here.

    Raises:
        FileError: the certificate is missing or cannot be read.
        WeightsError: the certificate is damaged or belongs to other files.
        ConfigError: always, if the files are those of the certificate.
    """
    certificate = read_structure(path)
    if certificate.files != {str(file.relative_to(path)): file_sha256(file) for file in export_files(path)}:
        raise WeightsError(
            f"{path}: the package is damaged, or is not the one that {certificate_path(path)} describes; export again"
        )
    raise ConfigError(f"{path}: the files are those of the certificate, but nothing more can be verified. {NOT_RUN}")


def _is_small(parity: Parity, certificate: Certificate, runtime: RuntimeName) -> bool:
    """Return True if the differences on this machine are as small as the precision of the export allows."""
    if certificate.graph.int8:
        return parity.is_within_int8_rounding
    if certificate.exact and runtime != "openvino-fast":
        return parity.is_within_rounding
    return parity.is_similar_to(certificate.parity[BUILTIN_IMAGES])


def _measure_parity(path: Path, certificate: Certificate, runtime: RuntimeName, threads: int | None) -> Parity:
    """Run an export on the built-in images and return the differences from the detections in its certificate.

    Raises:
        WeightsError: the detections in the certificate are damaged, or none belongs to a built-in image.
    """
    model = Detector.load(path, device="cpu", runtime=runtime, threads=threads)
    images = [image for image in builtin_images(model) if image_hash(image) in certificate.detections]
    if not images:
        raise WeightsError(
            f"{path}: nothing can be compared, because the built-in images on this machine differ from those of the "
            "certificate (another version of OpenCV?); export again on this machine"
        )
    try:
        expected = [certificate.detections_of(image_hash(image), model.class_names) for image in images]
    except ValueError as error:
        raise WeightsError(f"{certificate_path(path)}: the certificate is damaged ({error}); export again") from None
    found = detect_one_by_one(model, images, certificate.options)
    return compare_detections(expected, found, certificate.options.lowest_threshold)
