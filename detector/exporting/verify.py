"""Verify an export against its certificate, on any machine and without its weights."""

from dataclasses import dataclass
from pathlib import Path

from detector.errors import FileError, WeightsError
from detector.exporting.certificate import (
    BUILTIN_IMAGES,
    Certificate,
    certificate_path,
    file_sha256,
    read_certificate,
)
from detector.exporting.parity import Parity, compare_detections
from detector.exporting.reference_images import builtin_images, detect_one_by_one, image_hash
from detector.graph.openvino_ir import export_files
from detector.options import RuntimeName
from detector.predict.detector import Detector


@dataclass(frozen=True)
class VerifyResult:
    """The result of a verification.

    Attributes:
        parity: differences between the detections on this machine and those in the certificate.
        certificate: the certificate.
    """

    parity: Parity
    certificate: Certificate


def verify(path: str | Path, *, runtime: RuntimeName = "auto") -> VerifyResult:
    """Run an export on the built-in images and compare its detections with those in its certificate.

    Args:
        path: an .onnx file with its certificate beside it, or the folder of an OpenVINO export.
        runtime: inference backend.

    Raises:
        FileError: the export or its certificate is missing or cannot be read.
        WeightsError: the certificate is damaged or belongs to another file, or the detections differ by more than
            allowed.
        InputError: the runtime is not available.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        raise WeightsError(f"{path}: weights have no certificate; expected an export written by `detector export`")
    certificate = read_certificate(path)
    # The names may differ: the file may have been renamed.
    if [*certificate.files.values()] != [file_sha256(file) for file in export_files(path)]:
        raise WeightsError(f"{path}: is not the export that {certificate_path(path)} describes, or it is damaged")
    parity = _measure_parity(path, certificate, runtime)
    certified = certificate.parity[BUILTIN_IMAGES]
    is_exact = certificate.exact and runtime != "openvino-fast"
    if not (parity.is_within if is_exact else parity.is_like(certified)):
        raise WeightsError(
            f"{path}: its detections differ from its certificate: {parity}; difference to the weights when it was "
            f"certified: {certified}"
        )
    return VerifyResult(parity, certificate)


def _measure_parity(path: Path, certificate: Certificate, runtime: RuntimeName) -> Parity:
    """Compare the detections of an export in the built-in images with those in its certificate.

    Raises:
        WeightsError: the detections in the certificate are damaged, or belong to other images.
    """
    model = Detector.load(path, device="cpu", runtime=runtime)
    images = [image for image in builtin_images(model) if image_hash(image) in certificate.detections]
    if not images:
        raise WeightsError(
            f"{path}: the built-in images on this machine are not those of the certificate (another version of "
            "OpenCV?), so that nothing can be compared: export again on this machine"
        )
    try:
        expected = [certificate.detections_of(image_hash(image), model.class_names) for image in images]
    except ValueError as error:
        raise WeightsError(f"{certificate_path(path)}: damaged ({error}): export again") from None
    found = detect_one_by_one(model, images, certificate.options)
    return compare_detections(expected, found, certificate.options.score_threshold)
