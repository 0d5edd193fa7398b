"""Check a Core ML package without running it, which only devices of Apple can, and write what was checked."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from detector.arrays import Floats
from detector.errors import WeightsError
from detector.exporting.certificate import WeightsFile, certificate_path
from detector.files import file_sha256, read_json
from detector.graph.export_format import export_files
from detector.graph.metadata import read_metadata
from detector.graph.to_coreml import import_coremltools
from detector.model.checkpoint import load_weights
from detector.outputs import write_signed_json
from detector.shipped_weights import find_weights
from detector.version import VERSION

FORMAT = "detector-structure-certificate-1"

NOT_RUN = (
    "This package was not run, because Core ML exists only on devices of Apple. Its detections were not compared with "
    "those of the weights: do this on a device before you rely on it."
)
"""What the certificate of a Core ML package says first."""


@dataclass(frozen=True)
class CoreMlCertificate:
    """What was checked in a Core ML package. Nothing is known about its detections.

    Attributes:
        files: relative path → SHA-256 hash, for each file of the package.
        weights: the weights file.
        input_hw: height and width of the network input, in pixels.
        fp16: whether the package computes in float16.
        checks: what was checked, one sentence per check; all of them held.
    """

    files: Mapping[str, str]
    weights: WeightsFile
    input_hw: tuple[int, int]
    fp16: bool
    checks: tuple[str, ...]


def certify_package(path: Path, weights: str | Path) -> CoreMlCertificate:
    """Check the structure of a Core ML package that was just written; write and return its certificate.

    Args:
        path: path of the package.
        weights: the weights from which it was exported.

    Raises:
        WeightsError: the package cannot be read again, or is not as expected.
    """
    tools = import_coremltools()
    try:
        model = tools.models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
    except Exception as error:  # coremltools has no common base class of its errors
        raise WeightsError(f"{path}: the package cannot be read again ({error!r:.200}); export it again") from None
    expected = load_weights(weights)[1]
    info, graph_info = read_metadata(dict(spec.description.metadata.userDefined), str(path))
    image = spec.description.input[0]
    size = (image.type.imageType.height, image.type.imageType.width)
    constants = _constants(model, spec)
    numbers = sum(constant.size for constant in constants)
    checks = {
        f"the package is read again by coremltools {tools.__version__}, specification version "
        f"{spec.specificationVersion}": spec.WhichOneof("Type") == "mlProgram",
        f"the input `image` is an RGB image of {info.input_hw[1]}x{info.input_hw[0]} pixels": (
            image.name == "image"
            and size == info.input_hw
            and image.type.imageType.colorSpace == image.type.imageType.RGB
        ),
        "the outputs are `boxes` and `scores`": [output.name for output in spec.description.output]
        == ["boxes", "scores"],
        f"the metadata hold the {len(info.class_names)} class names of the weights": info.class_names
        == expected.class_names,
        f"the {numbers} weights are finite": numbers > 0 and all(np.isfinite(constant).all() for constant in constants),
    }
    if wrong := [text for text, holds in checks.items() if not holds]:
        raise WeightsError(f"{path}: the package is not as expected: it does not hold that {wrong[0]}; export it again")
    certificate = CoreMlCertificate(
        files={str(file.relative_to(path)): file_sha256(file) for file in export_files(path)},
        weights=WeightsFile(str(weights), file_sha256(find_weights(weights))),
        input_hw=info.input_hw,
        fp16=graph_info.fp16,
        checks=tuple(checks),
    )
    write_signed_json(certificate_path(path), _to_json(path, certificate))
    return certificate


def _constants(model: Any, spec: Any) -> list[Floats]:
    """Return the float constants of the program in a Core ML model: the weights and biases.

    Args:
        model: the model of coremltools.
        spec: its specification.
    """
    from coremltools.converters.mil.frontend.milproto.load import load

    program = load(spec, spec.specificationVersion, model.weights_dir)
    values = [np.asarray(op.val.val) for op in program.functions["main"].operations if op.op_type == "const"]
    return [value for value in values if value.dtype.kind == "f"]


def read_structure(path: Path) -> CoreMlCertificate:
    """Read the certificate of a Core ML package.

    Args:
        path: path of the package.

    Raises:
        FileError: the certificate is missing or cannot be read.
        WeightsError: the certificate is damaged, or another version of this package wrote it.
    """
    file = certificate_path(path)
    values = read_json(file)
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r:.60}, expected {FORMAT!r}")
        return CoreMlCertificate(
            files={str(name): str(sha256) for name, sha256 in values["files"].items()},
            weights=WeightsFile(str(values["weights"]["name"]), str(values["weights"]["sha256"])),
            input_hw=(int(values["input_hw"][0]), int(values["input_hw"][1])),
            fp16=bool(values["fp16"]),
            checks=tuple(map(str, values["checks"])),
        )
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise WeightsError(f"{file}: the certificate is damaged ({error!r:.200}); export again") from None


def _to_json(path: Path, certificate: CoreMlCertificate) -> dict[str, Any]:
    """Return the certificate of a package as a dictionary of JSON values."""
    return {
        "format": FORMAT,
        "export": path.name,
        "was_run": False,
        "note": NOT_RUN,
        "files": dict(certificate.files),
        "weights": asdict(certificate.weights),
        "input_hw": list(certificate.input_hw),
        "fp16": certificate.fp16,
        "checks": list(certificate.checks),
        "versions": {"detector": VERSION} | {name: version(name) for name in ("torch", "coremltools")},
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }
