"""Plant errors into the labels of a training split, train on them, review them, and print how well they are found.

Each kind is planted into 5 % of the labels: swapped (another class, uniformly), loose (an IoU of 0.3 to 0.6 with the
true box), spurious (the size of a real box, at a place where its IoU with all labels is below 0.1), missing (the label
is removed). The errors stay in the labels on which the models are trained, as they would for a user.

    python tools/plant_errors.py --data datasets/bccd.yaml --folds 2 --set epochs=12 --seed 1 2 3 --out runs/planted

`--folds 1` reviews with one model that was trained on all images, also on those that it judges.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Doubles, Floats
from detector.boxes import area, pairwise_iou
from detector.config import Config, override
from detector.converting.convert import convert
from detector.cross_validating.cross_validate import cross_validate
from detector.data.formats import coco_writer
from detector.data.open_data import open_data
from detector.data.split import Split, with_absolute_paths
from detector.detections import Detections
from detector.evaluating.evaluate import detect_split
from detector.predict.detector import Detector
from detector.reviewing.scores import Kind, LabelKind, find_missing, make_reference, score_labels
from detector.training.train import train

LABEL_KINDS: tuple[LabelKind, ...] = ("swapped", "loose", "spurious")
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


_KINDS: tuple[Kind, ...] = (*LABEL_KINDS, "missing")


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
    """Copy the training split of a dataset to `out`, plant errors into it, and return the labels that were written."""
    convert(data, "coco", out, splits=["train"], allow_outside=True)
    planted = plant(open_data(out).read("train"), np.random.default_rng(seed))
    coco_writer.WRITER.write(out.resolve(), [with_absolute_paths(planted.split)])
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


def detect(planted: Planted, data: Path, config: Config, folds: int, weights: str | None) -> dict[int, Detections]:
    """Return image id → detections, out of fold, or with `folds` 1 of one model that was trained on all images."""
    if folds > 1:
        out = data.with_name(f"folds-{folds}")
        return cross_validate(
            data, config, folds=folds, out=out, split="train", init_weights=weights, reuse_backbone=weights is not None
        ).found
    run = data.with_name("folds-1")
    trained = run / "weights" / "last.safetensors"
    if not trained.exists():
        own = replace(config, val_fraction=0.0)
        trained = train(data, own, out=run, weights=weights, reuse_backbone=weights is not None).weights
    return detect_split(Detector.load(trained), planted.split).found


@dataclass(frozen=True)
class Found:
    """How well planted errors were found.

    Attributes:
        auroc: kind → area under the ROC curve of the score of the kind: labels with the planted error against labels
            that were not changed.
        against_all: the same, against all other labels, also those with other planted errors.
        missing: fraction of the removed labels among the first proposals, as many as 10 % of the labels: the IoU of a
            proposal with the removed box is at least 0.5.
        proposals: number of these proposals.
    """

    auroc: dict[LabelKind, float]
    against_all: dict[LabelKind, float]
    missing: float
    proposals: int


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of the labels of an image, and objects that seem to have no label.

    Attributes:
        scores: kind → [N] how wrong each label looks.
        missing: [K] score of each proposed object, the best first.
        boxes: [K, 4] the proposed objects.
    """

    scores: dict[LabelKind, Doubles]
    missing: Doubles
    boxes: Floats


def rank(planted: Planted, found: dict[int, Detections]) -> list[Ranking]:
    """Return the scores of `detector review` for each image."""
    annotations = planted.split.annotations
    reference = make_reference(annotations, [found[a.image_id] for a in annotations], len(planted.split.class_names))
    rankings = []
    for a in annotations:
        own = found[a.image_id]
        missing = find_missing(a, own, reference)
        rankings.append(Ranking(score_labels(a, own, reference).scores, missing.scores, own.boxes[missing.detection]))
    return rankings


def judge(planted: Planted, rankings: Sequence[Ranking]) -> Found:
    """Return how well the rankings of the images find the planted errors."""
    ids = [a.image_id for a in planted.split.annotations]
    kinds = np.array([kind for image_id in ids for kind in planted.kinds[image_id]])
    joined = {kind: np.concatenate([own.scores[kind] for own in rankings]) for kind in LABEL_KINDS}
    proposals = [
        proposal for i, own in zip(ids, rankings, strict=True) for proposal in _proposals(own, planted.missing.get(i))
    ]
    total = sum(map(len, planted.missing.values()))
    first = sorted(proposals, key=lambda item: -item[0])[: round(0.1 * len(kinds))]
    return Found(
        {kind: auroc(own[kinds == kind], own[kinds == ""]) for kind, own in joined.items()},
        {kind: auroc(own[kinds == kind], own[kinds != kind]) for kind, own in joined.items()},
        sum(is_right for _, is_right in first) / max(total, 1),
        len(first),
    )


def _proposals(ranking: Ranking, removed: Floats | None) -> Iterator[tuple[float, bool]]:
    """Yield (score, whether it is a removed label that no better proposal has found) of each proposed object."""
    free = np.ones(0 if removed is None else len(removed), np.bool_)
    for score, box in zip(ranking.missing.tolist(), ranking.boxes, strict=True):
        iou = np.zeros(0) if removed is None else pairwise_iou(box[None], removed)[0] * free
        hit = bool(len(iou)) and float(iou.max()) >= 0.5
        if hit:
            free[iou.argmax()] = False
        yield score, hit


def auroc(positive: Doubles, negative: Doubles) -> float:
    """Return the probability that a random positive has a higher score than a random negative; ties count half."""
    order = np.sort(negative)
    below, up_to = np.searchsorted(order, positive), np.searchsorted(order, positive, side="right")
    return float((below + up_to).mean() / 2 / len(negative))


Ranker = Callable[[Planted, dict[int, Detections]], list[Ranking]]
"""A program that ranks labels, from the labels and the detections: (planted, image id → detections) → rankings."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the arguments of `run`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dataset with a split train")
    parser.add_argument("--out", type=Path, required=True, help="folder for the planted labels and the runs")
    parser.add_argument("--folds", type=int, nargs="+", default=[3], help="numbers of folds; 1: in-fold")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="seeds of the planted errors")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the runs")
    parser.add_argument("--weights", help="initial weights of the runs, which do not know the images")
    return parser


def run(options: argparse.Namespace, ranker: Ranker) -> None:
    """Plant, train, rank, and print a line per planting and number of folds, and the mean of all plantings."""
    logging.basicConfig(level=logging.WARNING)
    config = override(Config(), options.set)
    for folds in options.folds:
        results = []
        for seed in options.seed:
            data = options.out / f"planted-{seed}" / "data"
            planted = read_planted(data) if data.exists() else write_planted(options.data, data, seed)
            results.append(
                own := judge(planted, ranker(planted, detect(planted, data, config, folds, options.weights)))
            )
            numbers = [f"{kind} {own.auroc[kind]:.3f} ({own.against_all[kind]:.3f})" for kind in LABEL_KINDS]
            missing = f"missing found {own.missing:.2f} among {own.proposals} proposals"
            print(f"{folds} folds, planting {seed}: AUROC {', '.join(numbers)}; {missing}", flush=True)
        columns = {kind: [own.auroc[kind] for own in results] for kind in LABEL_KINDS}
        for name, values in (*columns.items(), ("missing", [own.missing for own in results])):
            print(f"{folds} folds, {name}: mean {np.mean(values):.3f}, {min(values):.3f} to {max(values):.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Plant, train, review, and print how well the errors are found."""
    run(make_parser(__doc__).parse_args(arguments), rank)


if __name__ == "__main__":
    main()
