"""The certificate of an export: the measured differences between the export and its weights.

The certificate is a JSON file beside the exported file, or in the folder of an OpenVINO or ncnn export.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector.detections import Detections
from detector.errors import FileError, WeightsError
from detector.exporting.parity import Parity
from detector.files import read_json
from detector.graph.export_format import NCNN_FILES, SUFFIXES, Format
from detector.graph.metadata import GraphInfo
from detector.options import DetectOptions
from detector.outputs import write_signed_json

FORMAT = "detector-certificate-4"

FILE_NAME = "certificate.json"
"""Name of the certificate in the folder of an export. For model.onnx it is model.onnx.certificate.json."""

BUILTIN_IMAGES = "built-in images"
"""Key in `Certificate.parity`: the differences on the built-in images, which are the same on every machine."""

USER_IMAGES = "your images"
"""Key in `Certificate.parity`: the differences on the user's images."""

_AP_TOLERANCE = 0.005
"""Largest acceptable loss of COCO AP (IoU 0.50:0.95, from 0 to 1); for a larger loss, the user gets advice."""


@dataclass(frozen=True)
class WeightsFile:
    """The weights file from which an export was created.

    Attributes:
        name: path or shipped name of the weights, as the user gave it.
        sha256: SHA-256 hash of the weights file.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class ApComparison:
    """COCO AP of an export and of its weights on the same split.

    Attributes:
        weights: COCO AP (IoU 0.50:0.95) of the weights, 0..1.
        export: COCO AP (IoU 0.50:0.95) of the export, 0..1.
        lost: AP of the weights minus AP of the export; positive if the export is worse.
        split: name of the split.
        images: number of images of the split.
        options: options of the detection: those of the NMS in the graph if the graph contains NMS, else those of the
            evaluation.
    """

    weights: float
    export: float
    lost: float
    split: str
    images: int
    options: DetectOptions


@dataclass(frozen=True)
class Latency:
    """Median time per image from pixels to detections, in milliseconds.

    Attributes:
        weights: time of the weights in PyTorch.
        export: time of the export.
    """

    weights: float
    export: float


@dataclass(frozen=True)
class Certificate:
    """The measured differences between an export and its weights, and everything needed to verify the export later.

    Attributes:
        export: name of the .onnx file or of the OpenVINO folder.
        files: file name → SHA-256 hash, for each file of the export.
        weights: the weights file.
        graph: properties of the graph.
        input_hw: height and width of the network input, in pixels.
        exact: True if the export computes in float32 like the weights; False if it is quantized to int8, stores its
            weights in float16, or ran in reduced precision (bf16).
        runtime: name and version of the runtime that ran the export.
        options: options of the compared detections.
        parity: name of a set of images → differences between the detections of the weights and of the export.
        AP: COCO AP of the weights and of the export on the user's data; None if the user gave no data.
        latency_ms: time per image with the weights and with the export.
        versions: package name → version; None if the package is not installed.
        machine: processor architecture, operating system and Python version.
        instruction_set: instruction set of the CPU that ran the export, such as "x86_64 with AVX2".
        detections: hash of a built-in image → its detections, each as "class-id score x1 y1 x2 y2". These are the
            detections of the weights if the export is exact, else those of the export.
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
    instruction_set: str
    detections: Mapping[str, Sequence[str]]

    @property
    def loses_too_much(self) -> bool:
        """Return True if COCO AP (IoU 0.50:0.95) of the export is more than 0.005 below the AP of the weights.

        False if no AP was measured.
        """
        return self.AP is not None and self.AP.lost > _AP_TOLERANCE

    @property
    def valid_for(self) -> str:
        """The runtimes and CPUs for which the measured differences hold."""
        if self.exact:
            if self.graph_format in ("ncnn", "litert"):
                return f"{self.runtime.split()[0]} on every CPU"
            return "every runtime that computes in float32"
        if not self.graph.int8:
            return f"{self.runtime} on a CPU with {self.instruction_set}"
        if self.graph_format == "litert":
            return f"{self.runtime} on every CPU; another runtime or an accelerator may round differently"
        cpu = "every CPU" if self.graph.int8_weight_bits == 7 else f"CPUs that sum like {self.instruction_set}"
        return f"{self.runtime} on {cpu}; another runtime, such as OpenCV, may round an int8 graph differently"

    @property
    def graph_format(self) -> Format:
        """Format of the export, from the names of its files."""
        names = [Path(name) for name in self.files]
        if len(names) == 1:
            return "litert" if names[0].suffix == SUFFIXES["litert"] else "onnx"
        return "ncnn" if set(self.files) == set(NCNN_FILES) else "openvino"

    @property
    def int8_agrees(self) -> bool | None:
        """Whether an int8 export and its weights detect the same objects in the user's images: see `Parity.agrees`.

        None: the graph is not int8, there are no such images, or they have too few objects.
        """
        parity = self.parity.get(USER_IMAGES)
        return parity.agrees if self.graph.int8 and parity is not None else None

    def detections_of(self, image_hash: str, class_names: tuple[str, ...]) -> Detections:
        """Return the recorded detections of a built-in image.

        Args:
            image_hash: hash of the image; a key of `detections`.
            class_names: class names of the export.

        Raises:
            ValueError: a recorded detection is damaged.
        """
        table = np.array([row.split() for row in self.detections[image_hash]], dtype=np.float64).reshape(-1, 6)
        if not np.isfinite(table).all() or not np.isin(table[:, 0], range(len(class_names))).all():
            raise ValueError(f"expected finite numbers and class ids below {len(class_names)}")
        boxes, scores, class_ids = table[:, 2:], table[:, 1], table[:, 0]
        return Detections(boxes.astype(np.float32), scores.astype(np.float32), class_ids.astype(np.int64), class_names)

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as a dictionary of JSON values."""
        nms = self.graph.nms
        return {
            "format": FORMAT,
            "export": self.export,
            "files": dict(self.files),
            "weights": asdict(self.weights),
            "graph": {
                "dynamic": self.graph.dynamic,
                "int8": self.graph.int8,
                "fp16": self.graph.fp16,
                "int8_weight_bits": self.graph.int8_weight_bits if self.graph.int8 else None,
                "nms": None if nms is None else _thresholds_to_json(nms),
                "input_hw": list(self.input_hw),
            },
            "exact": self.exact,
            "runtime": self.runtime,
            "valid_for": self.valid_for,
            "options": _thresholds_to_json(self.options),
            "parity": {name: asdict(parity) | {"agreement": parity.agreement} for name, parity in self.parity.items()},
            "AP": None if self.AP is None else asdict(self.AP) | {"options": _thresholds_to_json(self.AP.options)},
            "latency_ms": asdict(self.latency_ms),
            "versions": dict(self.versions),
            "machine": self.machine,
            "instruction_set": self.instruction_set,
            "detections": {name: list(rows) for name, rows in self.detections.items()},
        }

    @classmethod
    def from_json(cls, values: Any, source: str) -> "Certificate":
        """Return the certificate that JSON values contain; the inverse of `to_json`.

        Args:
            values: JSON values.
            source: path of the certificate, for error messages.

        Raises:
            WeightsError: the values are damaged, or another version of this package wrote them.
        """
        try:
            if values["format"] != FORMAT:
                raise WeightsError(
                    f"{source}: the certificate was written by another version (format {values['format']!r:.60}, "
                    f"expected {FORMAT!r}); export again"
                )
            return _parse(values)
        except WeightsError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise WeightsError(f"{source}: the certificate is damaged ({error!r:.200}); export again") from None


def detections_to_rows(found: Detections) -> list[str]:
    """Return one line "class-id score x1 y1 x2 y2" per detection."""
    return [
        f"{class_id} {score:.6f} " + " ".join(f"{side:.3f}" for side in box)
        for class_id, score, box in zip(found.class_ids, found.scores, found.boxes, strict=True)
    ]


def certificate_path(path: Path) -> Path:
    """Return the path of the certificate that belongs to an export.

    Args:
        path: path of the exported file, folder or Core ML package.
    """
    in_folder = path.is_dir() and path.suffix != SUFFIXES["coreml"]
    return path / FILE_NAME if in_folder else path.with_name(f"{path.name}.{FILE_NAME}")


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write the certificate of the export at `path`, a file or folder."""
    write_signed_json(certificate_path(path), certificate.to_json())


def read_certificate(path: Path) -> Certificate:
    """Read and return the certificate of the export at `path`, a file or folder.

    Raises:
        FileError: the certificate is missing or cannot be read.
        WeightsError: the certificate is damaged, or another version of this package wrote it.
    """
    file = certificate_path(path)
    if path.exists() and not file.exists():
        raise FileError(
            f"{path}: has no certificate, because {file} is missing: the export was stopped before its end, was not "
            "certified, or was copied without this file; repeat `detector export`, or copy both"
        )
    return Certificate.from_json(read_json(file), str(file))


def _thresholds_to_json(options: DetectOptions) -> dict[str, Any]:
    """Return the three options that a certificate records, as JSON values."""
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
    """Return the certificate that JSON values contain.

    Raises:
        KeyError, TypeError, AttributeError, ValueError, OverflowError: a value is missing or damaged.
    """
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
        graph=GraphInfo(
            bool(graph["dynamic"]),
            bool(graph["int8"]),
            nms,
            int(_finite(graph["int8_weight_bits"])) if graph["int8"] else 8,
            bool(graph.get("fp16", False)),  # certificates of older versions do not have it
        ),
        input_hw=(int(_finite(height)), int(_finite(width))),
        exact=bool(values["exact"]),
        runtime=str(values["runtime"]),
        options=_thresholds_from_json(values["options"]),
        parity=parity,
        AP=None if ap is None else _parse_ap(ap),
        latency_ms=Latency(_finite(latency["weights"]), _finite(latency["export"])),
        versions=dict(values["versions"]),
        machine=str(values["machine"]),
        instruction_set=str(values["instruction_set"]),
        detections={name: tuple(map(str, rows)) for name, rows in values["detections"].items()},
    )


def _parse_parity(values: Mapping[str, Any]) -> Parity:
    return Parity(
        images=int(_finite(values["images"])),
        detections=int(_finite(values["detections"])),
        unmatched=int(_finite(values["unmatched"])),
        box=_finite(values["box"]),
        score=_finite(values["score"]),
        confident=int(_finite(values["confident"])),
        confident_unmatched=int(_finite(values["confident_unmatched"])),
    )


def _parse_ap(values: Mapping[str, Any]) -> ApComparison:
    return ApComparison(
        weights=_finite(values["weights"]),
        export=_finite(values["export"]),
        lost=_finite(values["lost"]),
        split=str(values["split"]),
        images=int(_finite(values["images"])),
        options=_thresholds_from_json(values["options"]),
    )


def _finite(value: float) -> float:
    """Return a JSON value as a float; raise ValueError, TypeError or OverflowError if it is not a finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {number}")
    return number
