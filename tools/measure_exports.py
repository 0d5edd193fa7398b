"""Measure exports: AP on a data set, drift from the weights, time per image and size, for each format and network size.

    python tools/measure_exports.py --weights cells --data datasets/bccd.yaml --sizes pico small --out exports

Formats whose packages are not installed are left out. The rows are written to results.md in the folder, with the
certificates beside the exports. Sizes are networks with random weights: for them, only time and size mean something.
"""

import argparse
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector.config import config_of
from detector.errors import WeightsError
from detector.exporting.certificate import USER_IMAGES, read_certificate
from detector.exporting.export import export, training_images
from detector.graph.export_format import Format
from detector.model.checkpoint import save_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo

VARIANTS: dict[str, tuple[Format, str, dict[str, Any], str]] = {
    "ONNX (OpenVINO)": ("onnx", "full.onnx", {"runtime": "openvino"}, "openvino"),
    "ONNX (ONNX Runtime)": ("onnx", "ort.onnx", {"runtime": "onnxruntime"}, "onnxruntime"),
    "ONNX fp16 (ONNX Runtime)": ("onnx", "fp16.onnx", {"fp16": True, "runtime": "onnxruntime"}, "onnxruntime"),
    "ONNX int8 (ONNX Runtime)": ("onnx", "int8.onnx", {"int8": True, "runtime": "onnxruntime"}, "onnxruntime"),
    "ncnn": ("ncnn", "full_ncnn", {}, "pnnx"),
    "ncnn fp16": ("ncnn", "fp16_ncnn", {"fp16": True}, "pnnx"),
    "LiteRT": ("litert", "full.tflite", {}, "litert_torch"),
    "LiteRT fp16": ("litert", "fp16.tflite", {"fp16": True}, "litert_torch"),
    "LiteRT int8": ("litert", "int8.tflite", {"int8": True}, "litert_torch"),
    "Core ML": ("coreml", "full.mlpackage", {}, "coremltools"),
    "Core ML fp16": ("coreml", "fp16.mlpackage", {"fp16": True}, "coremltools"),
}
"""Name → format, name of the export, options, and module that it needs."""


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


def measure(name: str, weights: str | Path, folder: Path, data: str, trained: bool) -> str:
    """Export weights in one variant; return a row of the table."""
    format, file, options, _ = VARIANTS[name]
    options = dict(options)
    if options.pop("int8", False):
        options["int8_images"] = training_images(data)
    path = folder / file
    try:
        result = export(weights, path, format=format, data=data if trained else None, **options)
    except WeightsError as error:  # the export has been written, and its certificate says why
        return f"| {name} | {str(error)[:80]} |"
    if result.certificate is None:
        return f"| {name} | not run | not run | not run | {result.megabytes:.2f} |"
    certificate = read_certificate(path)
    ap = "" if certificate.AP is None else f"{certificate.AP.export:.4f} ({-certificate.AP.lost:+.4f})"
    parity = certificate.parity.get(USER_IMAGES)
    drift = (
        "" if parity is None else f"{parity.unmatched} of {parity.detections}, {parity.box:.2g} px, {parity.score:.1g}"
    )
    latency = certificate.latency_ms
    return f"| {name} | {ap} | {drift} | {latency.export:.1f} (torch {latency.weights:.1f}) | {result.megabytes:.2f} |"


def main() -> None:
    """Measure all variants, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", default="cells", help="trained weights (default: %(default)s)")
    parser.add_argument("--data", default="datasets/bccd.yaml", help="data set for AP (default: %(default)s)")
    parser.add_argument("--sizes", nargs="*", default=[], help="sizes of networks with random weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for the exports and the table")
    options = parser.parse_args()
    from detector.model.checkpoint import load_weights

    template = load_weights(options.weights)[1]
    rows = [
        "| export | AP (difference) | unmatched, boxes, scores | ms per image | MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for network in [None, *options.sizes]:
        label = options.weights if network is None else network
        folder = options.out / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        weights = options.weights
        if network is not None:
            weights = random_weights(network, folder / "random.safetensors", template)
        rows.append(f"| **{label}**{'' if network is None else ' (random weights)'} | | | | |")
        for name, (_, _, _, module) in VARIANTS.items():
            if find_spec(module) is not None:
                rows.append(measure(name, weights, folder, options.data, network is None))
                print(rows[-1], flush=True)
                (options.out / "results.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
