"""The numbers of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detector.arrays import Doubles
from detector.data.split import Split
from detector.evaluating.evaluation import Evaluation
from detector.evaluating.report.subject import Subject, split_facts
from detector.metrics.calibration import LOWEST_SCORE, CalibrationCurve, calibration_of_matches
from detector.metrics.confusion import Confusion, confusion
from detector.metrics.error_budget import ErrorBudget, error_budget
from detector.metrics.object_groups import ObjectGroup, object_groups
from detector.metrics.precision_recall import ThresholdCurve, class_curves, threshold_curve
from detector.options import SCORE_THRESHOLD
from detector.version import VERSION
from detector.wording import UNDEFINED


@dataclass(frozen=True)
class ClassRow:
    """The numbers of one class at the score threshold of the report.

    Attributes:
        name: name of the class.
        objects: number of objects.
        correct: number of true positives.
        detections: number of detections.
    """

    name: str
    objects: int
    correct: int
    detections: int

    @property
    def precision(self) -> float:
        """Fraction of the detections that are right; -1: there are none."""
        return self.correct / self.detections if self.detections else UNDEFINED

    @property
    def recall(self) -> float:
        """Fraction of the objects that are found; -1: there are none."""
        return self.correct / self.objects if self.objects else UNDEFINED

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; -1: there are no objects."""
        return 2 * self.correct / (self.objects + self.detections) if self.objects else UNDEFINED


@dataclass(frozen=True, eq=False)
class Content:
    """Everything that a report shows, apart from the images.

    Attributes:
        subject: what the report is about.
        facts: label → text about weights and data.
        evaluation: metrics, detections and ground truth.
        split: the evaluated images.
        names: [C] names of the classes, in the order of `Matches.category_ids`.
        threshold: the score threshold with the highest F1, from which all numbers at one threshold are computed.
        curve: precision, recall and F1 against the threshold.
        class_curves: for each class, [101] precision at each recall level; None: the class has no objects.
        confusion: outcomes at the threshold.
        budget: what each kind of error costs.
        calibration: how well scores agree with precision; None: scores are no probabilities.
        groups: recall by kind of object.
    """

    subject: Subject
    facts: Mapping[str, str]
    evaluation: Evaluation
    split: Split
    names: tuple[str, ...]
    threshold: float
    curve: ThresholdCurve
    class_curves: Sequence[Doubles | None]
    confusion: Confusion
    budget: ErrorBudget
    calibration: CalibrationCurve | None
    groups: Mapping[str, Sequence[ObjectGroup]]

    @property
    def classes(self) -> list[ClassRow]:
        """The numbers of each class at the threshold."""
        matrix = self.confusion.matrix
        return [
            ClassRow(name, int(matrix[i].sum()), int(matrix[i, i]), int(matrix[:, i].sum()))
            for i, name in enumerate(self.names)
        ]

    @property
    def confusion_names(self) -> list[str]:
        """Names of the rows and columns of the confusion matrix: the classes, and the background as the last.

        A class called background is marked, so that the two differ.
        """
        return [*(f"{name} (class)" if name == "background" else name for name in self.names), "background"]

    @property
    def total(self) -> ClassRow:
        """The numbers of all classes together."""
        matrix = self.confusion.matrix
        return ClassRow("all classes", int(matrix[:-1].sum()), int(np.trace(matrix)), int(matrix[:, :-1].sum()))

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as a dictionary for JSON; numbers that are undefined are -1."""
        against = self.evaluation.against
        return {
            "version": VERSION,
            "about": {"name": self.subject.name} | dict(self.facts),
            "ledger": self.split.ledger.to_json(),
            "images_per_second": self.evaluation.images_per_second,
            "metrics": self.evaluation.ap.to_json(),
            "against": None if against is None else against.to_json(),
            "score_threshold": self.threshold,
            "at_threshold": {row.name: _row_json(row) for row in self.classes},
            "all_classes_at_threshold": _row_json(self.total),
            "threshold_curve": {key: value.tolist() for key, value in vars(self.curve).items()},
            "precision_at_recall": {
                name: None if curve is None else curve.tolist()
                for name, curve in zip(self.names, self.class_curves, strict=True)
            },
            "confusion": {"classes": self.confusion_names, "matrix": self.confusion.matrix.tolist()},
            "error_budget": asdict(self.budget),
            "calibration": self._calibration_json(),
            "recall_by": {kind: [asdict(group) for group in own] for kind, own in self.groups.items()},
            "training": [dict(row) for row in self.subject.training],
        }

    def _calibration_json(self) -> dict[str, Any] | None:
        """Return the calibration for JSON."""
        curve = self.calibration
        if curve is None:
            return None
        arrays = {key: getattr(curve, key).tolist() for key in ("edges", "counts", "confidence", "precision")}
        return {"ece": curve.ece, "lowest_score": LOWEST_SCORE} | arrays


def _row_json(row: ClassRow) -> dict[str, float]:
    """Return the numbers at the threshold for JSON."""
    numbers = {"objects": row.objects, "detections": row.detections, "correct": row.correct}
    return numbers | {"precision": row.precision, "recall": row.recall, "f1": row.f1}


def make_content(subject: Subject, evaluation: Evaluation, split: Split) -> Content:
    """Return the content of a report.

    Args:
        subject: what the report is about.
        evaluation: the evaluation, with or without intervals.
        split: the evaluated images.
    """
    matches, truth, rows = evaluation.matches, evaluation.ground_truth, evaluation.scored
    curve = threshold_curve(matches)
    threshold = SCORE_THRESHOLD if curve.best is None else float(curve.thresholds[curve.best])
    return Content(
        subject=subject,
        facts={**subject.facts, **split_facts(split, truth)},
        evaluation=evaluation,
        split=split,
        names=tuple(evaluation.ap.per_class),
        threshold=threshold,
        curve=curve,
        class_curves=class_curves(matches),
        confusion=confusion(matches, truth, rows, threshold),
        budget=error_budget(matches, truth, rows),
        calibration=calibration_of_matches(matches),
        groups=object_groups(matches, truth, threshold),
    )
