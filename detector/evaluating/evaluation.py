"""The result of an evaluation: metrics with intervals, detections, and the comparison with another evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.annotation import annotation_bytes
from detector.data.split import Split
from detector.errors import InputError
from detector.evaluating.low_ap import Trained, low_ap_advice
from detector.metrics.average_precision import AveragePrecision
from detector.metrics.bootstrap import bootstrap_intervals
from detector.metrics.matches import Matches, match_detections
from detector.metrics.paired import PairedDifference, paired_difference
from detector.outputs import write_signed_json
from detector.predict.detector import Detector
from detector.threads import available_cpus, default_limit
from detector.wording import plural


@dataclass(frozen=True)
class Against:
    """The comparison of an evaluation with another one on the same images.

    Attributes:
        name: the weights or the file of the other evaluation, as the user gave it.
        ap: metrics of the other evaluation.
        difference: metrics of this evaluation minus metrics of the other one.
    """

    name: str
    ap: AveragePrecision
    difference: PairedDifference

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a dictionary that can be written as JSON."""
        return {"name": self.name, "ap": self.ap.to_json(), "difference": self.difference.to_json()}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of an evaluation: metrics and detections.

    Attributes:
        ap: COCO's average precision and related metrics.
        results: the detections in COCO's results format.
        ground_truth: the ground truth as a COCO dictionary.
        scored: the detections that COCO's metrics count; those of `results`, if it has no more than 100 per image.
        against: the comparison with another evaluation; None if there is none.
        split: the evaluated images; None: they are not known.
        detector: the detector; None for a results file.
        images_per_second: measured throughput of reading the images and detecting objects; None: it was not measured.
    """

    ap: AveragePrecision
    results: list[dict[str, Any]]
    ground_truth: Mapping[str, Any]
    scored: list[dict[str, Any]]
    against: Against | None = None
    split: Split | None = None
    detector: Detector | None = None
    images_per_second: float | None = None

    @cached_property
    def matches(self) -> Matches:
        """The matches of detections and objects, by the rules of COCO's evaluation."""
        return match_detections(self.ground_truth, self.scored)

    def with_intervals(self, threads: int | None = None) -> "Evaluation":
        """Return the evaluation with a 95 % confidence interval of each metric.

        Args:
            threads: number of threads that compute; None: one per CPU core.
        """
        names = tuple(self.ap.per_class)
        intervals = bootstrap_intervals(self.matches, names, threads=_threads(threads))
        return replace(self, ap=replace(self.ap, intervals=intervals))

    def low_ap_advice(self) -> str | None:
        """Return a line with the most likely cause of a low AP; None if it is not low, or for a results file."""
        if self.detector is None or self.split is None:
            return None
        trained = Trained.from_facts(self.detector.info.facts)
        return low_ap_advice(self.ap, self.split, self.detector.input_hw, trained)

    def compared_with(self, name: str, other: "Evaluation", threads: int | None = None) -> "Evaluation":
        """Return the evaluation with its comparison with another evaluation.

        Args:
            name: name of the other evaluation.
            other: the other evaluation, on the same images.
            threads: number of threads that compute; None: one per CPU core.

        Raises:
            InputError: the images, the classes or the objects of the two evaluations differ.
        """
        if self.split is not None and other.split is not None and _images(self.split) != _images(other.split):
            own, others = (plural(len(split.annotations), "image") for split in (self.split, other.split))
            raise InputError(
                f"--against {name}: these weights were evaluated on other images ({others}) than the first weights "
                f"({own}), because each held back other images from its training; compare them on images that neither "
                "was trained on: name a split (--split), or give other data"
            )
        names, other_names = tuple(self.ap.per_class), tuple(other.ap.per_class)
        if names != other_names:
            raise InputError(
                f"--against {name}: its classes are {list(other_names)}, but those of the first are {list(names)}: "
                "only results for the same classes can be compared"
            )
        if self.split is not None and other.split is not None and not _same_objects(self.split, other.split):
            raise InputError(
                f"--against {name}: these weights were evaluated on other objects of the same images than the first "
                "weights, because they learned the classes in another way (--classes, --single-class or several data "
                "sets; `detector info WEIGHTS` shows it), so a difference says nothing; compare weights that learned "
                "the same task"
            )
        difference = paired_difference(self.matches, other.matches, names, threads=_threads(threads))
        return replace(self, against=Against(name, other.ap, difference))

    def write(
        self, json_path: Path | None, results_path: Path | None, *, more: Mapping[str, Any] | None = None
    ) -> None:
        """Write the metrics to `json_path` and the COCO results to `results_path`; a path of None is skipped.

        The caller has called `claim_file` for both paths.

        Args:
            json_path: path for the metrics.
            results_path: path for the detections.
            more: JSON values that are written beside the metrics.

        Raises:
            FileError: a file cannot be written.
        """
        against = {} if self.against is None else {"against": self.against.to_json()}
        metrics = self.ap.to_json() | against | dict(more or {})
        for path, values in ((json_path, metrics), (results_path, self.results)):
            if path is not None:
                write_signed_json(path, values)


def _images(split: Split) -> list[tuple[int, Path]]:
    """Return id and path of each image of a split."""
    return [(annotation.image_id, annotation.image_path) for annotation in split.annotations]


def _same_objects(a: Split, b: Split) -> bool:
    """Return whether two splits with the same images have the same objects and labeled classes in each image."""
    pairs = zip(a.annotations, b.annotations, strict=True)
    return all(annotation_bytes(one) == annotation_bytes(other) for one, other in pairs)


def _threads(threads: int | None) -> int:
    """Return the number of threads that compute metrics: as given, or as many as the process may use."""
    return threads or default_limit() or available_cpus()
