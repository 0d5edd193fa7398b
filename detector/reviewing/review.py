"""Review the labels of a dataset: detect out of fold, rank the labels that look wrong, and write the ranking.

Nothing in the dataset is changed. `reviewing.accept` writes a corrected copy of the labels.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detector.annotation import Annotation
from detector.config import Config
from detector.cross_validating.cross_validate import cross_validate, labeled_splits
from detector.data.data_set import DataSet
from detector.data.open_data import open_data
from detector.data.split import Split, canonical_name
from detector.detections import Detections
from detector.errors import LabelError, WeightsError
from detector.evaluating.evaluate import check_classes, detect_split
from detector.files import json_bytes, local_path
from detector.image_hashes import hash_files
from detector.images import write_image
from detector.output_folder import OutputFolder, claim_folder
from detector.predict.detector import Detector
from detector.reviewing.rows import ACTIONS, NO_LABEL, ReviewRow, rows_to_csv, to_box
from detector.reviewing.scores import KINDS, LABEL_KINDS, Reference, find_missing, make_reference, score_labels
from detector.reviewing.sheets import review_sheets
from detector.wording import few_names, plural

log = logging.getLogger(__name__)

MIN_SCORE = 0.2
"""Lowest score of a row that is written."""

_WEAK = 0.25
"""Detections with a lower score at most labels of a class are hardly better than background."""

_CSV, _JSON = "rows.csv", "rows.json"


@dataclass(frozen=True)
class Review:
    """The result of `review`.

    Attributes:
        folder: folder with rows.csv, rows.json and the sheets.
        rows: the labels that look wrong, most suspicious first.
        labels: number of labels that were reviewed.
        sheets: number of sheets.
        out_of_fold: False if the detecting model was trained on some of the images.
    """

    folder: Path
    rows: tuple[ReviewRow, ...]
    labels: int
    sheets: int
    out_of_fold: bool

    def counts(self) -> Counter[str]:
        """Return kind → number of rows."""
        return Counter(row.kind for row in self.rows)


def review(
    data: str | Path,
    config: Config | None = None,
    *,
    folds: int = 3,
    weights: str | Path | Detector | None = None,
    init_weights: str | Path | None = "auto",
    reuse_backbone: bool = False,
    out: str | Path = "runs/review",
    split: str | None = None,
    min_score: float = MIN_SCORE,
    overwrite: bool = False,
) -> Review:
    """Rank the labels of a dataset that look wrong; write rows.csv, rows.json and sheets of images to `out`.

    Args:
        data: the dataset, in any form that `open_data` accepts.
        config: settings of the training runs; without effect if `weights` are given.
        folds: number of folds of the cross-validation that provides the detections, in the folder `folds` in `out`.
        weights: weights, a loaded detector or an ensemble, that detect instead; with the classes of the data. Weights
            that were trained on the images repeat the errors of their labels.
        init_weights: as for `cross_validate`; without effect if `weights` are given.
        reuse_backbone: as for `train`.
        out: folder for the results.
        split: name of the split to review; None: all splits.
        min_score: lowest score of a row that is written, 0..1.
        overwrite: whether to replace files in `out` that this package did not write, or that were changed since.

    Raises:
        InputError: the data, the weights, the settings or the folder cannot be used.
    """
    config = config or Config()
    with claim_folder(local_path(out), "reviewing", names=[_CSV, _JSON], overwrite=overwrite) as folder:
        data_set = open_data(local_path(data), allow_outside=config.allow_outside, max_pixels=config.max_pixels)
        splits = read_splits(data_set, split)
        if weights is None:
            own = cross_validate(
                data,
                config,
                folds=folds,
                out=folder.path / "folds",
                split=split,
                init_weights=init_weights,
                reuse_backbone=reuse_backbone,
                overwrite=overwrite,
            )
            found, is_new = {a.image_path: own.found[a.image_id] for a in own.split.annotations}, True
        else:
            detector = weights if isinstance(weights, Detector) else Detector.load(weights, device=config.device)
            found, is_new = _detect(detector, splits)
        rows = rank(splits, found, min_score)
        folder.remove_earlier()
        sheets = _write(folder, rows, splits)
    labels = sum(int((~a.is_crowd).sum()) for part in splits for a in part.annotations)
    return Review(folder.path, tuple(rows), labels, sheets, is_new)


def read_splits(data_set: DataSet, split_name: str | None) -> list[Split]:
    """Return the split with this name; None: all splits that together have all images."""
    names = labeled_splits(data_set) if split_name is None else (canonical_name(split_name),)
    return [data_set.read(name) for name in names]


def rank(splits: Sequence[Split], found: Mapping[Path, Detections], min_score: float = MIN_SCORE) -> list[ReviewRow]:
    """Return the labels of splits that look wrong, most suspicious first; warn of classes that are hardly detected.

    Args:
        splits: the splits; all have the same classes.
        found: path of an image → detections in it. Images without detections are not reviewed.
        min_score: lowest score of a row, 0..1.
    """
    annotations = [a for split in splits for a in split.annotations if a.image_path in found]
    detections = [found[a.image_path] for a in annotations]
    class_names = splits[0].class_names if splits else ()
    reference = make_reference(annotations, detections, len(class_names))
    _warn_of_weak_classes(reference, class_names)
    rows: list[ReviewRow] = []
    for split in splits:
        for annotation in split.annotations:
            if annotation.image_path in found:
                own = found[annotation.image_path]
                scores = score_labels(annotation, own, reference)
                for kind in LABEL_KINDS:
                    for label, score in enumerate(scores.scores[kind].tolist()):
                        if score >= min_score:
                            other, best = int(scores.other_class[label]), int(scores.detection[label])
                            base = _label_row(split, annotation, label)
                            base = replace(base, kind=kind, score=score, action=ACTIONS[kind])
                            rows += _with_suggestion(base, split, own, other, best)
                rows += (row for row in _missing_rows(split, annotation, own, reference) if row.score >= min_score)
    order = {kind: position for position, kind in enumerate(KINDS)}
    return sorted(rows, key=lambda row: (-row.score, order[row.kind], row.split, row.image, row.label))


def _warn_of_weak_classes(reference: Reference, class_names: Sequence[str]) -> None:
    """Warn if the detecting models have hardly learned a class."""
    usual = zip(class_names, reference.usual.tolist(), strict=True)
    weak = [f"{name} ({score:.2f})" for name, score in usual if 0 < score < _WEAK]
    if weak:
        log.warning(
            "rows of these classes are not reliable, because the models hardly detect their labels (usual score below "
            "%s): %s; train longer, at a larger input size, or from initial weights",
            *(_WEAK, ", ".join(weak)),
        )


def _label_row(split: Split, annotation: Annotation, label: int) -> ReviewRow:
    """Return a row about a label, without a suggestion."""
    name, box = split.class_names[annotation.class_ids[label]], to_box(annotation.boxes[label])
    return ReviewRow(
        "spurious", 0, "remove", split.name, str(annotation.image_path), label, name, box, name, box
    )  # fmt: skip


def _with_suggestion(row: ReviewRow, split: Split, found: Detections, other: int, best: int) -> Iterator[ReviewRow]:
    """Yield a row with its suggestion; nothing if there is no class or box to suggest.

    Args:
        row: the row.
        split: split of the label.
        found: detections in the image.
        other: the class for which there is most evidence besides that of the label; -1: none.
        best: index of the detection that fits the label best; -1: none.
    """
    if row.action == "remove":
        yield row
    elif row.action == "change class" and other >= 0:
        yield replace(row, suggested_class=split.class_names[other])
    elif row.action == "change box" and best >= 0:
        yield replace(row, suggested_box=to_box(found.boxes[best]))


def _missing_rows(split: Split, annotation: Annotation, found: Detections, reference: Reference) -> Iterator[ReviewRow]:
    """Yield a row for each object of an image that seems to have no label."""
    missing = find_missing(annotation, found, reference)
    for score, index in zip(missing.scores.tolist(), missing.detection.tolist(), strict=True):
        name, box = split.class_names[found.class_ids[index]], to_box(found.boxes[index])
        yield ReviewRow(
            "missing", score, "add", split.name, str(annotation.image_path), NO_LABEL, name, box, name, box
        )  # fmt: skip


def _detect(detector: Detector, splits: Sequence[Split]) -> tuple[dict[Path, Detections], bool]:
    """Return path of an image → detections, and whether all images are new to the detector; warn if they are not."""
    found: dict[Path, Detections] = {}
    hashes_of_training = detector.info.image_hashes.train
    trained = 0
    for split in splits:
        _check_all_classes(detector, split)
        if split.annotations:
            usable, own = detect_split(detector, split)
            found |= {a.image_path: own[a.image_id] for a in usable.annotations}
        if split.from_files:
            hashes = hash_files(a.image_path for a in split.annotations)
            trained += sum(digest in hashes_of_training for digest in hashes.values())
    if not hashes_of_training:
        log.warning(
            "these weights do not record their training images; if the reviewed images are among them, they repeat the "
            "errors of the labels"
        )
    if trained:
        log.warning(
            "%s TRAINING IMAGES of these weights, which repeat the errors of their labels: leave out --weights to "
            "review with models that did not see them",
            plural(trained, "image is one of the", "images are"),
        )
    return found, not trained


def _check_all_classes(detector: Detector, split: Split) -> None:
    """Raise WeightsError if weights do not have the classes of the labels, for example because they merged them."""
    learned = detector.info.trained_classes
    if learned is not None and detector.class_names != split.class_names:
        groups = zip(detector.class_names, learned.groups, strict=True)
        what = [name if group == (name,) else f"{name} (merged from {few_names(group)})" for name, group in groups]
        raise WeightsError(
            f"the weights learned {few_names(what)}, and review compares all labels, of the classes "
            f"{few_names(split.class_names)}: give weights with these classes, or leave out --weights to train some"
        )
    check_classes(detector, split)


def _write(folder: OutputFolder, rows: Sequence[ReviewRow], splits: Sequence[Split]) -> int:
    """Write the rows and the sheets; return the number of sheets."""
    if not splits:
        raise LabelError("the dataset has no splits")
    folder.write(_CSV, rows_to_csv(rows))
    folder.write(_JSON, json_bytes([row.to_json() for row in rows]))
    sheets = 0
    for name, sheet in review_sheets(rows, splits):
        with folder.writing(f"sheets/{name}", ".jpg") as part:
            write_image(part, sheet)
        sheets += 1
    return sheets
