"""The proof that an exported file answers like the weights it came from: both on the same pictures, one to one.

The certificate stands beside the file. It holds the answers of the weights on built-in pictures, which are the same
everywhere, so that the file can be held to them on another machine without the weights.
"""

import hashlib
import platform
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from detector.boxes import pairwise_iou
from detector.config import RuntimeName
from detector.data import scenes
from detector.data.descriptor import open_data
from detector.detections import Detections
from detector.engine.detect import Detector
from detector.engine.evaluate import detect_split, score_split
from detector.errors import InputError
from detector.files import read_json, write_json
from detector.images import Pixels

FORMAT = "detector-certificate-1"

_PICTURES = 24
_SCORE = 0.05
"""Detections are compared down to this score, well below what is shown."""

_BOX_TOLERANCE, _SCORE_TOLERANCE = 0.5, 0.01
"""Pixels of the picture, and score, by which exact arithmetic may drift."""

_AP_TOLERANCE = 0.005
"""AP that eight-bit arithmetic may lose before the certificate says so."""

_SAME_OBJECT = 0.5
"""IoU from which two detections of a class are the same one."""


@dataclass(frozen=True)
class Drift:
    """How far two lists of answers to the same pictures lie apart.

    Attributes:
        pictures: how many.
        detections: of the reference.
        unmatched: detections of either that the other lacks, but for those whose score is that near the threshold.
        box: largest difference of a side, pixels of the picture.
        score: largest difference of a score.
    """

    pictures: int
    detections: int
    unmatched: int
    box: float
    score: float

    @property
    def is_within(self) -> bool:
        """Whether exact arithmetic may differ so much."""
        return self.unmatched == 0 and self.box <= _BOX_TOLERANCE and self.score <= _SCORE_TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.detections} detections in {self.pictures} pictures: {self.unmatched} unmatched, boxes within "
            f"{self.box:.3g} px, scores within {self.score:.2g}"
        )


def certify(
    weights: str | Path,
    path: Path,
    long_side: int | None = None,
    int8: bool = False,
    data: str | Path | None = None,
    split: str = "test",
    runtime: RuntimeName = "auto",
) -> dict[str, Any]:
    """Run an exported file and its weights on the same pictures and write the certificate beside the file.

    Args:
        weights: it was exported from.
        path: the file.
        long_side: it was exported with.
        int8: it computes in eight bits, so that AP counts and not the drift of single answers.
        data: to compare the AP on too; anything `open_data` takes.
        split: of these.
        runtime: to run the file in.

    Raises:
        InputError: an exact file drifts further than it may; the certificate is written nevertheless.
    """
    reference = Detector.load(weights, "cpu", long_side)
    model = Detector.load(path, "cpu", runtime=runtime)
    pictures = _builtin_pictures()
    expected = [reference.detect(picture, score_threshold=_SCORE) for picture in pictures]
    drift = compare(expected, [model.detect(picture, score_threshold=_SCORE) for picture in pictures])
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "file": path.name,
        "sha256": _hash(path),
        "weights": str(weights),
        "int8": int8,
        "runtime": f"{model.runtime.name} {_version(model.runtime.name)}",
        "drift": asdict(drift),
        "milliseconds": {"weights": _milliseconds(reference, pictures), "file": _milliseconds(model, pictures)},
        "AP": None if data is None else _compare_ap(reference, model, data, split),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "answers": [
            {
                "picture": zlib.crc32(picture.data),
                "boxes": np.round(found.boxes.astype(np.float64), 3).tolist(),
                "scores": np.round(found.scores.astype(np.float64), 5).tolist(),
                "class_ids": found.class_ids.tolist(),
            }
            for picture, found in zip(pictures, expected, strict=True)
        ],
    }
    write_json(certificate_path(path), certificate)
    if not int8 and not drift.is_within:
        raise InputError(f"{path}: does not answer like {weights}: {drift}; see {certificate_path(path)}")
    return certificate


def verify(path: Path, runtime: RuntimeName = "auto") -> tuple[Drift, dict[str, Any]]:
    """Hold an exported file to its certificate, on whatever machine this is.

    Raises:
        InputError: there is no certificate, it is of another file, or the answers drift further than they may.
    """
    certificate = read_json(certificate_path(path))
    try:
        if certificate["format"] != FORMAT or certificate["sha256"] != _hash(path):
            raise InputError(f"{path}: is not the file that {certificate_path(path)} is about")
        answers = {row["picture"]: row for row in certificate["answers"]}
        model = Detector.load(path, "cpu", runtime=runtime)
        pictures = [picture for picture in _builtin_pictures() if zlib.crc32(picture.data) in answers]
        expected = [_detections(answers[zlib.crc32(picture.data)], model.class_names) for picture in pictures]
        int8 = bool(certificate["int8"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{certificate_path(path)}: damaged ({error!r})") from None
    if not pictures:
        raise InputError(
            f"{path}: the built-in pictures come out differently here (another OpenCV?): nothing to compare"
        )
    drift = compare(expected, [model.detect(picture, score_threshold=_SCORE) for picture in pictures])
    if not int8 and not drift.is_within:
        raise InputError(f"{path}: does not answer as its certificate says: {drift}")
    return drift, certificate


def compare(expected: Sequence[Detections], found: Sequence[Detections]) -> Drift:
    """Match the detections of each picture one to one, class by class, and return how far they lie apart."""
    unmatched, box, score = 0, 0.0, 0.0
    for one, other in zip(expected, found, strict=True):
        pairs = match(one, other)
        for mine, theirs in pairs:
            box = max(box, float(np.abs(one.boxes[mine] - other.boxes[theirs]).max()))
            score = max(score, abs(float(one.scores[mine] - other.scores[theirs])))
        for scores, taken in ((one.scores, {a for a, _ in pairs}), (other.scores, {b for _, b in pairs})):
            alone = [value for index, value in enumerate(scores) if index not in taken]
            unmatched += sum(bool(value > _SCORE + _SCORE_TOLERANCE) for value in alone)
    return Drift(len(expected), sum(map(len, expected)), unmatched, box, score)


def match(one: Detections, other: Detections) -> list[tuple[int, int]]:
    """Return pairs of indices: the best of the first takes its best partner of the same class, then the next best."""
    if not len(one) or not len(other):
        return []
    iou = pairwise_iou(one.boxes, other.boxes)
    iou[one.class_ids[:, None] != other.class_ids] = 0
    pairs = []
    for mine in range(len(one)):
        theirs = int(iou[mine].argmax())
        if iou[mine, theirs] >= _SAME_OBJECT:
            pairs.append((mine, theirs))
            iou[:, theirs] = 0
    return pairs


def certificate_path(path: Path) -> Path:
    """Return where the certificate of a file stands."""
    return path.with_name(path.name + ".certificate.json")


def _compare_ap(reference: Detector, model: Detector, data: str | Path, split: str) -> dict[str, float]:
    read = open_data(data).read(split)
    before, after = (score_split(read, detect_split(each, read)).AP for each in (reference, model))
    return {"weights": round(before, 4), "file": round(after, 4), "lost": round(before - after, 4)}


def loses_too_much(certificate: dict[str, Any]) -> bool:
    """Say whether the AP lost is worth a word."""
    return certificate["AP"] is not None and certificate["AP"]["lost"] > _AP_TOLERANCE


def _builtin_pictures() -> list[Pixels]:
    split = scenes.read_split("test")
    return [np.ascontiguousarray(split.read_image(annotation)) for annotation in split.annotations[:_PICTURES]]


def _detections(row: dict[str, Any], class_names: tuple[str, ...]) -> Detections:
    return Detections(
        np.array(row["boxes"], dtype=np.float32).reshape(-1, 4),
        np.array(row["scores"], dtype=np.float32),
        np.array(row["class_ids"], dtype=np.int64),
        class_names,
    )


def _milliseconds(model: Detector, pictures: Sequence[Pixels]) -> float:
    """Return the median time of a picture, from its pixels to detections, the first few left out."""
    times = []
    for picture in pictures:
        start = time.perf_counter()
        model.detect(picture)
        times.append(time.perf_counter() - start)
    return round(median(times[4:]) * 1000, 2)


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
