"""The certificate of an export: what was measured when the export was compared with its weights.

It is a JSON file beside the .onnx file, or in the folder of an OpenVINO export.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector.detections import Detections
from detector.errors import FileError, WeightsError
from detector.exporting.parity import Parity
from detector.files import read_json, write_json
from detector.graph.metadata import GraphInfo
from detector.options import DetectOptions

FORMAT = "detector-certificate-3"

FILE_NAME = "certificate.json"
"""Name of the certificate in the folder of an export; beside an .onnx file, the name of that file comes first."""

BUILTIN_IMAGES = "built-in images"
"""Key in `Certificate.parity` of the built-in images, which are the same on every machine."""

_AP_TOLERANCE = 0.005
"""Largest loss of AP by reduced precision (int8, bf16) that needs no advice."""


@dataclass(frozen=True)
class WeightsFile:
    """The weights of an export.

    Attributes:
        name: path or shipped name, as given.
        sha256: hash of the file.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class ApComparison:
    """AP of an export and of its weights on the same split.

    Attributes:
        weights: COCO's AP of the weights, 0..1.
        export: COCO's AP of the export, 0..1.
        lost: the difference; positive: the export is worse.
        split: name of the split.
        images: number of images in it.
        options: thresholds of the detection: those of the evaluation, or those of the NMS inside the graph.
    """

    weights: float
    export: float
    lost: float
    split: str
    images: int
    options: DetectOptions


@dataclass(frozen=True)
class Latency:
    """Median time per image from pixels to detections, in milliseconds, of the weights in torch and of the export."""

    weights: float
    export: float


@dataclass(frozen=True)
class Certificate:
    """What was measured when an export was compared with its weights.

    Attributes:
        export: name of the file or folder.
        files: name of each file of the export → its SHA-256 hash.
        weights: the weights it was exported from.
        graph: properties of the graph.
        input_hw: height and width of its input.
        exact: whether the export computes in float32 like its weights: if not, it is int8 or ran in reduced precision.
        runtime: name and version of the runtime that ran the export.
        options: thresholds of the detections that were compared.
        parity: name of a set of images → differences between the detections of the weights and of the export.
        AP: AP of both on the user's data; None: no data was given.
        latency_ms: time per image of both.
        versions: name of a package → its version; None: not installed.
        machine: processor architecture, operating system and Python version.
        detections: hash of each built-in image → detections in it, each as "class-id score x1 y1 x2 y2": those of the
            weights if the export is exact, else those of the export itself.
    """

    export: str
    files: Mapping[str, str]
    weights: WeightsFile
    graph: GraphInfo
    input_hw: tuple[int, int]
    exact: bool
    runtime: str
    options: DetectOptions
    parity: Mapping[str, Parity]
    AP: ApComparison | None
    latency_ms: Latency
    versions: Mapping[str, str | None]
    machine: str
    detections: Mapping[str, Sequence[str]]

    @property
    def loses_too_much(self) -> bool:
        """Whether the export has lost so much AP (more than 0.005) that the user needs advice."""
        return self.AP is not None and self.AP.lost > _AP_TOLERANCE

    def detections_of(self, image_hash: str, class_names: tuple[str, ...]) -> Detections:
        """Return the detections in a built-in image.

        Args:
            image_hash: hash of the image, a key of `detections`.
            class_names: names of the classes of the export.

        Raises:
            ValueError: a line is damaged.
        """
        table = np.array([row.split() for row in self.detections[image_hash]], dtype=np.float64).reshape(-1, 6)
        boxes, scores, class_ids = table[:, 2:], table[:, 1], table[:, 0]
        return Detections(boxes.astype(np.float32), scores.astype(np.float32), class_ids.astype(np.int64), class_names)

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        nms = self.graph.nms
        return {
            "format": FORMAT,
            "export": self.export,
            "files": dict(self.files),
            "weights": asdict(self.weights),
            "graph": {
                "dynamic": self.graph.dynamic,
                "int8": self.graph.int8,
                "nms": None if nms is None else _thresholds_to_json(nms),
                "input_hw": list(self.input_hw),
            },
            "exact": self.exact,
            "runtime": self.runtime,
            "options": _thresholds_to_json(self.options),
            "parity": {name: asdict(parity) for name, parity in self.parity.items()},
            "AP": None if self.AP is None else asdict(self.AP) | {"options": _thresholds_to_json(self.AP.options)},
            "latency_ms": asdict(self.latency_ms),
            "versions": dict(self.versions),
            "machine": self.machine,
            "detections": {name: list(rows) for name, rows in self.detections.items()},
        }

    @classmethod
    def from_json(cls, values: Any, source: str) -> "Certificate":
        """Parse what `to_json` returned.

        Args:
            values: JSON values.
            source: name of the file, for error messages.

        Raises:
            WeightsError: it has another format, or is damaged.
        """
        try:
            if values["format"] != FORMAT:
                raise WeightsError(
                    f"{source}: written by another version (format {values['format']!r}, expected {FORMAT!r}): "
                    "export again"
                )
            return _parse(values)
        except WeightsError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise WeightsError(f"{source}: damaged ({error!r}): export again") from None


def detections_to_rows(found: Detections) -> list[str]:
    """Return a line "class-id score x1 y1 x2 y2" per object."""
    return [
        f"{class_id} {score:.6f} " + " ".join(f"{side:.3f}" for side in box)
        for class_id, score, box in zip(found.class_ids, found.scores, found.boxes, strict=True)
    ]


def certificate_path(path: Path) -> Path:
    """Return the path of the certificate of an export.

    Args:
        path: the .onnx file, or the folder of an OpenVINO export.
    """
    return path / FILE_NAME if path.is_dir() else path.with_name(f"{path.name}.{FILE_NAME}")


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write the certificate of the export at `path`, a file or folder."""
    write_json(certificate_path(path), certificate.to_json())


def read_certificate(path: Path) -> Certificate:
    """Read the certificate of the export at `path`, a file or folder.

    Raises:
        FileError: it is missing or cannot be read.
        WeightsError: it was written by another version, or is damaged.
    """
    file = certificate_path(path)
    return Certificate.from_json(read_json(file), str(file))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hash of a file.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None


def _thresholds_to_json(options: DetectOptions) -> dict[str, Any]:
    return {
        "score_threshold": options.score_threshold,
        "iou_threshold": options.iou_threshold,
        "max_detections": options.max_detections,
    }


def _thresholds_from_json(values: Mapping[str, Any]) -> DetectOptions:
    return DetectOptions(
        score_threshold=values["score_threshold"],
        iou_threshold=values["iou_threshold"],
        max_detections=values["max_detections"],
    )


def _parse(values: Mapping[str, Any]) -> Certificate:
    graph, ap, latency = values["graph"], values["AP"], values["latency_ms"]
    height, width = graph["input_hw"]
    nms = None if graph["nms"] is None else _thresholds_from_json(graph["nms"])
    parity = {name: _parse_parity(entry) for name, entry in values["parity"].items()}
    if BUILTIN_IMAGES not in parity:
        raise KeyError(BUILTIN_IMAGES)
    return Certificate(
        export=str(values["export"]),
        files={name: str(sha256) for name, sha256 in values["files"].items()},
        weights=WeightsFile(str(values["weights"]["name"]), str(values["weights"]["sha256"])),
        graph=GraphInfo(bool(graph["dynamic"]), bool(graph["int8"]), nms),
        input_hw=(int(height), int(width)),
        exact=bool(values["exact"]),
        runtime=str(values["runtime"]),
        options=_thresholds_from_json(values["options"]),
        parity=parity,
        AP=None if ap is None else _parse_ap(ap),
        latency_ms=Latency(float(latency["weights"]), float(latency["export"])),
        versions=dict(values["versions"]),
        machine=str(values["machine"]),
        detections={name: tuple(map(str, rows)) for name, rows in values["detections"].items()},
    )


def _parse_parity(values: Mapping[str, Any]) -> Parity:
    return Parity(
        images=int(values["images"]),
        detections=int(values["detections"]),
        unmatched=int(values["unmatched"]),
        box=float(values["box"]),
        score=float(values["score"]),
    )


def _parse_ap(values: Mapping[str, Any]) -> ApComparison:
    return ApComparison(
        weights=float(values["weights"]),
        export=float(values["export"]),
        lost=float(values["lost"]),
        split=str(values["split"]),
        images=int(values["images"]),
        options=_thresholds_from_json(values["options"]),
    )
