"""The command `evaluate`."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detector.cli import console
from detector.cli.arguments import (
    SEVERAL_WEIGHTS,
    Commands,
    add_backend,
    add_input_size,
    add_iou,
    add_nms_variant,
    add_overwrite,
    add_several_data,
    path,
)
from detector.cli.decisions import DECISION_FLAGS, add_decisions, check_decisions, decide, save_copy
from detector.cli.folds import FOLD_FLAGS, add_folds, cross_validate
from detector.cli.numbers import count
from detector.cli.settings import given_flags, load_detector, one_data_set, one_or_several, read_options
from detector.errors import ConfigError
from detector.files import local_path
from detector.options import IOU_THRESHOLD
from detector.output_folder import OutputFolder, claim_folder
from detector.outputs import claim_file
from detector.shipped_weights import weights_path

if TYPE_CHECKING:
    from detector.data.data_set import DataSet
    from detector.evaluating.evaluation import Evaluation
    from detector.predict.detector import Detector

log = logging.getLogger(__name__)

_WEIGHTS_FLAGS = ("against", "max_det", "agnostic_nms", "suppression", *DECISION_FLAGS)
"""Flags that --folds does not accept."""


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "evaluate", help="measure average precision", description="Measure COCO's average precision (AP) on a split."
    )
    add_several_data(parser, use="; several: evaluate on the images of all of them, with classes merged by name")
    parser.add_argument(
        "--split",
        help="name of the split (default: test, or the only split; if there is none, the images that were held back "
        "from the training of the weights)",
    )
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument("--weights", nargs="+", help=SEVERAL_WEIGHTS)
    subject.add_argument(
        "--detections", type=path, help="evaluate a COCO results file of any program instead of weights"
    )
    parser.add_argument(
        "--folds",
        type=count,
        metavar="K",
        help="cross-validate: train K models, each on all folds of the images but one, and evaluate the detections in "
        "the images that each did not see; for data without a test set",
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
    parser.add_argument(
        "--report",
        type=path,
        metavar="FOLDER",
        help="also write a report to this folder: report.html, which opens in any browser, report.json, and the plots",
    )
    add_decisions(parser)
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
    add_folds(parser)


def run(options: argparse.Namespace) -> int:
    """Measure the average precision of weights or of a COCO results file on a split, and print it."""
    if options.weights is not None:
        options.weights = one_or_several(options.weights)
    if isinstance(options.weights, list) and (given := given_flags(options, DECISION_FLAGS)):
        raise ConfigError(
            f"evaluate: {given}: thresholds and calibration are stored with the weights of one network, and an "
            "ensemble has several; give one of the weights"
        )
    if options.folds is None and options.weights is None and options.detections is None:
        raise ConfigError("evaluate: give --weights or --detections to evaluate, or --folds to cross-validate")
    if options.folds is not None:
        if given := given_flags(options, ("weights", "detections")):
            raise ConfigError(
                f"evaluate: {given}: cannot be used with --folds, which trains and evaluates its own models; to start "
                "each of them from trained weights: --init-weights"
            )
        if given := given_flags(options, _WEIGHTS_FLAGS):
            raise ConfigError(f"evaluate: {given}: cannot be used with --folds, which trains its own models")
        work = cross_validate
    elif given := given_flags(options, FOLD_FLAGS):
        raise ConfigError(f"evaluate: {given}: only --folds trains; add it, or leave these flags out")
    else:
        work = _evaluate
    against = options.against and (local_path if options.detections else weights_path)(options.against)
    weights = [options.weights] if isinstance(options.weights, str) else options.weights or []
    inputs = (*map(Path, options.data), options.detections, *map(Path, weights), against)
    if options.report is None:
        return work(options, inputs, None)
    from detector.evaluating.report.write import REPORT_FILES

    with claim_folder(options.report, "reporting", names=REPORT_FILES, overwrite=options.overwrite) as report:
        return work(options, (*inputs, *(report.path / name for name in REPORT_FILES)), report)


def _evaluate(options: argparse.Namespace, inputs: Sequence[Path | None], report: OutputFolder | None) -> int:
    """Evaluate, print and write the results.

    Args:
        options: the flags.
        inputs: files that the command reads, or writes to the folder of the report.
        report: folder of the report; None: it is not written.
    """
    from detector.data.joined_data import open_all
    from detector.evaluating.evaluation_data import join_for

    claim_file(options.json, overwrite=options.overwrite, inputs=(*inputs, options.results))
    claim_file(options.results, overwrite=options.overwrite, inputs=inputs)
    decides = check_decisions(options, inputs)
    read = read_options(options)
    if options.detections is not None:
        one_data_set(options.data, "evaluate: evaluate the detections on each dataset by itself")
    sources = open_all(options.data, allow_outside=read.allow_outside, max_pixels=read.max_pixels)
    if options.detections is not None:
        data_set = sources[0]
        evaluation = _evaluate_file(options, data_set, options.detections)
    else:
        model = load_detector(options)
        data_set = join_for(model.info, sources)
        evaluation = _evaluate_weights(options, data_set, model)
    if not options.no_intervals:
        evaluation = evaluation.with_intervals(options.threads)
    if options.against is not None:
        if options.detections is not None:
            other = _evaluate_file(options, data_set, options.against)
        else:
            other = _evaluate_weights(options, data_set, load_detector(options, options.against))
        evaluation = evaluation.compared_with(options.against, other, options.threads)
    decided = decide(options, data_set) if decides else None
    more = None if decided is None else {"decided": decided.to_json()}
    evaluation.write(options.json, options.results, more=more)
    page = None if report is None else _write_report(options, data_set.description, evaluation, report)
    console.print_average_precision(evaluation.ap)
    if evaluation.against is not None:
        name = options.detections or options.weights
        console.print_comparison(" + ".join(name) if isinstance(name, list) else str(name), evaluation.against)
    if decided is not None:
        console.print_decided(decided)
    if page is not None:
        console.print_line(f"report: {page}")
    if not options.quiet and (advice := evaluation.low_ap_advice()) is not None:
        console.print_line(advice)
    if decided is not None and options.save is not None:
        save_copy(options, decided)
    elif options.weights is not None:
        console.print_line(f"next: detector detect IMAGES {given_flags(options, ['weights', 'imgsz'])}")
    return 0


def _write_report(options: argparse.Namespace, data: str, evaluation: "Evaluation", folder: OutputFolder) -> Path:
    """Write the report of an evaluation, and return the path of its page.

    Args:
        options: the flags.
        data: description of the dataset.
        evaluation: the evaluation.
        folder: folder of the report.
    """
    from detector.evaluating.report.subject import file_subject, weights_subject
    from detector.evaluating.report.write import write_report

    if evaluation.detector is None:
        subject = file_subject(options.detections, data)
    else:
        subject = weights_subject(options.weights, evaluation.detector, data)
    folder.remove_earlier()
    return write_report(folder, subject, evaluation)


def _evaluate_file(options: argparse.Namespace, data_set: "DataSet", file: str | Path) -> "Evaluation":
    """Return the evaluation of a COCO results file."""
    from detector.evaluating.evaluate_results import evaluate_results
    from detector.evaluating.evaluation_data import choose_split

    split = choose_split(data_set, options.split)
    evaluation = evaluate_results(data_set, split, local_path(file), options.max_det)
    return evaluation if options.report is None else replace(evaluation, split=data_set.read(split))


def _evaluate_weights(options: argparse.Namespace, data_set: "DataSet", model: "Detector") -> "Evaluation":
    """Return the evaluation of a detector."""
    from detector.evaluating.evaluate import evaluate_split, evaluation_options
    from detector.evaluating.evaluation_data import read_split_for

    split = read_split_for(model.info, data_set, options.split)
    log.info("%s", data_set.description)
    return evaluate_split(
        model, split, evaluation_options(options.iou, options.suppression, options.agnostic_nms, options.max_det)
    )
