"""Evaluate a COCO results file, which this package or any other program has written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from detector.data.data_set import DataSet
from detector.data.file_index import comparable_path
from detector.errors import InputError, LabelError
from detector.evaluating.evaluate import check_max_detections
from detector.evaluating.evaluation import Evaluation
from detector.files import read_json
from detector.metrics.average_precision import average_precision, crowded_images_note, many_detections
from detector.outputs import without_signature
from detector.wording import few_names, plural

log = logging.getLogger(__name__)


def evaluate_results(data_set: DataSet, split: str, path: Path, max_detections: int | None = None) -> Evaluation:
    """Evaluate a COCO results file on a split of a dataset, and return metrics and detections.

    Args:
        data_set: the dataset.
        split: name of the split.
        path: JSON file with a list of rows: image_id, category_id, bbox [x, y, w, h], score, and optionally file_name.
        max_detections: as for `evaluate`; the limits apply to each class of an image.

    Raises:
        InputError: the file is not a COCO results file, or does not match the split. The message names the file.
    """
    check_max_detections(max_detections)
    results, truth = _read_results(path), data_set.ground_truth(split)
    if (note := crowded_images_note(truth, per_class=True)) is not None:
        log.warning("%s: %s", split, note)
    try:
        results = _with_ids_of(truth, results)
        ap = average_precision(truth, results)
        if (note := _classes_without_results(truth, results)) is not None:
            log.warning("%s: %s", path, note)
        if max_detections is not None:
            ap = replace(ap, many=many_detections(truth, [dict(row) for row in results], max_detections))
        return Evaluation(ap, results, truth, results)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


def _classes_without_results(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a note if the results have no detection of a class with objects: weights may not have learned it."""
    found = {row["category_id"] for row in results}
    labeled = {row["category_id"] for row in truth["annotations"]}
    names = [str(c.get("name", c["id"])) for c in truth["categories"] if c["id"] in labeled - found]
    if not names or not found:
        return None
    missed = few_names(names)
    return f"no detection of {missed}; AP counts each of these classes as 0, also if the weights did not learn it"


def _read_results(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a COCO results file; raise InputError if the file is not a list of JSON objects."""
    results = read_json(path)
    if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
        raise LabelError(f"{path}: expected COCO results, a list of objects with image_id, category_id, bbox, score")
    return [without_signature(row) for row in results]


def _with_ids_of(truth: Mapping[str, Any], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace the image ids of results by the ids of the ground truth, and return the new results.

    Images are matched by the `file_name` of a row: first as it is written, then as datasets find their images, with
    `/` for backslashes, without upper and lower case, and in one Unicode form. If a row has no `file_name`, the results
    are returned unchanged.

    `detector detect` writes file names and numbers the images itself, so its image ids are not those of a dataset.
    Results for images that are not in the ground truth are removed, with a warning. For example, the results may be
    for a folder with the images of all splits.

    Raises:
        LabelError: no file name is in the ground truth, or a file name matches several images.
    """
    if not all(isinstance(row.get("file_name"), str) for row in results):
        return results
    names = sorted({row["file_name"] for row in results})
    ids: dict[str, Any] = {}
    for form in (str, comparable_path):
        ids_by_path_end = _ids_by_path_end(truth, form)
        for name in names:
            written = form(name)
            if name not in ids and (PurePath(written).name,) in ids_by_path_end:
                ids[name] = _id_of(written, ids_by_path_end)
        if len(ids) == len(names):
            break
    if names and not ids:
        raise LabelError(
            f"none of the {plural(len(names), 'image')} with results is in this split (the first is {names[0]}); use "
            "results of this split, or select another split with --split"
        )
    if others := len(names) - len(ids):
        log.warning(
            "%d of %s with results %s not in this split; their results are ignored",
            *(others, plural(len(names), "image"), "is" if others == 1 else "are"),
        )
    return [row | {"image_id": ids[row["file_name"]]} for row in results if row["file_name"] in ids]


def _ids_by_path_end(truth: Mapping[str, Any], form: Callable[[str], str]) -> dict[tuple[str, ...], list[Any]]:
    """Return last parts of a path (one, two, ...) → ids of the images with a path that ends in these parts.

    Args:
        truth: the ground truth.
        form: converts the file names of the images before they are compared.
    """
    ids: dict[tuple[str, ...], list[Any]] = {}
    for image in truth["images"]:
        parts = PurePath(form(str(image.get("file_name", "")))).parts
        for start in range(len(parts)):
            ids.setdefault(parts[start:], []).append(image["id"])
    return ids


def _id_of(name: str, ids_by_path_end: Mapping[tuple[str, ...], list[Any]]) -> Any:
    """Return the id of the image whose path matches most of the last parts of a file name.

    Args:
        name: file name, with or without folders.
        ids_by_path_end: last parts of a path (one, two, ...) → ids of the images with a path that ends in these parts.

    >>> _id_of("my/night/a.png", {("a.png",): [7, 8], ("night", "a.png"): [8], ("day", "a.png"): [7]})
    8

    Raises:
        LabelError: several images match equally well.
    """
    parts = PurePath(name).parts
    best = next(ids_by_path_end[parts[start:]] for start in range(len(parts)) if parts[start:] in ids_by_path_end)
    if len(best) > 1:
        raise LabelError(f"the results name {name}, which matches several images of the dataset")
    return best[0]
