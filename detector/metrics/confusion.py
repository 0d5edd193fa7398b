"""The confusion matrix of a detector at one score threshold, and the outcome of each detection and object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.arrays import Bools, Doubles, Ints
from detector.metrics.matches import Matches
from detector.metrics.overlaps import ImageOverlaps, image_overlaps


@dataclass(frozen=True, eq=False)
class Confusion:
    """The outcomes of detections and objects. An outcome is a pair of a detection and an object, or one without other.

    The index C (the number of classes) means background. N is the number of outcomes.

    Attributes:
        category_ids: [C] category ids of the classes.
        image: [N] index of the image in `Matches.image_ids`.
        truth: [N] class index of the object; C: there is none, so the detection is a false positive in the background.
        predicted: [N] class index of the detection; C: there is none, so the object was missed.
        found: [N] index of the detection in `Matches`; -1: none.
        object: [N] index of the object in `Matches`; -1: none.
    """

    category_ids: Ints
    image: Ints
    truth: Ints
    predicted: Ints
    found: Ints
    object: Ints

    @property
    def matrix(self) -> Ints:
        """[C + 1, C + 1] number of outcomes: rows are the classes of objects, columns those of detections."""
        matrix = np.zeros((len(self.category_ids) + 1,) * 2, np.int64)
        np.add.at(matrix, (self.truth, self.predicted), 1)
        return matrix

    @property
    def correct(self) -> Bools:
        """[N] True for a detection of the right class, at the right place."""
        return np.asarray(self.truth == self.predicted)


def confusion(
    matches: Matches, ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], score_threshold: float
) -> Confusion:
    """Return the outcomes at the lowest IoU threshold of the matches, such as 0.5.

    First, detections are matched with objects of their own class, as for AP. So the diagonal has the true positives
    from which precision and recall are computed. Then the remaining detections and objects of an image are paired
    across classes, the largest IoU first, if it is at least the threshold. Crowd regions, and the detections that match
    them, are left out.

    Args:
        matches: the matches of `rows` with `ground_truth`.
        ground_truth: COCO dictionary.
        rows: detections in COCO's results format.
        score_threshold: detections with a lower score are left out.
    """
    background = len(matches.category_ids)
    outcomes = [
        (overlaps.image, found, matched)
        for overlaps in image_overlaps(matches, ground_truth, rows)
        for found, matched in _pairs(matches, overlaps, score_threshold)
    ]
    image, found, matched = np.array(outcomes, np.int64).reshape(-1, 3).T
    truth = np.append(matches.object_category, background)[matched]  # the index -1 is that of the background
    predicted = np.append(matches.category, background)[found]
    return Confusion(matches.category_ids, image, truth, predicted, found, matched)


def _pairs(matches: Matches, overlaps: ImageOverlaps, score_threshold: float) -> list[tuple[int, int]]:
    """Return the outcomes of an image as pairs: index of the detection or -1, index of the object or -1."""
    shown = (matches.scores[overlaps.found] >= score_threshold) & ~matches.ignored[0, 0, overlaps.found]
    true_positive = matches.true_positive[0, 0, overlaps.found]
    hits = overlaps.found[shown & true_positive]
    pairs = list(zip(hits.tolist(), matches.matched_object[0, hits].tolist(), strict=True))
    taken = {matched for _, matched in pairs}
    rest = np.flatnonzero(shown & ~true_positive)
    free = np.flatnonzero([index not in taken for index in overlaps.objects.tolist()])
    across = _greedy(overlaps.iou[np.ix_(rest, free)], float(matches.iou_thresholds[0]))
    pairs += [(int(overlaps.found[rest[i]]), int(overlaps.objects[free[j]])) for i, j in across]
    paired_found, paired_objects = {found for found, _ in pairs}, {matched for _, matched in pairs}
    pairs += [(index, -1) for index in overlaps.found[rest].tolist() if index not in paired_found]
    pairs += [(-1, index) for index in overlaps.objects.tolist() if index not in paired_objects]
    return pairs


def _greedy(iou: Doubles, threshold: float) -> list[tuple[int, int]]:
    """Return pairs of a row and a column, the largest IoU first; each row and column occurs at most once."""
    rows, columns = np.nonzero(iou >= threshold)
    pairs: list[tuple[int, int]] = []
    for index in np.argsort(-iou[rows, columns], kind="stable").tolist():
        row, column = int(rows[index]), int(columns[index])
        if all(row != i and column != j for i, j in pairs):
            pairs.append((row, column))
    return pairs
