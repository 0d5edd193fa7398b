"""Measure exports: AP on a dataset, differences from the weights, size, and time per image, for each format.

    python tools/measure_exports.py --weights cells runs/pico/weights/best.safetensors --sizes small --out exports

Formats whose packages are not installed are left out. Exports that the folder contains already are kept: so formats
whose packages do not fit into one environment can be written by several calls with the same folder, the last of them
where all runtimes are installed. The rows are written to results.md in the folder, with the certificates beside the
exports. `--sizes` adds networks with random weights: of them, only size and time are measured.

The times are of one thread. The exports take turns image by image, so that other work on the machine slows all of them
alike. CPU time changes less with other work than the time on the clock.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector.config import config_of
from detector.errors import InputError, MissingPackageError, WeightsError
from detector.exporting.certificate import USER_IMAGES, Certificate, certificate_path, read_certificate
from detector.exporting.export import export, training_images
from detector.exporting.reference_images import builtin_images
from detector.files import file_sha256
from detector.graph.export_format import Format, export_files
from detector.model.checkpoint import load_weights, save_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.options import RuntimeName
from detector.predict.detector import Detector
from detector.shipped_weights import find_weights
from detector.weights_info import WeightsInfo


class Variant(NamedTuple):
    """One kind of export.

    Attributes:
        format: format of the export.
        file: name of the exported file or folder.
        runtime: inference backend that runs it.
        options: options of the export; `int8` stands for the training images.
        module: module that writes it.
    """

    format: Format
    file: str
    runtime: RuntimeName
    options: Mapping[str, bool]
    module: str


VARIANTS = {
    "ONNX Runtime, float32": Variant("onnx", "full.onnx", "onnxruntime", {}, "onnx"),
    "ONNX Runtime, float16": Variant("onnx", "fp16.onnx", "onnxruntime", {"fp16": True}, "onnx"),
    "ONNX Runtime, int8": Variant("onnx", "int8.onnx", "onnxruntime", {"int8": True}, "onnx"),
    "OpenVINO, float32": Variant("openvino", "full_openvino", "openvino", {}, "openvino"),
    "OpenVINO, `openvino-fast`": Variant("openvino", "fast_openvino", "openvino-fast", {}, "openvino"),
    "OpenVINO, float16": Variant("openvino", "fp16_openvino", "openvino", {"fp16": True}, "openvino"),
    "OpenVINO, int8": Variant("openvino", "int8_openvino", "openvino", {"int8": True}, "nncf"),
    "ncnn, float32": Variant("ncnn", "full_ncnn", "ncnn", {}, "pnnx"),
    "ncnn, float16": Variant("ncnn", "fp16_ncnn", "ncnn", {"fp16": True}, "pnnx"),
    "LiteRT, float32": Variant("litert", "full.tflite", "litert", {}, "litert_torch"),
    "LiteRT, float16": Variant("litert", "fp16.tflite", "litert", {"fp16": True}, "litert_torch"),
    "LiteRT, int8": Variant("litert", "int8.tflite", "litert", {"int8": True}, "litert_torch"),
    "Core ML, float32": Variant("coreml", "full.mlpackage", "auto", {}, "coremltools"),
    "Core ML, float16": Variant("coreml", "fp16.mlpackage", "auto", {"fp16": True}, "coremltools"),
}

_WARMUP_ROUNDS = 4


class Times(NamedTuple):
    """Medians over the images: milliseconds on the clock, of CPU time, and CPU time relative to that of the weights."""

    wall: float
    cpu: float
    relative: float


def random_weights(size: str, path: Path, template: WeightsInfo) -> Path:
    """Write weights of a network of the given size that was not trained; return their path."""
    torch.manual_seed(0)
    config = config_of({"model": size})
    covariance = np.diag([3000.0, 3000.0, 3000.0]).astype(np.float32)
    classes = len(template.class_names)
    network = make_network(config, classes, np.full(3, 110, np.float32), covariance, template.input_hw).eval()
    assert isinstance(network, GridNetwork)
    info = WeightsInfo(size, template.class_names, template.category_ids, template.input_hw, asdict(config), {})
    save_weights(path, network, info)
    return path


def write_exports(weights: str | Path, folder: Path, data: str, trained: bool) -> None:
    """Write the exports that are missing from the folder and whose packages are installed.

    Args:
        weights: path or shipped name of the weights.
        folder: where the exports are written.
        data: dataset for int8 calibration and AP.
        trained: False for random weights: their exports get no certificates.

    Raises:
        InputError: the folder contains exports of other weights.
    """
    for name, variant in VARIANTS.items():
        path = folder / variant.file
        if path.exists():
            _check_weights(path, variant, weights)
            continue
        if find_spec(variant.module) is None:
            continue
        print(f"{folder.name}: exporting for {name}", flush=True)
        try:
            export(
                weights,
                path,
                format=variant.format,
                data=data if trained else None,
                runtime=variant.runtime,
                threads=1,
                int8_images=training_images(data) if "int8" in variant.options else None,
                fp16=variant.options.get("fp16", False),
                certify=trained,
            )
        except (WeightsError, MissingPackageError) as error:  # if it has been written, its row shows the differences
            print(error, flush=True)


def _check_weights(path: Path, variant: Variant, weights: str | Path) -> None:
    """Raise InputError if the certificate of an export belongs to other weights."""
    if variant.format != "coreml" and certificate_path(path).exists():
        expected, found = file_sha256(find_weights(weights)), read_certificate(path).weights.sha256
        if found != expected:
            raise InputError(f"{path}: an export of other weights than {weights}; use another folder with --out")


def measure_times(weights: str | Path, folder: Path, rounds: int) -> dict[str, Times]:
    """Return the times of the weights ("torch") and of the exports whose runtimes are installed, one thread each."""
    detectors = {"torch": Detector.load(weights, device="cpu", threads=1)}
    images = builtin_images(detectors["torch"])
    for name, variant in VARIANTS.items():
        if variant.format == "coreml" or not (folder / variant.file).exists():
            continue
        try:
            detector = Detector.load(folder / variant.file, device="cpu", runtime=variant.runtime, threads=1)
            detector.detect(images[0])
            detectors[name] = detector
        except InputError as error:  # its packages are not installed here, or its outputs are not finite
            print(error, flush=True)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in detectors}
    for number in range(_WARMUP_ROUNDS + rounds):
        for name, detector in detectors.items():
            wall, cpu = time.perf_counter(), time.process_time()
            detector.detect(images[number % len(images)])
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    table = {name: 1000 * np.array(values[_WARMUP_ROUNDS:]) for name, values in seconds.items()}
    return {
        name: Times(
            float(median(values[:, 0])),
            float(median(values[:, 1])),
            float(median(values[:, 1] / table["torch"][:, 1])),
        )
        for name, values in table.items()
    }


def rows_of(weights: str | Path, folder: Path, times: Mapping[str, Times]) -> list[str]:
    """Return the rows of the table for one network; the first one is that of the weights in torch."""
    rows, ap = [], ""
    for name, variant in VARIANTS.items():
        path = folder / variant.file
        if not path.exists():
            continue
        megabytes = sum(file.stat().st_size for file in export_files(path)) / 1e6
        accuracy = " | "
        if variant.format != "coreml" and certificate_path(path).exists():
            certificate = read_certificate(path)
            accuracy = _accuracy(certificate)
            if certificate.AP is not None:
                ap = f"{certificate.AP.weights:.4f}"
        rows.append(f"| {name} | {accuracy} | {megabytes:.2f} | {_time(times.get(name))} |")
    megabytes = find_weights(weights).stat().st_size / 1e6
    return [f"| torch | {ap} | | {megabytes:.2f} | {_time(times['torch'])} |", *rows]


def _accuracy(certificate: Certificate) -> str:
    """Return the cells "AP" and "unmatched, px, score" of an export."""
    ap = "" if certificate.AP is None else f"{certificate.AP.export:.4f} ({-certificate.AP.lost:+.4f})"
    parity = certificate.parity.get(USER_IMAGES)
    if parity is None:
        return f"{ap} | "
    drift = f"{parity.unmatched} of {parity.detections:,}, {parity.box:.2g}, {parity.score:.1g}"
    refused = (certificate.exact and not parity.is_within_rounding) or (
        certificate.graph.fp16 and parity.agrees is False
    )
    return f"{ap} | {drift}{' (refused)' * refused}"


def _time(times: Times | None) -> str:
    """Return the cells "ms", "CPU ms" and "relative to torch"."""
    return " | | " if times is None else f"{times.wall:.1f} | {times.cpu:.1f} | {times.relative:.2f}"


def networks_of(weights: Sequence[str], sizes: Sequence[str], out: Path) -> dict[str, tuple[str | Path, bool]]:
    """Return network size → its weights, and whether they are trained."""
    infos = {name: load_weights(name)[1] for name in weights}
    networks: dict[str, tuple[str | Path, bool]] = {info.model: (name, True) for name, info in infos.items()}
    if len(networks) < len(weights) or networks.keys() & sizes:
        raise InputError("--weights, --sizes: expected each network size once; measure the others with another --out")
    for size in sizes:
        (out / size).mkdir(parents=True, exist_ok=True)
        networks[size] = random_weights(size, out / size / "random.safetensors", infos[weights[0]]), False
    return networks


def main() -> None:
    """Write the exports, measure all variants, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", nargs="+", default=["cells"], help="trained weights (default: cells)")
    parser.add_argument("--data", default="datasets/bccd.yaml", help="dataset for AP (default: %(default)s)")
    parser.add_argument("--sizes", nargs="*", default=[], help="sizes of networks with random weights")
    parser.add_argument("--rounds", type=int, default=100, help="images per export for the times (default: 100)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the exports and the table")
    options: Any = parser.parse_args()
    torch.set_num_threads(1)
    try:
        networks = networks_of(options.weights, options.sizes, options.out)
        rows = [
            "| export | AP (difference) | unmatched, px, score | MB | ms | CPU ms | CPU ms relative to torch |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for size, (weights, trained) in networks.items():
            folder = options.out / size
            folder.mkdir(parents=True, exist_ok=True)
            write_exports(weights, folder, options.data, trained)
            rows.append(f"| **{size}**{'' if trained else ' (random weights)'} | | | | | | |")
            rows += rows_of(weights, folder, measure_times(weights, folder, options.rounds))
            (options.out / "results.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    except InputError as error:
        sys.exit(str(error))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
