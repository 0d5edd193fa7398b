"""Counts of found objects, of the causes of missed objects, and of the kinds of false positives, over many images."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from detector.analysis.false_positives import FalsePositive, FalsePositiveKind
from detector.analysis.misses import Cause, Miss


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
