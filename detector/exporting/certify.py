"""The proof that an export answers like the weights it came from: both on the same images, one to one.

The certificate stands beside the file, or in the folder. It holds the answers of the weights on built-in images,
which are the same everywhere, so that the export can be held to them on another machine without the weights; where
arithmetic is not exact, those of the export itself.
"""

import hashlib
import platform
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from detector.arrays import ImageArray
from detector.data.open_data import open_data
from detector.data.scenes import scenes
from detector.data.split import Split, evenly_spaced
from detector.detections import Detections
from detector.errors import InputError
from detector.evaluating.evaluate import detect_split, letterboxed, score_split
from detector.exporting.export import CERTIFICATE
from detector.exporting.parity import Drift, compare
from detector.files import read_json, write_json
from detector.graph.openvino_ir import export_files
from detector.letterbox import SIZE_DIVISOR, letterbox_image
from detector.media.sources import Source, sources_of
from detector.model.checkpoint import find_weights
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, RuntimeName
from detector.predict.detector import Detector

FORMAT = "detector-certificate-2"

_IMAGES = 24
"""Of the built-in set; and most of the user's."""

_SCORE = 0.05
"""Detections are compared down to this score, well below what is shown."""

_AP_TOLERANCE = 0.005
"""AP that arithmetic which is not exact may lose before the certificate says so."""

_PACKAGES = ("detector", "torch", "numpy", "opencv-python-headless", "onnx", "onnxruntime", "openvino", "nncf")


def certify(
    weights: str | Path,
    path: Path,
    runtime: RuntimeName = "auto",
    data: str | Path | None = None,
    split: str = "test",
    images: Sequence[Source] = (),
    allow_outside: bool = False,
) -> dict[str, Any]:
    """Run an export and its weights on the same images and write the certificate beside or into it.

    Eight-bit integers and the runtime "openvino-fast" are not exact: there AP counts and not the drift of answers.

    Args:
        weights: it was exported from.
        path: the file or folder.
        runtime: to run it in.
        data: to compare the AP on too; anything `open_data` takes.
        split: of these.
        images: the user's, to compare answers on as well as on the built-in ones; none: those of the split.
        allow_outside: as of `open_data`.

    Returns:
        The certificate, as it is written.

    Raises:
        InputError: an exact export drifts further than it may; the certificate is written nevertheless.
    """
    model = Detector.load(path, "cpu", runtime=runtime)
    reference = Detector.load(weights, "cpu", max(model.input_hw))
    read = None if data is None else open_data(data, allow_outside=allow_outside).read(split)
    asked = _asked(model)
    builtin = _builtin_images(model)
    expected, found = _answers(reference, builtin, asked), _answers(model, builtin, asked)
    is_exact = not model.runtime.form.int8 and runtime != "openvino-fast"
    drifts = {"built-in images": compare(expected, found, asked["score_threshold"])}
    if yours := _some_images(images, read):
        drifts["your images"] = _drift(reference, model, _comparable(yours, model), asked)
    if model.runtime.form.dynamic:
        larger = max(model.input_hw) + 2 * SIZE_DIVISOR
        pair = Detector.load(weights, "cpu", larger), Detector.load(path, "cpu", larger, runtime)
        drifts[f"an input of {larger}"] = _drift(*pair, _builtin_images(pair[1]), asked)
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "export": path.name,
        "files": {file.name: _hash(file) for file in export_files(path)},
        "weights": {"name": str(weights), "sha256": _hash(find_weights(weights))},
        "form": asdict(model.runtime.form) | {"input_hw": model.input_hw},
        "exact": is_exact,
        "runtime": f"{model.runtime.name}{'-fast' * (runtime == 'openvino-fast')} {_version(model.runtime.name)}",
        "compared": asked,
        "drift": {name: asdict(drift) for name, drift in drifts.items()},
        "AP": None if read is None else _compare_ap(reference, model, read),
        "milliseconds": {"weights": _milliseconds(reference, builtin), "export": _milliseconds(model, builtin)},
        "versions": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "answers": {
            _name(image): _to_rows(answer)
            for image, answer in zip(builtin, expected if is_exact else found, strict=True)
        },
    }
    write_json(certificate_path(path), certificate)
    for name, drift in drifts.items():
        if is_exact and not drift.is_within:
            raise InputError(f"{path}: does not answer like {weights} on {name}: {drift}; see {certificate_path(path)}")
    return certificate


def verify(path: Path, runtime: RuntimeName = "auto") -> tuple[Drift, dict[str, Any]]:
    """Hold an export to its certificate, on whatever machine this is.

    Returns:
        How far its answers on the built-in images lie from those in the certificate, and the certificate.

    Raises:
        InputError: there is no certificate, it is of another file, or the answers drift further than they may.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        raise InputError(f"{path}: weights; expected what `detector export` made of them, which has a certificate")
    where = certificate_path(path)
    certificate = read_json(where)
    try:
        if certificate["format"] != FORMAT:
            raise InputError(f"{where}: of another version (format {certificate['format']!r}): export again")
        # Whatever they are called now.
        if [*certificate["files"].values()] != [_hash(file) for file in export_files(path)]:
            raise InputError(f"{path}: is not what {where} is about: another export, or a damaged one")
        model = Detector.load(path, "cpu", runtime=runtime)
        answers = {name: _from_rows(rows, model.class_names) for name, rows in certificate["answers"].items()}
        asked = dict(certificate["compared"])
        images = [image for image in _builtin_images(model) if _name(image) in answers]
        expected = [answers[_name(image)] for image in images]
        before = Drift(**certificate["drift"]["built-in images"])
        is_exact = bool(certificate["exact"]) and runtime != "openvino-fast"
        drift = compare(expected, _answers(model, images, asked), asked["score_threshold"])
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{where}: damaged ({error!r})") from None
    if not images:
        raise InputError(f"{path}: the built-in images come out differently here (another OpenCV?): nothing to compare")
    if not (drift.is_within if is_exact else drift.is_like(before)):
        raise InputError(f"{path}: does not answer as its certificate says: {drift}; when it was written {before}")
    return drift, certificate


def certificate_path(path: Path) -> Path:
    """Return where the certificate of a file or folder stands."""
    return path / CERTIFICATE if path.is_dir() else path.with_name(f"{path.name}.{CERTIFICATE}")


def loses_too_much(certificate: dict[str, Any]) -> bool:
    """Say whether the AP lost is worth a word."""
    return certificate["AP"] is not None and certificate["AP"]["lost"] > _AP_TOLERANCE


def _asked(model: Detector) -> dict[str, Any]:
    """Return the thresholds to compare with: low ones, or those that are fixed inside the graph."""
    if (nms := model.runtime.form.nms) is not None:
        return asdict(nms) | {"score_threshold": max(nms.score_threshold, _SCORE)}
    return {"score_threshold": _SCORE, "iou_threshold": IOU_THRESHOLD, "max_detections": MAX_DETECTIONS}


def _answers(model: Detector, images: Sequence[ImageArray], asked: dict[str, Any]) -> list[Detections]:
    return [model.detect(image, **asked) for image in images]


def _drift(reference: Detector, model: Detector, images: Sequence[ImageArray], asked: dict[str, Any]) -> Drift:
    expected, found = (_answers(detector, images, asked) for detector in (reference, model))
    return compare(expected, found, asked["score_threshold"])


def _compare_ap(reference: Detector, model: Detector, split: Split) -> dict[str, Any]:
    """Return the AP of both, under COCO's rules or, with suppression inside the graph, with its thresholds."""
    nms = model.runtime.form.nms
    before, after = (
        score_split(split, detect_split(each, split) if nms is None else _detect_as_fixed(each, split, asdict(nms))).AP
        for each in (reference, model)
    )
    said = {"split": split.name, "images": len(split.annotations)} | ({} if nms is None else asdict(nms))
    return {"weights": round(before, 4), "export": round(after, 4), "lost": round(before - after, 4)} | said


def _detect_as_fixed(detector: Detector, split: Split, asked: dict[str, Any]) -> dict[int, Detections]:
    return {
        annotation.image_id: detector.detect_letterboxed([(letterbox, letterboxed)], **asked)[0]
        for annotation, letterbox, letterboxed in letterboxed(split, detector.input_hw)
    }


def _builtin_images(model: Detector) -> list[ImageArray]:
    split = scenes.read_split("test")
    return _comparable([split.read_image(annotation) for annotation in split.annotations[:_IMAGES]], model)


def _comparable(images: Sequence[ImageArray], model: Detector) -> list[ImageArray]:
    """Return images that a model can be compared on: with suppression inside the graph those of its own canvas.

    That suppression sees boxes cut to the canvas, the one outside sees them cut to the image: where there is gray
    between the two, a few faint boxes are other ones by rights.
    """
    if model.runtime.form.nms is not None:
        images = [letterbox_image(image, model.input_hw)[1] for image in images]
    return [np.ascontiguousarray(image) for image in images]


def _some_images(images: Sequence[Source], split: Split | None) -> list[ImageArray]:
    """Read some of the user's images, evenly chosen; of a split where there are no others."""
    if not images and split is not None:
        images = sources_of(split)
    return [image.read() for image in evenly_spaced(images, _IMAGES)]


def _name(image: ImageArray) -> str:
    """Return what tells an image from one that was drawn or scaled otherwise."""
    return f"{zlib.crc32(image.data):08x}"


def _to_rows(found: Detections) -> list[str]:
    """Return a line per object: class id, score, box."""
    return [
        f"{class_id} {score:.6f} " + " ".join(f"{side:.3f}" for side in box)
        for class_id, score, box in zip(found.class_ids, found.scores, found.boxes, strict=True)
    ]


def _from_rows(rows: list[str], class_names: tuple[str, ...]) -> Detections:
    table = np.array([row.split() for row in rows], dtype=np.float64).reshape(-1, 6)
    return Detections(
        table[:, 2:].astype(np.float32), table[:, 1].astype(np.float32), table[:, 0].astype(np.int64), class_names
    )


def _milliseconds(model: Detector, images: Sequence[ImageArray]) -> float:
    """Return the median time of an image, from its pixels to detections, the first few left out."""
    times = []
    for image in images:
        start = time.perf_counter()
        model.detect(image)
        times.append(time.perf_counter() - start)
    return round(median(times[4:]) * 1000, 2)


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
