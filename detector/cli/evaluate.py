"""The command `evaluate`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from detector.cli import console
from detector.cli.arguments import (
    WEIGHTS,
    Commands,
    add_backend,
    add_data,
    add_input_size,
    add_iou,
    add_nms_variant,
    add_overwrite,
    path,
)
from detector.cli.numbers import count, fraction
from detector.cli.settings import given_flags, load_detector, read_options
from detector.errors import ConfigError
from detector.files import local_path
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, DetectOptions
from detector.outputs import claim_file

if TYPE_CHECKING:
    from detector.data.data_set import DataSet
    from detector.evaluating.decisions import Decided
    from detector.evaluating.evaluation import Evaluation
    from detector.metrics.operating_point import Goal

log = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "evaluate", help="measure average precision", description="Measure COCO's average precision (AP) on a split."
    )
    add_data(parser)
    parser.add_argument(
        "--split",
        help="name of the split (default: test, or the only split; if there is none, the images that were held back "
        "from the training of the weights)",
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--weights", help=WEIGHTS)
    subject.add_argument(
        "--detections", type=path, help="evaluate a COCO results file of any program instead of weights"
    )
    parser.add_argument(
        "--against",
        metavar="OTHER",
        help="compare with other weights on the same images (with --detections: with another results file): difference "
        "with interval, and a verdict: better, worse, or cannot tell",
    )
    parser.add_argument(
        "--no-intervals", action="store_true", help="do not compute the 95 %% confidence intervals of the metrics"
    )
    _add_decisions(parser)
    parser.add_argument("--json", type=path, help="also write the AP to this JSON file")
    parser.add_argument("--results", type=path, help="also write the detections to this file, in COCO results format")
    add_overwrite(parser)
    add_input_size(parser)
    add_backend(parser)
    add_iou(parser, IOU_THRESHOLD)
    parser.add_argument(
        "--max-det",
        type=count,
        help="also print the AP with at most this number of detections per image, for images with more than 100 "
        "objects; COCO's AP counts at most 100",
    )
    add_nms_variant(parser)


def _add_decisions(parser: argparse.ArgumentParser) -> None:
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
        dest="one_threshold",
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


def _goal(options: argparse.Namespace) -> "Goal | None":
    """Return what score thresholds are chosen for; None: none are chosen.

    Raises:
        ConfigError: a number is out of range.
    """
    from detector.metrics.operating_point import Goal

    smallest = {"min_precision": options.min_precision, "min_recall": options.min_recall}
    given = any(value is not None for value in smallest.values()) or options.one_threshold
    if not given and (options.save is None or options.calibrate):
        return None
    return Goal(**smallest, per_class=not options.one_threshold)


def _claim_copy(options: argparse.Namespace, inputs: Sequence[Path | None]) -> None:
    """Raise an InputError if the copy of the weights cannot be written, or the weights are an exported graph.

    Args:
        options: the arguments.
        inputs: files that the command also uses.
    """
    from detector.runtime.origin import weights_files

    if options.save.suffix != ".safetensors":
        raise ConfigError(f"--save {options.save}: expected a file name that ends in .safetensors")
    source, *_ = weights_files(options.weights)
    if source.suffix != ".safetensors":
        raise ConfigError(
            f"--save: {options.weights} is an exported graph; choose with the .safetensors file, save, and export the "
            "new file, which carries the thresholds and the map to probabilities"
        )
    claim_file(options.save, overwrite=options.overwrite, inputs=(*inputs, source, options.json, options.results))


def run(options: argparse.Namespace) -> int:
    """Measure the average precision of weights or of a COCO results file on a split, and print it."""
    from detector.data.open_data import open_data

    against = options.against and local_path(options.against)
    inputs = (Path(options.data), options.detections, options.weights and Path(options.weights), against)
    claim_file(options.json, overwrite=options.overwrite, inputs=(*inputs, options.results))
    claim_file(options.results, overwrite=options.overwrite, inputs=inputs)
    goal = _goal(options)
    decides = goal is not None or options.calibrate
    if decides and options.weights is None:
        raise ConfigError("thresholds and calibration are decided for weights; use --weights instead of --detections")
    if options.save is not None:
        _claim_copy(options, inputs)
    read = read_options(options)
    data_set = open_data(options.data, allow_outside=read.allow_outside, max_pixels=read.max_pixels)
    evaluate = _evaluate_file if options.detections is not None else _evaluate_weights
    evaluation = evaluate(options, data_set, options.detections or options.weights)
    if not options.no_intervals:
        evaluation = evaluation.with_intervals(options.threads)
    if options.against is not None:
        other = evaluate(options, data_set, options.against)
        evaluation = evaluation.compared_with(options.against, other, options.threads)
    decided = _decide(options, data_set, goal) if decides else None
    more = None if decided is None else {"decided": decided.to_json()}
    evaluation.write(options.json, options.results, more=more)
    console.print_average_precision(evaluation.ap)
    if evaluation.against is not None:
        console.print_comparison(str(options.detections or options.weights), evaluation.against)
    if decided is not None:
        console.print_decided(decided)
        if options.save is not None:
            _save(options, decided)
            return 0
    if options.weights is not None:
        console.print_line(f"next: detector detect IMAGES {given_flags(options, ['weights', 'imgsz'])}")
    return 0


def _decide(options: argparse.Namespace, data_set: "DataSet", goal: "Goal | None") -> "Decided":
    """Return the thresholds and the calibration that are decided on val."""
    from detector.evaluating.decisions import decide

    detect_options = DetectOptions(
        iou_threshold=options.iou,
        suppression=options.suppression,
        class_agnostic=options.agnostic_nms,
        max_detections=options.max_det or MAX_DETECTIONS,
    )
    return decide(
        load_detector(options),
        data_set,
        goal=goal,
        calibrate=options.calibrate,
        split=options.split,
        options=detect_options,
    )


def _save(options: argparse.Namespace, decided: "Decided") -> None:
    """Write the copy of the weights, and print how to use it."""
    from detector.evaluating.decisions import save_decisions

    save_decisions(options.weights, options.save, decided)
    flags = " --conf auto" * (decided.goal is not None) + " --calibrated" * options.calibrate
    console.print_line(f"next: detector detect IMAGES --weights {quote(str(options.save))}{flags}")


def _evaluate_file(options: argparse.Namespace, data_set: "DataSet", file: str | Path) -> "Evaluation":
    """Return the evaluation of a COCO results file."""
    from detector.evaluating.evaluate_results import evaluate_results
    from detector.evaluating.evaluation_data import choose_split

    return evaluate_results(data_set, choose_split(data_set, options.split), local_path(file), options.max_det)


def _evaluate_weights(options: argparse.Namespace, data_set: "DataSet", weights: str) -> "Evaluation":
    """Return the evaluation of weights."""
    from detector.evaluating.evaluate import evaluate_split, evaluation_options
    from detector.evaluating.evaluation_data import read_evaluation_split

    model = load_detector(options, weights)
    split = read_evaluation_split(data_set, options.split, model.info.image_hashes)
    log.info("%s", data_set.description)
    return evaluate_split(
        model, split, evaluation_options(options.iou, options.suppression, options.agnostic_nms, options.max_det)
    )
