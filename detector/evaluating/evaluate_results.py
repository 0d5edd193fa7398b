"""Evaluation of COCO results files, of this or any other program."""

import logging
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from detector.data.open_data import DataSet
from detector.errors import InputError, LabelError
from detector.evaluating.evaluate import Evaluation
from detector.files import read_json
from detector.metrics.average_precision import average_precision

log = logging.getLogger(__name__)


def evaluate_results(data_set: DataSet, split: str, path: Path) -> Evaluation:
    """Evaluate a COCO results file on a split.

    Args:
        data_set: the data set.
        split: name of the split.
        path: JSON file with a list of rows: image_id, category_id, bbox [x, y, w, h], score, and optionally file_name.

    Raises:
        InputError: the file is not a COCO results file, or does not fit the split; the message names the file.
    """
    results, truth = _read_results(path), data_set.ground_truth(split)
    try:
        results = _with_ids_of(truth, results)
        return Evaluation(average_precision(truth, results), results)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


def _read_results(path: Path) -> list[dict[str, Any]]:
    results = read_json(path)
    if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
        raise LabelError(f"{path}: expected COCO results, a list of objects with image_id, category_id, bbox, score")
    return results


def _with_ids_of(truth: Mapping[str, Any], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results with the image ids of a COCO data set, if they name their image files.

    `detect` writes file names and numbers the images itself: its ids match those of a data set only by accident.
    Results on other images, as for a folder that holds all splits, are left out with a warning.

    Raises:
        LabelError: none of the files is in the data set, or a name matches several images.
    """
    if not all(isinstance(row.get("file_name"), str) for row in results):
        return results
    ids_by_path_end: dict[tuple[str, ...], list[Any]] = {}
    for image in truth["images"]:
        parts = PurePath(image.get("file_name", "")).parts
        for start in range(len(parts)):
            ids_by_path_end.setdefault(parts[start:], []).append(image["id"])
    names = sorted({row["file_name"] for row in results})
    ids = {name: _id_of(name, ids_by_path_end) for name in names if (PurePath(name).name,) in ids_by_path_end}
    if names and not ids:
        raise LabelError(f"the results are for {names[0]} and other images, none of which is in this split")
    if others := len(names) - len(ids):
        log.warning("%d of %d images with results are not in this split: left out", others, len(names))
    return [row | {"image_id": ids[row["file_name"]]} for row in results if row["file_name"] in ids]


def _id_of(name: str, ids_by_path_end: Mapping[tuple[str, ...], list[Any]]) -> Any:
    """Return the id of the image whose path has the longest common end with a file name.

    Args:
        name: the file name.
        ids_by_path_end: last parts of a path, any number of them → ids of the images whose paths end with them.

    >>> _id_of("my/night/a.png", {("a.png",): [7, 8], ("night", "a.png"): [8], ("day", "a.png"): [7]})
    8
    """
    parts = PurePath(name).parts
    best = next(ids_by_path_end[parts[start:]] for start in range(len(parts)) if parts[start:] in ids_by_path_end)
    if len(best) > 1:
        raise LabelError(f"the results name {name}, which matches several images of the data set")
    return best[0]
