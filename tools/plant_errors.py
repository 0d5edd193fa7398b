"""Plant errors into the labels of a training split, train on them, review them, and print how well they are found.

Each kind is planted into 5 % of the labels: swapped (another class, uniformly), loose (an IoU of 0.3 to 0.6 with the
true box), spurious (the size of a real box, at a place where its IoU with all labels is below 0.1), missing (the label
is removed). The errors stay in the labels on which the models are trained, as they would for a user.

    python tools/plant_errors.py --data datasets/bccd.yaml --folds 3 --set steps=400 --out runs/planted

`--folds 1` reviews with one model that was trained on all images, also on those that it judges.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Floats
from detector.boxes import area, pairwise_iou
from detector.config import Config, override
from detector.converting.convert import convert
from detector.cross_validating.cross_validate import cross_validate
from detector.data.formats import coco_writer
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.detections import Detections
from detector.evaluating.evaluate import detect_split
from detector.predict.detector import Detector
from detector.training.train import train

LABEL_KINDS = ("swapped", "loose", "spurious")
"""Errors of a label that is there; the fourth kind, missing, is a label that is not there."""

FRACTION = 0.05
"""Fraction of the labels into which each kind is planted."""

_LOOSE_IOU = (0.3, 0.6)
_SPURIOUS_IOU = 0.1
_TRIES = 1000


@dataclass(frozen=True, eq=False)
class Planted:
    """Labels with planted errors.

    Attributes:
        split: the labels with the errors.
        kinds: image id → kind of the error of each label; "" for a label that was not changed.
        missing: image id → [N, 4] boxes of the labels that were removed.
    """

    split: Split
    kinds: dict[int, list[str]]
    missing: dict[int, Floats]


def plant(split: Split, rng: np.random.Generator) -> Planted:
    """Return the labels of a split with planted errors of all kinds, each in another label."""
    places = [(i, row) for i, a in enumerate(split.annotations) for row in np.flatnonzero(~a.is_crowd).tolist()]
    count = round(FRACTION * len(places))
    order = rng.permutation(len(places))
    chosen = {kind: [places[k] for k in order[n * count : (n + 1) * count]] for n, kind in enumerate(_KINDS)}
    annotations = list(split.annotations)
    kinds = [[""] * len(a.boxes) for a in annotations]
    for kind in ("swapped", "loose"):
        for i, row in chosen[kind]:
            annotations[i] = _changed(annotations[i], row, kind, len(split.class_names), rng)
            kinds[i][row] = kind
    sizes = [split.annotations[i].boxes[row] for i, row in chosen["spurious"]]
    for (i, row), box in zip(chosen["spurious"], sizes, strict=True):
        if (added := _with_spurious(annotations[i], box, split.annotations[i].class_ids[row], rng)) is not None:
            annotations[i] = added
            kinds[i].append("spurious")
    missing: dict[int, Floats] = {}
    for i in {i for i, _ in chosen["missing"]}:
        gone = np.isin(np.arange(len(annotations[i].boxes)), [row for j, row in chosen["missing"] if j == i])
        missing[annotations[i].image_id] = annotations[i].boxes[gone]
        kinds[i] = [kind for kind, is_gone in zip(kinds[i], gone, strict=True) if not is_gone]
        annotations[i] = _rows(annotations[i], ~gone)
    by_id = {a.image_id: own for a, own in zip(annotations, kinds, strict=True)}
    return Planted(replace(split, annotations=tuple(annotations), ground_truth=None), by_id, missing)


_KINDS = (*LABEL_KINDS, "missing")


def _rows(a: Annotation, keep: np.ndarray) -> Annotation:
    """Return an annotation with some of its labels."""
    return replace(a, boxes=a.boxes[keep], class_ids=a.class_ids[keep], is_crowd=a.is_crowd[keep], areas=a.areas[keep])


def _changed(a: Annotation, row: int, kind: str, classes: int, rng: np.random.Generator) -> Annotation:
    """Return an annotation in which the class or the box of one label is wrong."""
    if kind == "swapped":
        class_ids = a.class_ids.copy()
        class_ids[row] = (class_ids[row] + rng.integers(1, classes)) % classes
        return replace(a, class_ids=class_ids)
    boxes, areas = a.boxes.copy(), a.areas.copy()
    boxes[row] = _loose_box(a.boxes[row], a.image_hw, rng)
    areas[row] = area(boxes[row])
    return replace(a, boxes=boxes, areas=areas)


def _loose_box(box: Floats, hw: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return a box inside the image whose IoU with `box` is 0.3 to 0.6."""
    size = np.tile(box[2:] - box[:2], 2)
    limits = np.array([hw[1], hw[0]] * 2)
    while True:
        other = np.clip(box + size * rng.normal(0, 0.25, 4), 0, limits).astype(np.float32)
        if (other[2:] - other[:2] > 1).all():
            iou = float(pairwise_iou(box[None], other[None])[0, 0])
            if _LOOSE_IOU[0] <= iou <= _LOOSE_IOU[1]:
                return other


def _with_spurious(a: Annotation, box: Floats, class_id: int, rng: np.random.Generator) -> Annotation | None:
    """Return an annotation with one more label, of the size of `box`, where no label is; None if there is no room."""
    size = box[2:] - box[:2]
    room = np.array([a.image_hw[1], a.image_hw[0]]) - size
    for _ in range(_TRIES):
        corner = rng.random(2) * np.maximum(room, 0)
        new = np.concatenate([corner, corner + size]).astype(np.float32)[None]
        if not len(a.boxes) or pairwise_iou(new, a.boxes).max() < _SPURIOUS_IOU:
            return replace(
                a,
                boxes=np.concatenate([a.boxes, new]),
                class_ids=np.append(a.class_ids, class_id),
                is_crowd=np.append(a.is_crowd, False),
                areas=np.append(a.areas, area(new)).astype(np.float32),
            )
    return None


def write_planted(data: str, out: Path, seed: int) -> Planted:
    """Copy the training split of a data set to `out`, plant errors into it, and return the labels that were written."""
    convert(data, "coco", out, splits=["train"], allow_outside=True)
    planted = plant(open_data(out).read("train"), np.random.default_rng(seed))
    coco_writer.WRITER.write(out.resolve(), [_in_folder(planted.split, out.resolve())])
    again = open_data(out).read("train")
    assert [len(a.boxes) for a in again.annotations] == [len(planted.kinds[a.image_id]) for a in again.annotations]
    record = {"kinds": planted.kinds, "missing": {i: boxes.tolist() for i, boxes in planted.missing.items()}}
    out.with_suffix(".planted.json").write_text(json.dumps(record))
    return replace(planted, split=again)


def read_planted(out: Path) -> Planted:
    """Return the planted labels that an earlier call of this program wrote."""
    record = json.loads(out.with_suffix(".planted.json").read_text())
    missing = {int(i): np.array(boxes, np.float32).reshape(-1, 4) for i, boxes in record["missing"].items()}
    return Planted(open_data(out).read("train"), {int(i): own for i, own in record["kinds"].items()}, missing)


def _in_folder(split: Split, folder: Path) -> Split:
    """Return the split with absolute paths of its images."""
    return replace(split, annotations=tuple(replace(a, image_path=a.image_path.resolve()) for a in split.annotations))


def detect(planted: Planted, data: Path, config: Config, folds: int, weights: str | None) -> dict[int, Detections]:
    """Return image id → detections, out of fold, or with `folds` 1 of one model that was trained on all images."""
    if folds > 1:
        out = data.with_name(f"folds-{folds}")
        return cross_validate(
            data, config, folds=folds, out=out, split="train", weights=weights, reuse_backbone=weights is not None
        ).found
    run = data.with_name("folds-1")
    trained = run / "weights" / "last.safetensors"
    if not trained.exists():
        own = replace(config, val_fraction=0.0)
        trained = train(data, own, out=run, weights=weights, reuse_backbone=weights is not None).weights
    return detect_split(Detector.load(trained), planted.split).found
