"""The cause of each missed object, from the raw predictions at all grid points.

An object is found if a detection of its class has an IoU of at least `min_iou` with it, matched one to one. For each
other object, `explain_misses` decides in this order, and the first cause that holds is the cause:

1. `max_det`: NMS keeps a box of the right class and place, but more than `max_detections` boxes have a higher score.
2. `suppressed`: such a box is above the score threshold, but NMS removes it because of a better box.
3. Else, the best response to the object decides. Responses are predictions with a score of at least `LEAST_SCORE` that
   overlap this object more than any other, and that find no other object: of the right class with an IoU of at least
   `LEAST_IOU`, or of another class in the right place. The best has the largest product of score and IoU.
   `too_small`: the object is smaller than a cell of the finest grid, and no response is above the score threshold.
   `no_prediction`: there is no response.
   `confused`: the best response is of another class, or its grid point has a higher score for another class.
   `localization`: the best response is of the right class, but its IoU is below `min_iou`.
   `threshold`: the best response is of the right class and in the right place, but not above the score threshold.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from detector.analysis.outcome import ImagePredictions, Outcome, outcome_of, overlaps_with
from detector.annotation import Annotation
from detector.arrays import Bools, Doubles, Floats, Ints
from detector.boxes import pairwise_iou
from detector.options import MATCH_IOU, DetectOptions

Cause = Literal["max_det", "suppressed", "confused", "localization", "threshold", "too_small", "no_prediction"]
"""Why an object was missed; the module describes each cause."""

LEAST_SCORE = 0.01
"""A prediction with a lower score is no response to an object. A lower score threshold lowers this limit too."""

LEAST_IOU = 0.1
"""A prediction with a smaller IoU is no response to an object, as in TIDE's definition of a localization error.

Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, 2020, section 2.2.
"""


@dataclass(frozen=True)
class Prediction:
    """A box that the network predicted, in relation to another box.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the image.
        class_id: class of the box.
        score: score of this class, 0..1.
        iou: IoU with the object; of a suppressor: IoU with the box that it suppresses.
    """

    box: tuple[float, float, float, float]
    class_id: int
    score: float
    iou: float


@dataclass(frozen=True)
class Miss:
    """A missed object, and the one cause for which it was missed.

    Attributes:
        object: index of the object in the annotation.
        cause: the cause.
        prediction: the prediction that the cause is about: the box that was cut, suppressed, or the best response.
            None if there is none, which is possible for `too_small` and `no_prediction`.
        suppressor: for `suppressed`: the kept box that overlaps the prediction most, among those that may suppress it.
        rank: for `max_det`: rank of the prediction among the boxes that NMS keeps; 1 is the best.
        input_wh: width and height of the object in input pixels.
    """

    object: int
    cause: Cause
    prediction: Prediction | None
    suppressor: Prediction | None
    rank: int | None
    input_wh: tuple[float, float]


def explain_misses(
    predictions: ImagePredictions,
    truth: Annotation,
    options: DetectOptions,
    *,
    outcome: Outcome | None = None,
    min_iou: float = MATCH_IOU,
    stride: int = 8,
) -> tuple[Miss, ...]:
    """Return the missed objects of one image, each with exactly one cause. Crowd regions are never missed.

    Args:
        predictions: raw predictions for the image.
        truth: the objects in the image; their class ids are those of the predictions.
        options: thresholds and NMS, in which `suppression` and `class_agnostic` are not None.
        outcome: the result of `outcome_of` for the other arguments; None: it is computed.
        min_iou: IoU from which a detection finds an object of its class.
        stride: side of a cell of the finest grid, in input pixels.
    """
    outcome = outcome or outcome_of(predictions, truth, options, min_iou)
    missed = np.flatnonzero(~outcome.matches.found & ~truth.is_crowd)
    if not len(missed):
        return ()
    responses = _Responses(predictions, truth, options, outcome, min_iou)
    return tuple(_explain(int(index), responses, stride) for index in missed)


class _Responses:
    """The predictions for one image, in relation to its objects; finds the prediction that decides about a cause.

    The arguments are those of `explain_misses`.
    """

    def __init__(
        self,
        predictions: ImagePredictions,
        truth: Annotation,
        options: DetectOptions,
        outcome: Outcome,
        min_iou: float,
    ) -> None:
        self.truth, self.options, self.outcome, self.min_iou = truth, options, outcome, min_iou
        self.letterbox = predictions.letterbox
        self.least_score = min(LEAST_SCORE, options.lowest_threshold)
        highest = predictions.scores.max(axis=1, initial=0)
        points = np.flatnonzero((highest > 0) & (highest >= self.least_score))
        self._boxes = predictions.letterbox.to_image(predictions.boxes[points])
        self._scores = predictions.scores[points]
        self._all_scores = self._scores.copy()
        self._apply_nms(points)
        self._candidate_iou = overlaps_with(outcome.candidates.boxes, truth)
        self._kept_iou = overlaps_with(outcome.kept.boxes, truth)
        self._iou = overlaps_with(self._boxes, truth)
        overlaps = np.where(truth.is_crowd, 0, self._iou)
        self._is_nearest = overlaps >= overlaps.max(axis=1, initial=0, keepdims=True)

    def _apply_nms(self, points: Ints) -> None:
        """Replace boxes by those that NMS has averaged, and set the scores of detections that find an object to 0.

        Args:
            points: ascending indices of the points in `_boxes` and `_scores`.
        """
        candidates, kept = self.outcome.candidates, self.outcome.kept
        rows = np.searchsorted(points, candidates.points[kept.indices])
        self._boxes[rows] = kept.boxes
        finds = np.flatnonzero(self.outcome.matches.objects >= 0)
        self._scores[rows[finds], candidates.class_ids[kept.indices[finds]]] = 0

    def cut(self, index: int) -> tuple[Prediction, int] | None:
        """Return the best box for an object that NMS keeps beyond the limit, and its rank; None if there is none."""
        kept, limit = self.outcome.kept, len(self.outcome.scores)
        class_ids = self.outcome.candidates.class_ids[kept.indices]
        iou = self._kept_iou[:, index]
        rows = np.flatnonzero((iou >= self.min_iou) & (class_ids == self.truth.class_ids[index]))
        rows = rows[rows >= limit]
        if not len(rows):
            return None
        row = int(rows[0])
        return _prediction(kept.boxes, kept.scores, class_ids, iou, row), row + 1

    def suppressed(self, index: int) -> tuple[Prediction, Prediction] | None:
        """Return the best box for an object that NMS removes, and the box that suppresses it; None if there is none."""
        candidates, kept = self.outcome.candidates, self.outcome.kept
        is_removed = np.ones(len(candidates.scores), dtype=np.bool_)
        is_removed[kept.indices] = False
        iou = self._candidate_iou[:, index]
        is_right = (iou >= self.min_iou) & (candidates.class_ids == self.truth.class_ids[index])
        rows = np.flatnonzero(is_removed & is_right)
        if not len(rows):
            return None
        row = int(rows[candidates.scores[rows].argmax()])
        removed = _prediction(candidates.boxes, candidates.scores, candidates.class_ids, iou, row)
        # The boxes before averaging or lowering of scores: NMS compares these.
        others = kept.indices
        may_suppress = candidates.scores[others] >= candidates.scores[row]
        if not self.options.class_agnostic:
            may_suppress &= candidates.class_ids[others] == candidates.class_ids[row]
        others = others[may_suppress]
        overlap = pairwise_iou(candidates.boxes, candidates.boxes[row : row + 1])[:, 0]
        other = int(others[overlap[others].argmax()])
        return removed, _prediction(candidates.boxes, candidates.scores, candidates.class_ids, overlap, other)

    def best(self, index: int) -> Prediction | None:
        """Return the best response to an object; None if there is none."""
        class_id, iou = int(self.truth.class_ids[index]), self._iou[:, index]
        is_own = self._is_nearest[:, index]
        right = self._metric(self._scores[:, class_id], iou, is_own & (iou >= LEAST_IOU))
        others = self._scores.copy()
        others[:, class_id] = 0
        wrong = self._metric(others.max(axis=1, initial=0), iou, is_own & (iou >= self.min_iou))
        if max(right.max(initial=0), wrong.max(initial=0)) <= 0:
            return None
        is_right = right.max() >= wrong.max()
        row = int((right if is_right else wrong).argmax())
        found = class_id if is_right else int(others[row].argmax())
        if is_right and iou[row] >= self.min_iou and self._scores[row, found] > self.options.lowest_threshold:
            # It would be a detection if the point had not a higher score for another class, which finds an object.
            found = int(self._all_scores[row].argmax())
        return Prediction(_corners(self._boxes[row]), found, float(self._all_scores[row, found]), float(iou[row]))

    def _metric(self, scores: Floats, iou: Doubles, mask: Bools) -> Doubles:
        """Return the product [P] of score and IoU; 0 for predictions that are no response."""
        return np.where(mask & (scores >= self.least_score), scores * iou, 0)


def _explain(index: int, responses: _Responses, stride: int) -> Miss:
    """Return the missed object with its cause; the module describes the order of the decision."""
    box = responses.truth.boxes[index : index + 1]
    x1, y1, x2, y2 = responses.letterbox.to_input(box)[0].tolist()
    input_wh = x2 - x1, y2 - y1
    if (cut := responses.cut(index)) is not None:
        return Miss(index, "max_det", cut[0], None, cut[1], input_wh)
    if (suppressed := responses.suppressed(index)) is not None:
        return Miss(index, "suppressed", *suppressed, None, input_wh)
    response = responses.best(index)
    is_detected = response is not None and response.score > responses.options.lowest_threshold
    cause: Cause
    if not is_detected and min(input_wh) < stride:
        cause = "too_small"
    elif response is None:
        cause = "no_prediction"
    elif response.class_id != responses.truth.class_ids[index]:
        cause = "confused"
    elif response.iou < responses.min_iou:
        cause = "localization"
    else:
        cause = "threshold"
    return Miss(index, cause, response, None, None, input_wh)


def _prediction(boxes: Floats, scores: Floats, class_ids: Ints, iou: Floats | Doubles, row: int) -> Prediction:
    """Return one of several predicted boxes as a `Prediction`."""
    return Prediction(_corners(boxes[row]), int(class_ids[row]), float(scores[row]), float(iou[row]))


def _corners(box: Floats) -> tuple[float, float, float, float]:
    """Return a box [4] as four numbers."""
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
