"""How good a detector is on a split: COCO's numbers."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.data.formats.coco import to_coco
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.detections import Detections, coco_results
from detector.errors import InputError
from detector.files import read_json
from detector.letterbox import Letterbox, letterbox_image
from detector.metrics.average_precision import AveragePrecision, average_precision, score
from detector.options import IOU_THRESHOLD, RuntimeName
from detector.predict.detector import Detector

log = logging.getLogger(__name__)

LOWEST_SCORE = 0.001
"""Average precision wants the whole ranking, not only what is worth showing."""

COCO_MAX_DETECTIONS = 100
"""COCO counts at most this many per image."""

_BATCH = 8

LetterboxedImages = Iterable[tuple[Annotation, Letterbox, ImageArray]]


def evaluate(
    data: str | Path,
    weights: str | Path,
    split: str = "test",
    device: str = "auto",
    iou_threshold: float = IOU_THRESHOLD,
    long_side: int | None = None,
    runtime: RuntimeName = "auto",
    suppression: str | None = None,
    class_agnostic: bool | None = None,
) -> AveragePrecision:
    """Score weights on a split of a data set.

    Args:
        data: anything `open_data` takes.
        weights: a path or a shipped name.
        split: "train", "val", "test".
        device: as for `Detector`.
        iou_threshold: of the suppression, 0..1.
        long_side: as for `Detector`.
        runtime: as for `Detector`.
        suppression: as for `Detector.detect_each`.
        class_agnostic: as for `Detector.detect_each`.

    Raises:
        InputError: the data, split or weights cannot be read, or their classes differ; no such suppression.
    """
    detector = Detector.load(weights, device, long_side, runtime)
    read = open_data(data).read(split)
    return score_split(read, detect_split(detector, read, iou_threshold, suppression, class_agnostic))


def detect_split(
    detector: Detector,
    split: Split,
    iou_threshold: float = IOU_THRESHOLD,
    suppression: str | None = None,
    class_agnostic: bool | None = None,
) -> dict[int, Detections]:
    """Return what a detector finds in every image of a split, by image id; thresholds and the rest as for `evaluate`.

    Raises:
        InputError: the classes differ, or an image cannot be read; no such suppression.
    """
    check_classes(detector, split)
    inputs = letterboxed(split, detector.input_hw)
    return detect_letterboxed(detector, inputs, iou_threshold, suppression, class_agnostic)


def letterboxed(split: Split, input_hw: tuple[int, int]) -> Iterator[tuple[Annotation, Letterbox, ImageArray]]:
    """Yield every image of a split on its canvas."""
    for annotation in split.annotations:
        yield annotation, *letterbox_image(split.read_image(annotation), input_hw)


def detect_letterboxed(
    detector: Detector,
    inputs: LetterboxedImages,
    iou_threshold: float = IOU_THRESHOLD,
    suppression: str | None = None,
    class_agnostic: bool | None = None,
) -> dict[int, Detections]:
    """Return what a detector finds on inputs made by `letterboxed`, by image id."""
    found: dict[int, Detections] = {}
    remaining = iter(inputs)
    while batch := list(islice(remaining, _BATCH)):
        answers = detector.detect_letterboxed(
            [(letterbox, letterboxed) for _, letterbox, letterboxed in batch],
            score_threshold=LOWEST_SCORE,
            iou_threshold=iou_threshold,
            max_detections=COCO_MAX_DETECTIONS,
            every_class=True,
            suppression=suppression,
            class_agnostic=class_agnostic,
        )
        found |= {annotation.image_id: answer for (annotation, _, _), answer in zip(batch, answers, strict=True)}
    return found


def score_split(split: Split, found: dict[int, Detections]) -> AveragePrecision:
    """Return COCO's numbers for detections, by image id, on a split."""
    truth = split.ground_truth if split.ground_truth is not None else to_coco(split)
    return score(truth, coco_results(found, split.category_ids))


def check_classes(detector: Detector, split: Split) -> None:
    """Refuse a split whose classes are not those of the detector.

    Raises:
        InputError: names both lists.
    """
    if detector.class_names != split.class_names:
        raise InputError(
            f"the weights know the classes {list(detector.class_names)}, the data set has {list(split.class_names)}: "
            "evaluate on data with the same classes in the same order"
        )


def evaluate_to_files(
    data: str | Path,
    split: str | None = None,
    weights: str | Path | None = None,
    detections: Path | None = None,
    device: str = "auto",
    iou_threshold: float = IOU_THRESHOLD,
    long_side: int | None = None,
    runtime: RuntimeName = "auto",
    json_path: Path | None = None,
    results_path: Path | None = None,
    suppression: str | None = None,
    class_agnostic: bool | None = None,
    allow_outside: bool = False,
) -> AveragePrecision:
    """Score weights, or another program's COCO results, and write the numbers.

    Args:
        data: anything `open_data` takes.
        split: None takes "test", or the only one there is.
        weights: to score; a path or shipped name.
        detections: COCO results to score instead.
        device: as for `Detector`.
        iou_threshold: of the suppression, 0..1.
        long_side: as for `Detector`.
        runtime: as for `Detector`.
        json_path: gets the numbers.
        results_path: gets the detections as COCO results.
        allow_outside: as of `open_data`.
        suppression: as for `Detector.detect_each`.
        class_agnostic: as for `Detector.detect_each`.

    Raises:
        InputError: anything given will not do.
    """
    for path in (json_path, results_path):
        if path is not None:
            _check_writable(path)
    source = open_data(data, allow_outside=allow_outside)
    if split is None:
        split = source.split_names[0] if len(source.split_names) == 1 else "test"
    if detections is not None:
        results, truth = _read_results(detections), source.ground_truth(split)
        try:
            results = _with_ids_of(truth, results)
            ap = average_precision(truth, results)
        except InputError as error:
            raise InputError(f"{detections}: {error}") from None
    else:
        assert weights is not None
        detector = Detector.load(weights, device, long_side, runtime)
        read = source.read(split)
        log.info(f"{source.description}; {read.name}: {len(read.annotations)} images, {read.ledger.summary()}")
        found = detect_split(detector, read, iou_threshold, suppression, class_agnostic)
        results = coco_results(found, read.category_ids)
        ap = score_split(read, found)
    for path, values in ((json_path, ap.to_json()), (results_path, results)):
        if path is not None:
            path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return ap


def _check_writable(path: Path) -> None:
    """Refuse a place that cannot be written to, before the work and not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path}: cannot be written")


def _read_results(path: Path) -> list[dict[str, Any]]:
    results = read_json(path)
    if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
        raise InputError(f"{path}: expected COCO results, a list of objects with image_id, category_id, bbox, score")
    return results


def _with_ids_of(truth: Mapping[str, Any], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results with the image ids of a COCO data set, where they name the files of their images.

    `detect` does, and counts images as they come: its own ids are those of a data set by chance only. Results on
    other images, as of a folder with all splits in it, are left out, and that is said.

    Raises:
        InputError: none of the files is in the data set, or one could be several of its images.
    """
    if not all(isinstance(row.get("file_name"), str) for row in results):
        return results
    known: dict[tuple[str, ...], list[Any]] = {}
    for image in truth["images"]:
        parts = PurePath(image.get("file_name", "")).parts
        for start in range(len(parts)):
            known.setdefault(parts[start:], []).append(image["id"])
    names = sorted({row["file_name"] for row in results})
    ids = {name: _id_of(name, known) for name in names if (PurePath(name).name,) in known}
    if names and not ids:
        raise InputError(f"the results are on {names[0]} and others, and none of these is an image of this split")
    if others := len(names) - len(ids):
        log.warning("%d of %d images with results are not in this split: left out", others, len(names))
    return [row | {"image_id": ids[row["file_name"]]} for row in results if row["file_name"] in ids]


def _id_of(name: str, known: Mapping[tuple[str, ...], list[Any]]) -> Any:
    """Return the id of the image that has the most of a path in common with a file, from its end.

    Args:
        name: of the file.
        known: the last parts of a path, however many → the ids of the images whose paths end so.

    >>> _id_of("my/night/a.png", {("a.png",): [7, 8], ("night", "a.png"): [8], ("day", "a.png"): [7]})
    8
    """
    parts = PurePath(name).parts
    best = next(known[parts[start:]] for start in range(len(parts)) if parts[start:] in known)
    if len(best) > 1:
        raise InputError(f"the results name {name}, which could be several images of the data set")
    return best[0]
