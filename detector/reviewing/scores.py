"""Scores of how wrong a label looks, one per kind of error, from detections of a model that did not see the image.

All scores are plain formulas in 0..1. With s the score of a detection, relative to the geometric mean of what is usual
at labels of its class and of the class that is detected best, and IoU its overlap with the label:

- swapped: evidence for another class at the label, less the evidence for its own class. The evidence for a class is the
  largest s x w, where w rises from 0 to 1 between an IoU of 0.2 and 0.5.
- loose: s x (1 - IoU) of the detection of the label's class with the largest s x IoU.
- size: s x (1 - r) of the same detection, where r is the smaller area divided by the larger one, if the centers are
  close; and how far the size is from that of the other labels of the class.
- spurious: 1 - the largest s x w of any class.
- duplicate: the IoU of two labels, less the evidence for two objects; only the label that fits the detections less.
- missing: s x v of a detection, where v falls from 1 to 0 between an IoU of 0.3 and 0.5 with any label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Bools, Doubles, Ints
from detector.boxes import area, pairwise_iou, to_cxcywh
from detector.detections import Detections

LabelKind = Literal["swapped", "loose", "spurious", "duplicate", "size"]
"""Kind of error of a label that is there."""

Kind = LabelKind | Literal["missing"]
"""Kind of error; missing: an object has no label."""

LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
KINDS: tuple[Kind, ...] = (*LABEL_KINDS, "missing")

_NEAR_FROM, _NEAR_TO = 0.2, 0.5
"""A detection with the first IoU says nothing about a label, with the second one everything."""

_SAME_OBJECT = 0.5
"""From this IoU, two boxes may be the same object."""

_OTHER_OBJECT = 0.3
"""Up to this IoU, a detection and a label are different objects."""

_CENTER = 0.25
"""Largest distance of the centers of two boxes of one object, as a fraction of the sides of the label."""

_FEWEST_LABELS = 20
"""Smallest number of labels of a class whose sizes tell what is usual."""

_USUAL = 4.0
"""Largest usual distance from the median of the logarithm of the area, in standard deviations."""


_MIN_AREA = 1e-9
"""Smallest area, so that its logarithm is finite."""

_LEAST_EVIDENCE = 0.2
"""Smallest evidence that counts as usual: the model does not know the class better."""

_TYPICAL = 75
"""Percentile of the evidence for the labels of a class that is usual in the class."""


class Reference(NamedTuple):
    """What is usual in each class; [C] arrays.

    Attributes:
        score: evidence for a label of the class that counts as full evidence, above 0: the geometric mean of what is
            usual in the class and in the class that is detected best. What is usual in the class alone would trust
            a class that is hardly learned as much as the others; one value for all would call its labels spurious.
        usual: evidence for a label that is usual in the class alone; 0: the class has no labels.
        median: median of the logarithm of the area.
        deviation: robust standard deviation of the logarithm of the area; infinite for a class with few labels.
    """

    score: Doubles
    usual: Doubles
    median: Doubles
    deviation: Doubles


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Scores of the N labels of an image; all scores of crowd regions are 0.

    Attributes:
        scores: kind → [N] score, 0..1.
        other_class: [N] the class for which there is most evidence, besides that of the label; -1: none.
        detection: [N] index of the detection that fits the label best: of its class, or else of any; -1: none.
    """

    scores: dict[LabelKind, Doubles]
    other_class: Ints
    detection: Ints


class Missing(NamedTuple):
    """Objects of an image that seem to have no label; [K] arrays, the best first.

    Attributes:
        scores: [K] score, 0..1.
        detection: [K] index of the detection.
    """

    scores: Doubles
    detection: Ints


def make_reference(annotations: Sequence[Annotation], found: Sequence[Detections], classes: int) -> Reference:
    """Return what is usual in each class: how sure the detector is of its objects, and what sizes the labels have.

    Args:
        annotations: the labels of all images.
        found: the detections in each of the images.
        classes: number of classes.
    """
    sizes: list[list[float]] = [[] for _ in range(classes)]
    evidence: list[list[float]] = [[] for _ in range(classes)]
    for annotation, own in zip(annotations, found, strict=True):
        near = _largest(_evidence(annotation, own, own.scores.astype(np.float64), same_class=True))
        logarithm = np.log(np.maximum(area(annotation.boxes), _MIN_AREA))
        for label in np.flatnonzero(~annotation.is_crowd).tolist():
            sizes[annotation.class_ids[label]].append(float(logarithm[label]))
            evidence[annotation.class_ids[label]].append(float(near[label]))
    median, deviation, usual = np.zeros(classes), np.full(classes, np.inf), np.zeros(classes)
    for class_id in range(classes):
        if evidence[class_id]:
            usual[class_id] = max(float(np.percentile(evidence[class_id], _TYPICAL)), _LEAST_EVIDENCE)
        if len(sizes[class_id]) >= _FEWEST_LABELS:
            median[class_id] = np.median(sizes[class_id])
            # 1.4826 times the median distance is the standard deviation of a normal distribution.
            spread = 1.4826 * float(np.median(np.abs(np.array(sizes[class_id]) - median[class_id])))
            deviation[class_id] = max(spread, 0.05)
    best = float(usual.max(initial=0)) or 1.0
    return Reference(np.sqrt(np.where(usual > 0, usual, best) * best), usual, median, deviation)


def _evidence(annotation: Annotation, found: Detections, scores: Doubles, *, same_class: bool) -> Doubles:
    """Return [N, M] the evidence of each detection for the class of each label, or for any other class.

    Args:
        annotation: the labels.
        found: the detections.
        scores: [M] their scores.
        same_class: whether detections of the class of the label count; else those of other classes.
    """
    iou = _pairwise_iou(annotation, found)
    near = scores * np.clip((iou - _NEAR_FROM) / (_NEAR_TO - _NEAR_FROM), 0, 1)
    same = annotation.class_ids[:, None] == found.class_ids[None]
    return np.where(same == same_class, near, 0)


def score_labels(annotation: Annotation, found: Detections, reference: Reference) -> LabelScores:
    """Return the scores of the labels of an image.

    Args:
        annotation: the labels.
        found: detections in the image, also those with low scores, with the same classes as the labels.
        reference: what is usual in each class.
    """
    iou, scores = _pairwise_iou(annotation, found), _relative_scores(found, reference)
    own, other = (_evidence(annotation, found, scores, same_class=same) for same in (True, False))
    of_class = np.where(annotation.class_ids[:, None] == found.class_ids[None], scores * iou, 0)
    fit = np.where(of_class.any(axis=1, keepdims=True), of_class, scores * iou)
    best = _Best(annotation, found, _argmax(of_class), scores, iou)
    rival = _argmax(other)
    result: dict[LabelKind, Doubles] = {
        "swapped": np.clip(_largest(other) - _largest(own), 0, 1),
        "loose": best.score * (1 - best.iou),
        "spurious": 1 - np.maximum(_largest(own), _largest(other)),
        "duplicate": _duplicate(annotation, scores, iou, _largest(own)),
        "size": np.maximum(best.score * best.size_error(), _unusual(annotation, reference)),
    }
    counted = ~annotation.is_crowd
    return LabelScores(
        {kind: np.where(counted, values, 0) for kind, values in result.items()},
        other_class=np.array([found.class_ids[index] if index >= 0 else -1 for index in rival], np.int64),
        detection=_argmax(fit),
    )


def find_missing(annotation: Annotation, found: Detections, reference: Reference) -> Missing:
    """Return the objects that seem to have no label: detections that overlap no label; of one object, only the best.

    The arguments are those of `score_labels`. Objects in a crowd region, and objects of a class that is not labeled in
    the image, need no label.
    """
    if not len(found):
        return Missing(np.zeros(0), np.zeros(0, np.int64))
    crowd = annotation.is_crowd
    overlap = _largest(_pairwise_iou(annotation, found)[~crowd].T)
    covered = _largest(_covered_by(found, annotation)[:, crowd])
    scores = _relative_scores(found, reference) * _freedom(overlap) * (covered < _SAME_OBJECT)
    kept: list[int] = []
    between = pairwise_iou(found.boxes, found.boxes)
    for index in np.argsort(-scores, kind="stable").tolist():
        if scores[index] > 0 and not (between[index, kept] >= _SAME_OBJECT).any():
            kept.append(index)
    # Only now: the best detection of an object tells its class, whether this class is labeled or not.
    if annotation.labeled_classes is not None:
        kept = [index for index in kept if annotation.labeled_classes[found.class_ids[index]]]
    return Missing(scores[kept], np.array(kept, np.int64))


def _freedom(overlap: Doubles) -> Doubles:
    """Return [M] 1 where a detection is no labeled object, 0 where it is one, from its largest IoU with a label."""
    return np.clip((_SAME_OBJECT - overlap) / (_SAME_OBJECT - _OTHER_OBJECT), 0, 1)


def _relative_scores(found: Detections, reference: Reference) -> Doubles:
    """Return [M] the scores of the detections relative to those that are usual in their classes, at most 1."""
    return np.asarray(np.minimum(found.scores / reference.score[found.class_ids], 1), np.float64)


def _argmax(values: Doubles) -> Ints:
    """Return the column with the largest value of each row; -1 for a row without a value above 0."""
    if not values.shape[1]:
        return np.full(len(values), -1)
    return np.where(values.max(axis=1) > 0, values.argmax(axis=1), -1)


class _Best:
    """The best detection of each label.

    Attributes:
        score: [N] its score; 0 if there is none.
        iou: [N] its IoU with the label; 0 if there is none.
    """

    def __init__(
        self, annotation: Annotation, found: Detections, detection: Ints, scores: Doubles, iou: Doubles
    ) -> None:
        self._labels, self._exists = annotation.boxes, detection >= 0
        self.score, self.iou = np.zeros(len(detection)), np.zeros(len(detection))
        rows, columns = np.flatnonzero(self._exists), detection[self._exists]
        self.score[rows], self.iou[rows] = scores[columns], iou[rows, columns]
        self._boxes = annotation.boxes.copy()
        self._boxes[rows] = found.boxes[columns]

    def size_error(self) -> Doubles:
        """Return [N] 1 - the smaller area divided by the larger one; 0 if the centers are apart."""
        areas = np.stack([area(self._labels), area(self._boxes)]).astype(np.float64)
        label, best = to_cxcywh(self._labels), to_cxcywh(self._boxes)
        apart = np.abs(label[:, :2] - best[:, :2]) > _CENTER * np.maximum(label[:, 2:], best[:, 2:])
        return np.where(apart.any(axis=1), 0, 1 - areas.min(axis=0) / np.maximum(areas.max(axis=0), 1e-9))


def _pairwise_iou(annotation: Annotation, found: Detections) -> Doubles:
    """Return [N, M] the IoU of each label with each detection."""
    return pairwise_iou(annotation.boxes, found.boxes).astype(np.float64)


def _largest(values: Doubles) -> Doubles:
    """Return the largest value of each row; 0 for a row without columns."""
    return np.asarray(values.max(axis=1, initial=0), np.float64)


def _covered_by(found: Detections, annotation: Annotation) -> Doubles:
    """Return [M, N] the fraction of the area of each detection that each label covers."""
    a, b = found.boxes[:, None], annotation.boxes[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    return np.asarray(sides.prod(axis=-1) / np.maximum(area(found.boxes)[:, None], 1e-9), np.float64)


def _unusual(annotation: Annotation, reference: Reference) -> Doubles:
    """Return [N] how far the size of each label is from the usual sizes of its class, 0..1; 0: within `_USUAL`."""
    logarithm = np.log(np.maximum(area(annotation.boxes), _MIN_AREA)).astype(np.float64)
    own = annotation.class_ids
    distance = np.abs(logarithm - reference.median[own]) / reference.deviation[own]
    return np.asarray(1 - _USUAL / np.maximum(distance, _USUAL), np.float64)


def _duplicate(annotation: Annotation, scores: Doubles, iou: Doubles, support: Doubles) -> Doubles:
    """Return [N] the largest IoU with a label that fits the detections better, if they do not show two objects.

    Args:
        annotation: the labels.
        scores: [M] scores of the detections.
        iou: [N, M] IoU of each label with each detection.
        support: [N] evidence for the class of each label; of two equal labels, the first one stays.
    """
    result = np.zeros(len(support))
    between = pairwise_iou(annotation.boxes, annotation.boxes).astype(np.float64)
    np.fill_diagonal(between, 0)
    between[:, annotation.is_crowd] = between[annotation.is_crowd] = 0
    for first, second in np.argwhere(np.triu(between >= _SAME_OBJECT)).tolist():
        fits = [_fit(iou[row], scores, support[row]) for row in (first, second)]
        worse = second if fits[1] <= fits[0] else first
        result[worse] = max(result[worse], between[first, second] * (1 - _two_objects(scores, iou, first, second)))
    return result


def _fit(iou: Doubles, scores: Doubles, support: float) -> float:
    """Return how well a label fits the detections: by the class, then by the box."""
    return support + float((scores * iou).max(initial=0))


def _two_objects(scores: Doubles, iou: Doubles, first: int, second: int) -> float:
    """Return the evidence for two objects: the score of the weaker of two detections, each nearest to its label."""
    nearest: Bools = iou[first] > iou[second]
    close = np.maximum(iou[first], iou[second]) >= _SAME_OBJECT
    parts = [float(scores[close & side].max(initial=0)) for side in (nearest, ~nearest)]
    return min(parts)
