"""Cross-validation: K models, each trained on all folds but one, detect in the images of the fold they did not see.

The folds, the settings and the data are recorded in folds.json, so that an interrupted cross-validation continues where
it stopped: finished folds are not repeated, and an unfinished training run resumes from its last checkpoint.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from detector.annotation import annotation_bytes
from detector.boxes import from_xywh
from detector.config import Config
from detector.cross_validating.folds import make_folds
from detector.data.data_set import DataSet
from detector.data.formats.coco_scoring import to_coco
from detector.data.listed_splits import image_folder, list_line
from detector.data.open_data import open_data
from detector.data.path_guard import real_path
from detector.data.split import Split, canonical_name, join, select
from detector.detections import Detections, coco_results
from detector.errors import FileError, InputError, LabelError
from detector.evaluating.evaluate import detect_split, score_split
from detector.evaluating.evaluation import Evaluation
from detector.files import file_sha256, json_bytes, local_path, read_json
from detector.image_hashes import hash_files
from detector.model.checkpoint import load_weights
from detector.output_folder import OutputFolder, claim_folder
from detector.predict.detector import Detector
from detector.training.initial_weights import AUTO
from detector.training.run_folder import RunFolder, check_free
from detector.training.run_record import TrainRequest
from detector.training.run_state import read_state
from detector.training.train import make_request, resume_run, start_run
from detector.wording import metric, plural

log = logging.getLogger(__name__)

_CONDITIONS, _DETECTIONS = "folds.json", "detections.json"
"""Files of a cross-validation: what it was done with, and all detections in COCO's results format."""

_LIST, _DESCRIPTION = "train.txt", "data.yaml"
"""Files of a fold: the paths of its training images, and the dataset that its model is trained on."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Detections in images that the detecting model was not trained on.

    Attributes:
        split: all images of the folds that can be used, and their labels.
        found: image id → detections, for every image of `split`; options as in an evaluation.
        folds: number of folds.
        folder: the output folder.
        data: description of the dataset.
    """

    split: Split
    found: dict[int, Detections]
    folds: int
    folder: Path
    data: str

    def evaluation(self) -> Evaluation:
        """Return the pooled evaluation: one AP of the detections of all folds together."""
        results = coco_results(self.found, self.split.category_ids)
        ap = score_split(self.split, self.found)
        return Evaluation(ap, results, to_coco(self.split), results, split=self.split)

    def covers(self) -> str:
        """Return a sentence that says what the pooled AP and its interval cover."""
        return (
            f"pooled AP of {plural(self.folds, 'model')} on {plural(len(self.split.annotations), 'image')}: each image "
            f"is judged by the model that was not trained on it, nor on its near-duplicates. It is the AP of training "
            f"on {self.folds - 1} of {self.folds} of the images; the interval covers the choice of the images, not the "
            "seed"
        )


class _Fold(NamedTuple):
    """One fold of a cross-validation.

    Attributes:
        number: number of the fold, from 1.
        images: ids of the images that its model is not trained on.
    """

    number: int
    images: frozenset[int]

    @property
    def name(self) -> str:
        """Name of the folder of the fold, relative to the output folder."""
        return f"fold-{self.number}"


def cross_validate(
    data: str | Path,
    config: Config | None = None,
    *,
    folds: int = 5,
    out: str | Path = "runs/folds",
    split: str | None = None,
    init_weights: str | Path | None = "auto",
    reuse_backbone: bool = False,
    overwrite: bool = False,
) -> OutOfFold:
    """Train a model for each fold, on the images of all other folds, and detect objects in the images of the fold.

    Continues an interrupted cross-validation in `out`. Near-duplicates stay in one fold. The length in `config` is that
    of each run; no run is evaluated during the training, and its last weights detect.

    Args:
        data: the dataset, in any form that `open_data` accepts, except "scenes".
        config: settings of each run; None: the defaults.
        folds: number of folds, at least 2.
        out: folder for folds.json, detections.json, and a folder per fold with its run.
        split: name of the split that is divided into folds; None: the images of all splits together.
        init_weights: initial weights of each run, as `weights` of `train`; they must not be trained on the images.
            If those of "auto" were trained on some, the runs start from random weights.
        reuse_backbone: as for `train`.
        overwrite: whether to replace an earlier cross-validation with other data or settings in `out`.

    Raises:
        InputError: the data, the settings or the folder cannot be used, or the images cannot be divided.
        KeyboardInterrupt: Ctrl-C or SIGTERM. The same call continues.
    """
    config = replace(config or Config(), val_fraction=0.0)
    request = make_request(data, config, split=None, weights=init_weights, reuse_backbone=reuse_backbone)
    with claim_folder(
        local_path(out), "cross-validating", names=[_CONDITIONS, _DETECTIONS], overwrite=overwrite
    ) as folder:
        data_set = open_data(local_path(data), allow_outside=config.allow_outside, max_pixels=config.max_pixels)
        images = read_images(data_set, split)
        if not images.from_files:
            raise LabelError(
                f"{data}: the images of this dataset are not files; write them with detector convert first"
            )
        hashes = hash_files(annotation.image_path for annotation in images.annotations)
        made = make_folds(images, hashes, folds)
        for warning in made.warnings:
            log.warning("%s", warning)
        request = _with_untrained(request, frozenset(hashes.values()), is_default=init_weights == AUTO)
        _claim_folds(folder, folds)
        _keep_or_start(folder, _conditions(request, images, hashes, made.images))
        parts, found = list[int](), dict[int, Detections]()
        for fold in (_Fold(number, ids) for number, ids in enumerate(made.images, 1)):
            log.info("fold %d of %d: %s held back", fold.number, folds, plural(len(fold.images), "image"))
            own = _do_fold(fold, folder, request, images, frozenset().union(*made.images))
            found |= own
            parts += own
        images = select(images, images.name, set(parts), unassigned_rows=True)
        file_names = {annotation.image_id: str(annotation.image_path) for annotation in images.annotations}
        folder.write(_DETECTIONS, json_bytes(coco_results(found, images.category_ids, file_names)))
        return OutOfFold(images, found, folds, folder.path, data_set.description)


def read_images(data_set: DataSet, split_name: str | None) -> Split:
    """Return the images of one split, or of all splits together; a file in several splits counts once.

    Raises:
        InputError: a split does not exist or cannot be read.
    """
    names = [canonical_name(split_name)] if split_name is not None else list(labeled_splits(data_set))
    first, *others = (data_set.read(name) for name in names)
    for other in others:
        first = join("all", first, other)
    seen = dict[Path, int]()
    for annotation in first.annotations:
        seen.setdefault(
            real_path(annotation.image_path) if first.from_files else annotation.image_path, annotation.image_id
        )
    if (twice := len(first.annotations) - len(seen)) > 0:
        log.warning(
            "%s in several splits; the labels of the first split count", plural(twice, "image is", "images are")
        )
        first = select(first, first.name, set(seen.values()), unassigned_rows=True)
    return first


def labeled_splits(data_set: DataSet) -> tuple[str, ...]:
    """Return the names of the splits that together have all images: no trainval beside train and val."""
    names = data_set.split_names
    return tuple(name for name in names if name != "trainval" or not {"train", "val"} <= set(names))


def _with_untrained(request: TrainRequest, images: frozenset[bytes], is_default: bool) -> TrainRequest:
    """Return a request whose initial weights were trained on none of the images; else no fold is new to the model.

    Args:
        request: the request, with the initial weights.
        images: hashes of all images.
        is_default: True: weights that were trained on some of the images are replaced by random weights.

    Raises:
        LabelError: the weights were trained on some of the images, and the user has chosen them.
    """
    if request.weights is None:
        return request
    trained = len(load_weights(request.weights)[1].image_hashes.train & images)
    if not trained:
        return request
    if is_default:
        log.warning("initial weights: random, because the shipped weights were trained on %d of the images", trained)
        return replace(request, weights=None, reuse_backbone=False)
    raise LabelError(
        f"{request.weights}: these initial weights were trained on {trained} of the images, so they are new to "
        "no model; start from other weights, or from random ones (none)"
    )


def _conditions(
    request: TrainRequest, images: Split, hashes: Mapping[Path, bytes], folds: Sequence[frozenset[int]]
) -> dict[str, Any]:
    """Return everything on which the results depend, as values for folds.json."""
    fold_of = {image_id: number for number, ids in enumerate(folds, 1) for image_id in ids}
    labels = hashlib.sha256(json.dumps([images.class_names, images.category_ids]).encode())
    for annotation in images.annotations:
        labels.update(annotation_bytes(annotation))
    return {
        "data": request.data[0],
        "weights": None if request.weights_path is None else file_sha256(request.weights_path),
        "folds": len(folds),
        "labels": labels.hexdigest(),
        "settings": json.loads(json.dumps(asdict(request.config))),
        "images": [
            {"image": str(a.image_path), "hash": hashes[a.image_path].hex(), "fold": fold_of[a.image_id]}
            for a in images.annotations
            if a.image_id in fold_of
        ],
    }


def _keep_or_start(folder: OutputFolder, conditions: Mapping[str, Any]) -> None:
    """Continue the cross-validation in the folder if its conditions are the same; else start a new one.

    Raises:
        FileError: the folder holds a cross-validation with other conditions.
    """
    if folder.is_intact(_CONDITIONS):
        before = read_json(folder.path / _CONDITIONS)
        changed = [name for name in conditions if before.get(name) != conditions[name]]
        if not changed:
            folder.keep_earlier()
            return
        if not folder.overwrite:
            raise FileError(
                f"{folder.path}: holds a cross-validation with other {' and '.join(changed)}; use another --out, or "
                "add --overwrite to replace it"
            )
    folder.remove_earlier()
    folder.write(_CONDITIONS, json_bytes(dict(conditions)), durable=True)


def _claim_folds(folder: OutputFolder, folds: int) -> None:
    """Raise FileError if a file of a fold that is not done yet must not be written, before any fold is trained.

    Args:
        folder: the output folder.
        folds: number of folds.
    """
    for number in range(1, folds + 1):
        name = f"fold-{number}"
        run = folder.path / name / "run"
        if folder.is_intact(f"{name}/{_DETECTIONS}"):
            continue
        folder.claim(f"{name}/{file}" for file in (_DETECTIONS, _LIST, _DESCRIPTION, "run/x"))
        if run.is_dir() and not folder.overwrite:
            resume = (run / "run.json").is_file()
            if not resume:
                check_free(run)
            RunFolder(run, resume=resume).close()


def _do_fold(
    fold: _Fold, folder: OutputFolder, request: TrainRequest, images: Split, all_ids: frozenset[int]
) -> dict[int, Detections]:
    """Return image id → detections of the images of a fold that can be used, from its file if the fold is done.

    Args:
        fold: the fold.
        folder: the output folder.
        request: data, settings and initial weights of all runs.
        images: all images.
        all_ids: ids of the images of all folds.
    """
    name = f"{fold.name}/{_DETECTIONS}"
    if folder.is_intact(name):
        log.info("fold %d: already done", fold.number)
        return _read_detections(folder.path / name, images)
    description = _write_list(fold, folder, request.data[0], images, all_ids - fold.images)
    try:
        weights = _train(folder, f"{fold.name}/run", replace(request, data=(str(description.resolve()),)))
        detector = Detector.load(weights, device=request.config.device)
        held_back = select(images, fold.name, fold.images)
        found = detect_split(detector, held_back).found
    except InputError as error:
        raise type(error)(f"fold {fold.number}: {error}") from None
    log.info("fold %d: AP %s", fold.number, metric(score_split(select(held_back, fold.name, found.keys()), found).AP))
    values = {"images": list(found), "rows": coco_results(found, images.category_ids)}
    folder.write(name, json_bytes(values), durable=True)
    return found


def _write_list(fold: _Fold, folder: OutputFolder, data: str, images: Split, train: frozenset[int]) -> Path:
    """Write the list of the training images of a fold and its data.yaml; return the path of data.yaml."""
    source = Path(data)
    lines = [list_line(a.image_path, image_folder(source)) for a in images.annotations if a.image_id in train]
    try:
        place = Path(os.path.relpath(source, (folder.path / fold.name).resolve())).as_posix()
    except ValueError:  # two drives
        place = source.as_posix()
    values = {"format": "auto", "path": place, "splits": {"train": _LIST}}
    folder.write(f"{fold.name}/{_LIST}", "".join(f"{line}\n" for line in lines).encode())
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    folder.write(f"{fold.name}/{_DESCRIPTION}", text.encode())
    return folder.path / fold.name / _DESCRIPTION


def _train(folder: OutputFolder, name: str, request: TrainRequest) -> Path:
    """Train, or resume an interrupted run; return the path of the last weights.

    Args:
        folder: folder of the cross-validation.
        name: name of the folder of the run, relative to `folder`.
        request: data, settings and initial weights of the run.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came, also if the run was just complete.
    """
    started, run = time.monotonic(), folder.path / name
    weights = run / "weights" / "best.safetensors"  # without a val split, these are the last weights
    if not (run / "run.json").is_file() or folder.overwrite:
        result = start_run(request, run, started, folder.overwrite)
    else:
        state = read_state(run / "state")
        if state is not None and state[0].step >= state[0].steps > 0 and weights.is_file():
            return weights
        result = resume_run(run, False, started)
    if result.stop_requested:
        raise KeyboardInterrupt
    return result.weights


def _read_detections(path: Path, images: Split) -> dict[int, Detections]:
    """Return image id → detections from the file of a fold."""
    values = read_json(path)
    class_of = {category_id: class_id for class_id, category_id in enumerate(images.category_ids)}
    rows: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in values["images"]}
    for row in values["rows"]:
        rows[row["image_id"]].append(row)
    return {
        image_id: Detections(
            boxes=from_xywh(np.array([row["bbox"] for row in own], np.float64).reshape(-1, 4)),
            scores=np.array([row["score"] for row in own], np.float32),
            class_ids=np.array([class_of[row["category_id"]] for row in own], np.int64),
            class_names=images.class_names,
        )
        for image_id, own in rows.items()
    }
