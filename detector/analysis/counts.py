"""Counts of found objects, of the causes of missed objects, and of the kinds of false positives, over many images."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from detector.analysis.false_positives import FalsePositive, FalsePositiveKind, explain_false_positives
from detector.analysis.misses import Cause, Miss, explain_misses
from detector.analysis.outcome import ImagePredictions, outcome_of
from detector.annotation import Annotation
from detector.options import MATCH_IOU, DetectOptions


@dataclass(frozen=True)
class CauseCounts:
    """Numbers of objects and false positives in a set of images.

    Attributes:
        objects: number of objects, without crowd regions; the sum of `found` and all `misses`.
        found: number of objects that a detection finds.
        misses: cause → number of objects that were missed for this cause, for every cause.
        false_positives: kind → number of false positives of this kind, for every kind.
    """

    objects: int
    found: int
    misses: Mapping[Cause, int]
    false_positives: Mapping[FalsePositiveKind, int]


def count_causes_in(
    images: Iterable[tuple[ImagePredictions, Annotation]],
    options: DetectOptions,
    *,
    min_iou: float = MATCH_IOU,
    stride: int = 8,
) -> CauseCounts:
    """Explain each image, and count causes and kinds over all images; only one image is in memory at a time.

    Args:
        images: raw predictions and objects of each image.
        options: as for `explain_misses`, like the following.
        min_iou: IoU from which a detection finds an object of its class.
        stride: side of a cell of the finest grid, in input pixels.
    """
    objects = 0
    misses: list[Miss] = []
    false_positives: list[FalsePositive] = []
    for predictions, truth in images:
        outcome = outcome_of(predictions, truth, options, min_iou)
        objects += int((~truth.is_crowd).sum())
        misses += explain_misses(predictions, truth, options, outcome=outcome, min_iou=min_iou, stride=stride)
        false_positives += explain_false_positives(outcome, truth, min_iou=min_iou)
    return count_causes(objects, misses, false_positives)


def count_causes(objects: int, misses: Iterable[Miss], false_positives: Iterable[FalsePositive] = ()) -> CauseCounts:
    """Count causes and kinds over all images, for a report.

    Args:
        objects: number of objects in the images, without crowd regions.
        misses: the missed objects of all images.
        false_positives: the false positives of all images.
    """
    causes = Counter(miss.cause for miss in misses)
    kinds = Counter(wrong.kind for wrong in false_positives)
    return CauseCounts(
        objects,
        objects - sum(causes.values()),
        {cause: causes[cause] for cause in get_args(Cause)},
        {kind: kinds[kind] for kind in get_args(FalsePositiveKind)},
    )
