"""COCO's average precision (AP), computed with faster-coco-eval, which gives the same numbers as pycocotools."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster

from detector.errors import InputError
from detector.html_table import html_table
from detector.metrics.bootstrap import Intervals
from detector.metrics.intervals import Interval
from detector.partial_labels import ignore_unlabeled
from detector.wording import distinct_names, metric, plural

_FIELDS = ("image_id", "category_id", "bbox", "score")

_MAX_ID = 2**53
"""faster-coco-eval compares ids as float64 numbers, which are exact up to this number."""

_LARGEST_NUMBER = 1e100
"""Largest coordinate or score; areas of boxes with larger coordinates are not finite."""

_CLASSES_SHOWN = 40
"""Largest number of classes in the table that a notebook shows."""

COCO_MAX_DETECTIONS = 100
"""Largest number of detections per image that COCO's metrics count."""


@dataclass(frozen=True)
class ManyDetections:
    """Metrics that count more detections per image than COCO's metrics do, for images with more than 100 objects.

    Attributes:
        max_detections: largest number of detections of a class per image.
        AP: average precision as in `AveragePrecision`, with this number of detections.
        AP50: average precision at the IoU threshold 0.50.
        AP75: average precision at the IoU threshold 0.75.
        AR: average recall: the mean over the IoU thresholds 0.50, 0.55, ..., 0.95 and over the classes.
    """

    max_detections: int
    AP: float
    AP50: float
    AP75: float
    AR: float


@dataclass(frozen=True)
class AveragePrecision:
    """The result of an evaluation: the twelve COCO metrics, and the AP of each class.

    Each metric is in 0..1, or -1 if there is no object from which to compute it; for example, APs is -1 if the data has
    no small objects.

    Attributes:
        AP: average precision, the mean over the IoU thresholds 0.50, 0.55, ..., 0.95 and over the classes.
        AP50: average precision at the IoU threshold 0.50.
        AP75: average precision at the IoU threshold 0.75.
        APs: AP of small objects: area below 32² square pixels of the original image.
        APm: AP of medium objects: area from 32² to 96² square pixels.
        APl: AP of large objects: area above 96² square pixels.
        AR1: average recall with at most 1 detection per image: the mean over the IoU thresholds 0.50, 0.55, ..., 0.95
            and over the classes.
        AR10: average recall with at most 10 detections per image.
        AR100: average recall with at most 100 detections per image.
        ARs: average recall of small objects, with at most 100 detections per image.
        ARm: average recall of medium objects, with at most 100 detections per image.
        ARl: average recall of large objects, with at most 100 detections per image.
        per_class: class name → {"AP", "AP50", "objects"}. "objects" is the number of objects of the class, without
            crowd regions. If several classes have the same name, the category id is appended: "cat (5)".
        many: metrics with more than 100 detections per image; None: they were not computed.
        intervals: 95 % confidence intervals of the metrics; None: they were not computed. They are not part of a
            comparison with ==.

    Source: Lin et al., Microsoft COCO: Common Objects in Context, 2014; cocodataset.org, detection evaluation.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: Mapping[str, Mapping[str, float]]
    many: ManyDetections | None = None
    intervals: Intervals | None = field(default=None, compare=False)

    def _repr_html_(self) -> str:
        """Return the most important metrics and the AP of each class as an HTML table, which notebooks show."""
        intervals = self.intervals
        of_all = {} if intervals is None else intervals.metrics
        objects = f"{sum(numbers['objects'] for numbers in self.per_class.values()):g}"
        rows = [
            (name, metric(getattr(self, name)), _shown(of_all.get(name)), objects) for name in ("AP", "AP50", "AP75")
        ]
        for name, numbers in list(self.per_class.items())[:_CLASSES_SHOWN]:
            own = {} if intervals is None else intervals.per_class.get(name, {})
            rows.append((f"AP of {name}", metric(numbers["AP"]), _shown(own.get("AP")), f"{numbers['objects']:g}"))
        more = f"the first {_CLASSES_SHOWN} of {len(self.per_class)} classes" * (len(self.per_class) > _CLASSES_SHOWN)
        return html_table(("metric", "value", "95 % interval", "objects"), rows, caption=more)

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as a dictionary for JSON; `many` and `intervals` only if they were computed."""
        values = {key: value for key, value in asdict(self).items() if key not in ("many", "intervals")}
        many = {} if self.many is None else {"many": asdict(self.many)}
        intervals = {} if self.intervals is None else {"intervals": self.intervals.to_json()}
        return values | many | intervals


def _shown(interval: Interval | None) -> str:
    """Return an interval as text; empty if there is none."""
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def average_precision(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> AveragePrecision:
    """Return COCO's metrics of detections in COCO's results format. The arguments are checked and not changed.

    Args:
        ground_truth: COCO dictionary with images, annotations and categories; `iscrowd` and `area` may be missing.
        results: one row per detection with image_id, category_id, bbox [x, y, w, h] in pixels and score, as
            `coco_results` returns them.

    Raises:
        InputError: a row lacks a field, has a value of the wrong type, or refers to an unknown image or category.
    """
    _check_results(ground_truth, results)
    return average_precision_unchecked(ground_truth, [{key: row[key] for key in _FIELDS} for row in results])


def average_precision_unchecked(ground_truth: Mapping[str, Any], rows: list[dict[str, Any]]) -> AveragePrecision:
    """Return COCO's metrics of detections, as `average_precision` does, without checking and copying the rows.

    Checking and copying would take a fifth of the time of computing the metrics.

    Args:
        ground_truth: COCO dictionary, as for `average_precision`.
        rows: valid rows, as `coco_results` returns them. The evaluation adds fields to the rows.
    """
    truth, evaluation = _prepare(ground_truth, rows)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    metrics = {name: float(value) for name, value in zip(names, evaluation.stats[:12], strict=True)}
    return AveragePrecision(**metrics, per_class=_per_class(evaluation, truth), many=None, intervals=None)


def many_detections(ground_truth: Mapping[str, Any], rows: list[dict[str, Any]], max_detections: int) -> ManyDetections:
    """Return the metrics of detections with another largest number of detections per image than COCO's 100.

    Args:
        ground_truth: COCO dictionary, as for `average_precision`.
        rows: valid rows, as for `average_precision_unchecked`.
        max_detections: largest number of detections of a class per image.
    """
    _, evaluation = _prepare(ground_truth, rows)
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # [IoU threshold, recall level, class]
    recall = evaluation.eval["recall"][:, :, 0, 0]
    return ManyDetections(max_detections, _mean(precision), _mean(precision[0]), _mean(precision[5]), _mean(recall))


def crowded_images_note(ground_truth: Mapping[str, Any], *, per_class: bool) -> str | None:
    """Return a text that says what COCO's limit of 100 detections means for images with more objects; None if none has.

    Args:
        ground_truth: COCO dictionary, as for `average_precision`.
        per_class: True if the limit applies to each class of an image, as in COCO's evaluation; False if an image has
            at most 100 detections of all classes together.
    """
    objects = Counter(
        (row["image_id"], row["category_id"] if per_class else None)
        for row in ground_truth["annotations"]
        if row.get("iscrowd", 0) != 1
    )
    images = {image_id for (image_id, _), count in objects.items() if count > COCO_MAX_DETECTIONS}
    if not images:
        return None
    reachable = sum(min(count, COCO_MAX_DETECTIONS) for count in objects.values()) / sum(objects.values())
    enough = -(-max(objects.values()) // 100) * 100
    return (
        f"{plural(len(images), 'image')} with more than {COCO_MAX_DETECTIONS} objects{' of a class' * per_class}: COCO "
        f"counts at most {COCO_MAX_DETECTIONS} detections per image{' and class' * per_class}, so at most "
        f"{math.floor(1000 * reachable) / 10:.1f} % of all objects can be found; use `evaluate --max-det {enough}` for "
        "the AP without this limit"
    )


def _prepare(ground_truth: Mapping[str, Any], rows: list[dict[str, Any]]) -> tuple[COCO, COCOeval_faster]:
    """Return the ground truth and the evaluation of the rows, as objects of faster-coco-eval."""
    images = ground_truth["images"]
    if any(abs(image["id"]) > _MAX_ID for image in images):
        number = {image["id"]: position for position, image in enumerate(images, start=1)}
        ground_truth = {**ground_truth, "images": [{**image, "id": number[image["id"]]} for image in images]} | {
            "annotations": [{**row, "image_id": number[row["image_id"]]} for row in ground_truth["annotations"]]
        }
        rows = [{**row, "image_id": number[row["image_id"]]} for row in rows]
    truth = COCO(_with_defaults(ignore_unlabeled(ground_truth, rows)))
    return truth, COCOeval_faster(truth, truth.loadRes(rows), iouType="bbox")


def _per_class(evaluation: Any, truth: Any) -> dict[str, dict[str, float]]:
    """Return class name → {"AP", "AP50", "objects"}, from an evaluated `COCOeval_faster` and its ground truth."""
    precision = evaluation.eval["precision"]  # [IoU threshold, recall level, class, area range, max detections]
    counts: dict[int, int] = {}
    for row in truth.dataset["annotations"]:
        counts[row["category_id"]] = counts.get(row["category_id"], 0) + (not row["iscrowd"])
    category_ids = evaluation.params.catIds
    names = distinct_names([truth.cats[category_id]["name"] for category_id in category_ids], category_ids)
    table = {}
    for position, (category_id, name) in enumerate(zip(category_ids, names, strict=True)):
        values = precision[:, :, position, 0, -1]
        table[name] = {
            "AP": _mean(values),
            "AP50": _mean(values[0]),
            "objects": counts.get(category_id, 0),
        }
    return table


def _mean(values: Any) -> float:
    """Return the mean of the values that are not -1, or -1 if all values are -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _with_defaults(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the ground truth in which missing optional fields have default values."""
    annotations = [
        # Ids are renumbered from 1, because COCO's evaluation uses id 0 for "not matched".
        {"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **row, "id": number}
        for number, row in enumerate(ground_truth["annotations"], start=1)
    ]
    categories = [{"name": str(category["id"]), **category} for category in ground_truth["categories"]]
    return {"info": {}, **ground_truth, "annotations": annotations, "categories": categories}


def _check_results(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for the first invalid row of the results."""
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_ids = {category["id"] for category in ground_truth["categories"]}
    if _all_valid(results, image_ids, category_ids):
        return
    for index, row in enumerate(results):
        for key in _FIELDS:
            if key not in row:
                raise InputError(f"result {index}: the field '{key}' is missing")
        if isinstance(row["image_id"], list | dict) or row["image_id"] not in image_ids:
            raise InputError(f"result {index}: image_id {row['image_id']} is not in the dataset")
        if isinstance(row["category_id"], list | dict) or row["category_id"] not in category_ids:
            raise InputError(f"result {index}: category_id {row['category_id']} is not in the dataset")
        numbers = [*row["bbox"], row["score"]] if isinstance(row["bbox"], list | tuple) else []
        if len(numbers) != 5 or not all(isinstance(n, int | float) and abs(n) <= _LARGEST_NUMBER for n in numbers):
            raise InputError(
                f"result {index}: expected a bbox of four finite numbers and a finite score, "
                f"got bbox {row['bbox']!r:.200} and score {row['score']!r:.60}; the largest number is "
                f"{_LARGEST_NUMBER:g}"
            )


def _all_valid(results: Sequence[Mapping[str, Any]], image_ids: set[Any], category_ids: set[Any]) -> bool:
    """Return True only if all rows are valid; ten times faster than checking each row. May be False for valid rows."""
    try:
        images, categories, boxes, scores = (list(map(itemgetter(field), results)) for field in _FIELDS)
        numbers = [*scores, *chain.from_iterable(boxes)]
        return (
            set(images) <= image_ids
            and set(categories) <= category_ids
            and set(map(type, boxes)) <= {list, tuple}
            and set(map(len, boxes)) <= {4}
            and set(map(type, numbers)) <= {int, float}
            and all(abs(number) <= _LARGEST_NUMBER for number in numbers)
        )
    except (KeyError, TypeError):
        return False
