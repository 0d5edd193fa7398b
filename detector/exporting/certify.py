"""Certify an export: compare its detections with those of its weights, and write the differences to a certificate.

The certificate also contains the detections of the weights in the built-in images, which are the same on every machine.
So `verify` can check the export on another machine without the weights. If the export is not exact (int8, bf16), the
certificate contains the detections of the export instead.
"""

import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from detector.arrays import ImageArray
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import WeightsError
from detector.evaluating.evaluate import EVALUATION_OPTIONS, detect_split, score_split
from detector.evaluating.evaluation_data import read_split_for
from detector.exporting.certificate import (
    BUILTIN_IMAGES,
    USER_IMAGES,
    ApComparison,
    Certificate,
    Latency,
    WeightsFile,
    certificate_path,
    detections_to_rows,
    write_certificate,
)
from detector.exporting.parity import Parity, compare_detections
from detector.exporting.reference_images import (
    builtin_images,
    comparison_options,
    detect_one_by_one,
    image_hash,
    prepare_for_comparison,
    read_evenly_spaced,
)
from detector.files import file_sha256
from detector.graph.export_format import export_files
from detector.letterbox import SIZE_DIVISOR
from detector.media.sources import Source, sources_of
from detector.options import ALL_CLASSES, MAX_PIXELS, RuntimeName
from detector.predict.detector import Detector
from detector.runtime.instruction_set import instruction_set
from detector.shipped_weights import find_weights
from detector.version import VERSION
from detector.wording import plural

log = logging.getLogger(__name__)

_WARMUP_IMAGES = 4
"""Number of images at the start whose times are not counted."""

_PACKAGES = (
    "torch", "numpy", "opencv-python-headless", "onnx", "onnxruntime", "openvino", "nncf", "ncnn", "pnnx",
    "litert-torch", "ai-edge-litert", "ai-edge-quantizer",
)  # fmt: skip

_DISTRIBUTIONS = {"litert": "ai-edge-litert"}
"""Name of a runtime → name of its package, if they differ."""


def certify_export(
    weights: str | Path,
    path: Path,
    *,
    runtime: RuntimeName = "auto",
    input_size: int | None = None,
    threads: int | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    images: Sequence[Source] = (),
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Certificate:
    """Run an export and its weights on the same images, compare them, and write and return the certificate.

    The certificate is written beside the exported file, or into the folder. A graph in int8 or float16, and a graph run
    by "openvino-fast", is not exact. For an inexact export, differences of detections are recorded and are not an
    error; its quality is judged by AP. But a float16 export must detect the same objects.

    Args:
        weights: the weights of the export: a .safetensors file or the name of shipped weights.
        path: path of the exported file or folder.
        runtime: inference backend that runs the export.
        input_size: long side of the network input in pixels; None: that of the export.
        threads: as for `Detector.load`.
        data: dataset on which AP is compared, in any form that `open_data` accepts. None: AP is not compared.
        split: split of this dataset; None: as for `evaluate`.
        images: the user's images. Detections are compared on the built-in images and on these; if `images` is empty, on
            the images of the split.
        allow_outside: as for `open_data`.
        max_pixels: as for `open_data`.

    Returns:
        The certificate that was written.

    Raises:
        InputError: a file, the dataset or an image cannot be read.
        WeightsError: the export is exact, and its detections differ from those of the weights by more than rounding
            errors; or it is in float16 and detects other objects. The certificate has been written.
    """
    model = Detector.load(path, device="cpu", runtime=runtime, input_size=input_size, threads=threads)
    reference = Detector.load(weights, device="cpu", input_size=max(model.input_hw), threads=threads)
    test_split = None
    if data is not None:
        data_set = open_data(data, allow_outside=allow_outside, max_pixels=max_pixels)
        test_split = read_split_for(reference.info, data_set, split)
    options = comparison_options(model)
    builtin = builtin_images(model)
    log.info("comparing the detections of %s and of the weights, image by image", path)
    expected, found = (detect_one_by_one(detector, builtin, options) for detector in (reference, model))
    info = model.runtime.graph_info
    exact = not info.int8 and not info.fp16 and runtime != "openvino-fast"
    parity = {BUILTIN_IMAGES: compare_detections(expected, found, options.lowest_threshold)}
    parity |= _parity_on_user_images(reference, model, images, test_split)
    parity |= _parity_at_larger_input(weights, path, model, runtime, threads)
    recorded = expected if exact else found
    if test_split is not None:
        count = plural(len(test_split.annotations), "image")
        log.info("computing the AP of the export and of the weights on %s (%s)", test_split.name, count)
    certificate = Certificate(
        export=path.name,
        files={file.name: file_sha256(file) for file in export_files(path)},
        weights=WeightsFile(str(weights), file_sha256(find_weights(weights))),
        graph=model.runtime.graph_info,
        input_hw=model.input_hw,
        exact=exact,
        runtime=f"{model.runtime.name}{'-fast' * (runtime == 'openvino-fast')} "
        f"{_version(_DISTRIBUTIONS.get(model.runtime.name, model.runtime.name))}",
        options=options,
        parity=parity,
        AP=None if test_split is None else _compare_ap(reference, model, test_split),
        latency_ms=Latency(_median_ms(reference, builtin), _median_ms(model, builtin)),
        versions={"detector": VERSION} | {name: _version(name) for name in _PACKAGES},
        machine=f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        instruction_set=str(instruction_set()),
        detections={image_hash(image): detections_to_rows(row) for image, row in zip(builtin, recorded, strict=True)},
    )
    write_certificate(path, certificate)
    _check_parity(certificate, path)
    return certificate


def _check_parity(certificate: Certificate, path: Path) -> None:
    """Raise WeightsError if an exact export has more than rounding errors, or a float16 export other objects."""
    for name, parity in certificate.parity.items():
        if certificate.graph.fp16 and parity.agrees is False:
            raise WeightsError(
                f"{path}: the float16 export detects other objects than {certificate.weights.name} on {name}: "
                f"{parity}. Probably values are too large for float16 (65504): export in float32"
            )
        if certificate.exact and not parity.is_within_rounding:
            raise WeightsError(
                f"{path}: the detections of the export differ from those of {certificate.weights.name} on {name}: "
                f"{parity}; see {certificate_path(path)}"
            )


def _measure_parity(reference: Detector, model: Detector, images: Sequence[ImageArray]) -> Parity:
    """Return the differences between the detections of the weights (`reference`) and of the export (`model`)."""
    options = comparison_options(model)
    expected, found = (detect_one_by_one(detector, images, options) for detector in (reference, model))
    return compare_detections(expected, found, options.lowest_threshold)


def _parity_on_user_images(
    reference: Detector, model: Detector, images: Sequence[Source], split: Split | None
) -> dict[str, Parity]:
    """Return {"your images": parity}; an empty dictionary if the user gave neither images nor a split."""
    sources = images if images or split is None else sources_of(split)
    pixels = prepare_for_comparison(read_evenly_spaced(sources), model)
    return {USER_IMAGES: _measure_parity(reference, model, pixels)} if pixels else {}


def _parity_at_larger_input(
    weights: str | Path, path: Path, model: Detector, runtime: RuntimeName, threads: int | None
) -> dict[str, Parity]:
    """Return {"an input of SIZE": parity} for an input 64 pixels larger; empty if the graph has a fixed input size."""
    if not model.runtime.graph_info.dynamic:
        return {}
    size = max(model.input_hw) + 2 * SIZE_DIVISOR
    reference = Detector.load(weights, device="cpu", input_size=size, threads=threads)
    larger = Detector.load(path, device="cpu", runtime=runtime, input_size=size, threads=threads)
    return {f"an input of {size}": _measure_parity(reference, larger, builtin_images(larger))}


def _compare_ap(reference: Detector, model: Detector, split: Split) -> ApComparison:
    """Measure COCO AP of the weights (`reference`) and of the export (`model`) on a split.

    If the graph contains NMS, both use the options of that NMS, else the options of the evaluation.
    """
    nms = model.runtime.graph_info.nms
    options = EVALUATION_OPTIONS if nms is None else replace(nms, classes=ALL_CLASSES)
    usable = [detect_split(detector, split, options) for detector in (reference, model)]
    weights, export = (score_split(*detected).AP for detected in usable)
    return ApComparison(
        weights=round(weights, 4),
        export=round(export, 4),
        lost=round(weights - export, 4) + 0.0,  # not -0.0
        split=split.name,
        images=len(usable[0].split.annotations),
        options=options,
    )


def _median_ms(detector: Detector, images: Sequence[ImageArray]) -> float:
    """Return the median time per image from pixels to detections, in milliseconds, without the first 4 images."""
    seconds = []
    for image in images:
        start = time.perf_counter()
        detector.detect(image)
        seconds.append(time.perf_counter() - start)
    return round(median(seconds[_WARMUP_IMAGES:]) * 1000, 2)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
