"""The arguments and the work of `evaluate` for score thresholds and calibration, which are decided on val."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from detector.cli import console
from detector.cli.arguments import path
from detector.cli.numbers import fraction
from detector.cli.settings import load_detector
from detector.errors import ConfigError
from detector.options import ALL_CLASSES, MAX_DETECTIONS, DetectOptions

if TYPE_CHECKING:
    from detector.data.data_set import DataSet
    from detector.evaluating.decisions import Decided
    from detector.metrics.operating_point import Goal

DECISION_FLAGS = ("min_precision", "min_recall", "global", "calibrate", "save")
"""Names of the arguments of this module."""


def add_decisions(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose score thresholds and calibrate on val."""
    group = parser.add_argument_group(
        "decisions on val", "choose score thresholds and calibrate scores on val, and measure both on test"
    )
    smallest = group.add_mutually_exclusive_group()
    smallest.add_argument(
        "--min-precision",
        type=fraction,
        metavar="P",
        help="choose for each class the score threshold with at least this precision on val, and the best recall",
    )
    smallest.add_argument(
        "--min-recall",
        type=fraction,
        metavar="R",
        help="choose for each class the score threshold with at least this recall on val, and the best precision",
    )
    group.add_argument(
        "--global",
        action="store_true",
        help="choose one threshold for all classes (without --min-precision and --min-recall: with the best F1)",
    )
    group.add_argument(
        "--calibrate", action="store_true", help="fit a map from scores to probabilities, for `detect --calibrated`"
    )
    group.add_argument(
        "--save",
        type=path,
        metavar="NEW.safetensors",
        help="write a copy of the weights with the thresholds (without --min-precision, --min-recall, --global and "
        "--calibrate: with the best F1) and the map to probabilities, for `detect --conf auto` and --calibrated",
    )


def check_decisions(options: argparse.Namespace, inputs: Sequence[Path | None]) -> bool:
    """Check the arguments before the work, and return whether anything is decided on val.

    Args:
        options: the arguments.
        inputs: files that the command also uses.

    Raises:
        InputError: a number is out of range, the arguments cannot be combined, or the copy of the weights cannot be
            written.
    """
    decides = _goal(options) is not None or options.calibrate
    if decides and options.weights is None:
        raise ConfigError("thresholds and calibration are decided for weights; use --weights instead of --detections")
    if options.save is not None:
        from detector.evaluating.decisions import claim_copy

        others = (*inputs, options.json, options.results)
        claim_copy(options.weights, options.save, overwrite=options.overwrite, inputs=others)
    return decides


def _goal(options: argparse.Namespace) -> "Goal | None":
    """Return what score thresholds are chosen for; None: none are chosen.

    Raises:
        ConfigError: a number is out of range.
    """
    from detector.metrics.operating_point import Goal

    smallest = {"min_precision": options.min_precision, "min_recall": options.min_recall}
    given = any(value is not None for value in smallest.values()) or getattr(options, "global")
    if not given and (options.save is None or options.calibrate):
        return None
    return Goal(**smallest, per_class=not getattr(options, "global"))


def decide(options: argparse.Namespace, data_set: "DataSet") -> "Decided":
    """Return the thresholds and the calibration that are decided on val."""
    from detector.evaluating import decisions

    detect_options = DetectOptions(
        iou_threshold=options.iou,
        classes=ALL_CLASSES,
        suppression=options.suppression,
        class_agnostic=options.agnostic_nms,
        max_detections=options.max_det or MAX_DETECTIONS,
    )
    return decisions.decide(
        load_detector(options),
        data_set,
        goal=_goal(options),
        calibrate=options.calibrate,
        split=options.split,
        options=detect_options,
    )


def save_copy(options: argparse.Namespace, decided: "Decided") -> None:
    """Write the copy of the weights, and print how to use it."""
    from detector.evaluating.decisions import save_decisions

    save_decisions(options.weights, options.save, decided)
    flags = " --conf auto" * (decided.goal is not None) + " --calibrated" * options.calibrate
    console.print_line(f"next: detector detect IMAGES --weights {quote(str(options.save))}{flags}")
