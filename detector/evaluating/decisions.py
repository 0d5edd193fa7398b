"""Decide on val which scores count: thresholds, and a map to probabilities; measure both on test; save them."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.arrays import Bools, Doubles
from detector.data.data_set import DataSet
from detector.data.open_data import open_data
from detector.data.split import Split, canonical_name
from detector.detections import coco_results
from detector.errors import ConfigError, LabelError
from detector.evaluating.evaluate import detect_split, detector_of, ground_truth_of
from detector.evaluating.evaluation_data import read_split_for
from detector.files import local_path
from detector.metrics.calibration import CalibrationError, calibration_error, fit_score_map
from detector.metrics.matches import Matches, match_detections
from detector.metrics.operating_point import Choice, Goal, Reached, choose_points, measure
from detector.model.checkpoint import copy_with_info, load_weights
from detector.options import (
    ALL_CLASSES,
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    MAX_PIXELS,
    SCORE_THRESHOLD,
    DetectOptions,
    RuntimeName,
    SuppressionName,
)
from detector.outputs import claim_file
from detector.predict.detector import Detector
from detector.runtime.origin import weights_files
from detector.score_decisions import ChosenThresholds, ScoreMap
from detector.wording import distinct_names, few_names, plural

log = logging.getLogger(__name__)

IOU = 0.5
"""A detection with at least this IoU is correct."""

ALL_TOGETHER = "all classes"
"""Name of the values of all classes together; a class with this name gets its category id."""

_LOWEST = 0.001
"""Score threshold of the detections on val, as for AP."""

_ECE_ABOVE = (SCORE_THRESHOLD, 0.05)
"""Raw scores above which the calibration error is measured."""


@dataclass(frozen=True)
class Decided:
    """What was decided on val, and what it gives on test.

    Attributes:
        goal: what the thresholds were chosen for; None: none were chosen.
        choices: class name → threshold, and what it gives on val; empty without a goal.
        reached: class name → values on test; "all classes" → of all classes together. A class without a threshold has
            none, and without such a class there are those of all classes.
        score_map: the map to probabilities; None: none was fitted.
        errors: calibration errors on test.
        val_images: number of images on which was decided.
        test_split: name of the split on which was measured.
        test_images: its number of images.
        optimistic: True: there is no test split, and the values are those of val.
    """

    goal: Goal | None
    choices: dict[str, Choice]
    reached: dict[str, Reached]
    score_map: ScoreMap | None
    errors: tuple[CalibrationError, ...]
    val_images: int
    test_split: str
    test_images: int
    optimistic: bool

    def to_json(self) -> dict[str, Any]:
        """Return the decisions as a dictionary that can be written as JSON."""
        return {
            "goal": None if self.goal is None else asdict(self.goal),
            "thresholds": {name: asdict(choice) for name, choice in self.choices.items()},
            "reached": {name: one.to_json() for name, one in self.reached.items()},
            "score_map": None if self.score_map is None else self.score_map.to_json(),
            "calibration_errors": [error.to_json() for error in self.errors],
            "val_images": self.val_images,
            "test_split": self.test_split,
            "test_images": self.test_images,
            "measured_on_val": self.optimistic,
        }

    def chosen_thresholds(self) -> ChosenThresholds | None:
        """Return the thresholds as they are stored with weights; None: none were chosen.

        Raises:
            ConfigError: the goal cannot be reached for every class.
        """
        if self.goal is None:
            return None
        missing = [name for name, choice in self.choices.items() if choice.point is None]
        if missing:
            remedies = ["add images with such objects to val"]
            if self.goal.per_class:
                remedies.insert(0, "choose one threshold for all classes (--global)")
            if self.goal.min_precision is not None or self.goal.min_recall is not None:
                remedies.insert(0, "choose what can be reached, or best F1 (neither --min-precision nor --min-recall)")
            raise ConfigError(
                f"not saved: {plural(len(missing), 'class')} without a threshold ({few_names(missing, most=5)}): "
                f"{'; or '.join(remedies)}"
            )
        values = tuple(choice.point.threshold for choice in self.choices.values() if choice.point is not None)
        return ChosenThresholds(values, str(self.goal))


def choose_thresholds(
    data: str | Path,
    weights: str | Path | Detector,
    *,
    min_precision: float | None = None,
    min_recall: float | None = None,
    per_class: bool = True,
    calibrate: bool = False,
    save: str | Path | None = None,
    split: str | None = None,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    input_size: int | None = None,
    threads: int | None = None,
    iou_threshold: float = IOU_THRESHOLD,
    suppression: SuppressionName | None = None,
    class_agnostic: bool | None = None,
    max_detections: int = MAX_DETECTIONS,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
) -> Decided:
    """Choose score thresholds on val, and measure precision, recall and F1 with them on test.

    Val is the val split, or the images that were held back from the training of the weights. A detection is correct if
    its class is right and its IoU with an object is at least 0.5.

    Args:
        data: path of a dataset, or "scenes", as for `open_data`.
        weights: weights or a loaded detector, as for `evaluate`.
        min_precision: smallest precision on val; of these thresholds, the one with the best recall is chosen.
        min_recall: smallest recall on val; of these thresholds, the one with the best precision is chosen. Without
            both, the threshold with the best F1 is chosen.
        per_class: whether each class has its own threshold; False: one threshold for all classes.
        calibrate: whether to fit a map from scores to probabilities on val too.
        save: path ending in .safetensors for a copy of the weights with the thresholds, for
            `detect(score_threshold="auto")`, and with the map, for `detect(calibrated=True)`. None: no copy.
        split: split on which to measure; None: test. If there is no test split, the values are those of val.
        device: as for `Detector.load`; must not be set with a loaded detector.
        runtime: as for `Detector.load`; must not be set with a loaded detector.
        input_size: as for `Detector.load`; must not be set with a loaded detector.
        threads: as for `Detector.load`; must not be set with a loaded detector.
        iou_threshold: NMS IoU threshold, 0..1.
        suppression: NMS variant, as for `Detector.detect`.
        class_agnostic: as for `Detector.detect`.
        max_detections: largest number of detections per image.
        allow_outside: as for `open_data`.
        max_pixels: as for `open_data`.
        overwrite: whether to replace a file at `save` that this package did not write, or that was changed since.

    Raises:
        InputError: the data or the weights cannot be read, there is no val, a parameter is out of range, a class has no
            threshold that reaches the goal (only with `save`), or the copy cannot be written.
    """
    goal = Goal(min_precision=min_precision, min_recall=min_recall, per_class=per_class)
    options = DetectOptions(
        iou_threshold=iou_threshold,
        classes=ALL_CLASSES,
        suppression=suppression,
        class_agnostic=class_agnostic,
        max_detections=max_detections,
    )
    copy = None if save is None else local_path(save)
    if copy is not None:
        if isinstance(weights, Detector):
            raise ConfigError("save: give the path of the weights instead of a loaded detector, to copy them")
        claim_copy(weights, copy, overwrite=overwrite)
    detector = detector_of(weights, device=device, runtime=runtime, input_size=input_size, threads=threads)
    data_set = open_data(data, allow_outside=allow_outside, max_pixels=max_pixels)
    decided = decide(detector, data_set, goal=goal, calibrate=calibrate, split=split, options=options)
    if copy is not None and not isinstance(weights, Detector):
        save_decisions(weights, copy, decided)
    return decided


def decide(
    detector: Detector,
    data_set: DataSet,
    *,
    goal: Goal | None,
    calibrate: bool,
    split: str | None = None,
    options: DetectOptions,
) -> Decided:
    """Choose score thresholds and fit a map to probabilities on val, and measure both on test.

    The detections are those of `Detector.detect`: a grid point gives one detection. Val is the split of this name, or
    the images that were held back from the training of the weights.

    Args:
        detector: the detector.
        data_set: the data.
        goal: what the thresholds are chosen for; None: no thresholds.
        calibrate: whether to fit a map to probabilities.
        split: split on which to measure; None: test. If there is no test split, the values are those of val.
        options: IoU threshold, NMS variant and largest number of detections.

    Raises:
        ConfigError: `split` is val.
        InputError: there is no val, a split cannot be read, or no map can be fitted.
    """
    if split is not None and canonical_name(split) == "val":
        raise ConfigError("split val: thresholds and calibration are decided on val; measure them on another split")
    nms = detector.runtime.graph_info.nms
    lowest = _LOWEST if nms is None else max(_LOWEST, nms.lowest_threshold)
    low = replace(options, score_threshold=lowest)
    val = _read_val(data_set, detector)
    if not detector.info.image_hashes.train:
        log.warning(
            "these weights do not record their training images; if val is among them, fewer detections are correct on "
            "new images than thresholds and calibration promise"
        )
    val_matches = _detect_and_match(detector, val, low)
    by_category = [] if goal is None else choose_points(val_matches, goal, lowest)
    choices = [by_category[index] for index in _categories(val_matches, val)] if by_category else []
    score_map = fit_score_map(*_scores_and_hits(val_matches)) if calibrate else None
    test = _read_test(data_set, split, detector)
    measured = val if test is None else test
    errors: tuple[CalibrationError, ...] = ()
    if score_map is not None:
        matches = val_matches if test is None else _detect_and_match(detector, test, low)
        errors = tuple(calibration_error(*_scores_and_hits(matches), score_map, above) for above in _ECE_ABOVE)
    return Decided(
        goal=goal,
        choices=dict(zip(_names(val), choices, strict=True)) if choices else {},
        reached={} if goal is None else _measure(detector, measured, choices, options),
        score_map=score_map,
        errors=errors,
        val_images=len(val.annotations),
        test_split=measured.name,
        test_images=len(measured.annotations),
        optimistic=test is None,
    )


def claim_copy(weights: str | Path, path: Path, *, overwrite: bool = False, inputs: Iterable[Path | None] = ()) -> None:
    """Raise an InputError if a copy of weights with decisions cannot be written, before the work is done.

    Args:
        weights: the weights.
        path: path of the copy.
        overwrite: as for `claim_file`.
        inputs: other files that the command reads or writes.

    Raises:
        ConfigError: the path does not end in .safetensors, or the weights are an exported graph.
        InputError: the weights do not exist, or the file must not be written.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"save: {path}: expected a file name that ends in .safetensors")
    source, *_ = weights_files(weights)
    if source.suffix != ".safetensors":
        raise ConfigError(
            f"save: {weights} is an exported graph; choose with the .safetensors file, save, and export the new file, "
            "which carries the thresholds and the map to probabilities"
        )
    claim_file(path, overwrite=overwrite, inputs=(*inputs, source))


def save_decisions(weights: str | Path, path: Path, decided: Decided) -> None:
    """Write a copy of weights with the thresholds and the map to probabilities that were decided.

    What was stored before and not decided again is kept.

    Args:
        weights: a .safetensors file, or the name of shipped weights; it is not changed.
        path: the new file, which `claim_file` has accepted.
        decided: the decisions.

    Raises:
        ConfigError: there is no threshold for some class.
        InputError: the weights cannot be read, or the file cannot be written.
    """
    _, info = load_weights(weights)
    info = replace(
        info,
        thresholds=decided.chosen_thresholds() or info.thresholds,
        score_map=decided.score_map or info.score_map,
    )
    copy_with_info(weights, path, info)


def _read_val(data_set: DataSet, detector: Detector) -> Split:
    """Return the images on which is decided.

    Raises:
        LabelError: the dataset has no val split, and the weights have held back none of its images.
    """
    try:
        return read_split_for(detector.info, data_set, "val")
    except LabelError as error:
        if "val" in data_set.split_names or "val" in data_set.absent:
            raise
        raise LabelError(
            f"{data_set.description}: thresholds and calibration are decided on images that were not trained on, but "
            "there is no split 'val', and the weights have held back none of the images; divide the data with "
            "`detector split`, or train with --val-fraction"
        ) from error


def _read_test(data_set: DataSet, split: str | None, detector: Detector) -> Split | None:
    """Return the split on which is measured; None: there is no test split."""
    if split is None and "test" not in data_set.split_names and "test" not in data_set.absent:
        return None
    return read_split_for(detector.info, data_set, split or "test")


def _detect_and_match(detector: Detector, split: Split, options: DetectOptions) -> Matches:
    """Return the matches of the detections in a split."""
    usable, found = detect_split(detector, split, options)
    rows = coco_results(found, usable.category_ids)
    most = options.max_detections
    return match_detections(ground_truth_of(usable), rows, iou_thresholds=(IOU,), max_detections=most)


def _names(split: Split) -> list[str]:
    """Return a different name for each class, which is not that of all classes together."""
    names = distinct_names(split.class_names, split.category_ids)
    ids = split.category_ids
    return [f"{name} ({own})" if name == ALL_TOGETHER else name for name, own in zip(names, ids, strict=True)]


def _categories(matches: Matches, split: Split) -> list[int]:
    """Return the index of each class in matches: they have the classes in the order of their category ids."""
    return [int(index) for index in np.searchsorted(matches.category_ids, split.category_ids)]


def _scores_and_hits(matches: Matches) -> tuple[Doubles, Bools]:
    """Return the scores [N] of the detections that count, and whether each is correct [N]."""
    counts = ~matches.ignored[0, 0]
    return matches.scores[counts], matches.true_positive[0, 0, counts]


def _measure(detector: Detector, split: Split, choices: list[Choice], options: DetectOptions) -> dict[str, Reached]:
    """Return class name → what the thresholds give on a split; a class without a threshold is missing.

    Args:
        detector: the detector.
        split: the split.
        choices: the threshold of each class.
        options: as for `decide`.
    """
    chosen = [index for index, choice in enumerate(choices) if choice.point is not None]
    if not chosen:
        return {}
    thresholds = tuple(1.0 if choice.point is None else choice.point.threshold for choice in choices)
    matches = _detect_and_match(detector, split, replace(options, score_threshold=thresholds))
    category = _categories(matches, split)
    names = _names(split)
    reached = {names[index]: measure(matches, [category[index]]) for index in chosen}
    if len(chosen) == len(choices):
        reached[ALL_TOGETHER] = measure(matches, category)
    return reached
