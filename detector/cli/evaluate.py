"""The command `evaluate`."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
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
from detector.cli.numbers import count, number, whole
from detector.cli.settings import given_flags, limit_torch_threads, load_detector, read_options, settings
from detector.errors import ConfigError
from detector.files import local_path
from detector.options import IOU_THRESHOLD
from detector.output_folder import OutputFolder, claim_folder
from detector.outputs import claim_file

if TYPE_CHECKING:
    from detector.data.data_set import DataSet
    from detector.evaluating.evaluation import Evaluation

log = logging.getLogger(__name__)

_FOLD_FLAGS = ("minutes", "epochs", "config", "set", "model", "seed", "out")
_WEIGHTS_FLAGS = ("against", "report", "max_det", "agnostic_nms", "suppression")
"""Flags for --folds only, and flags that --folds does not accept."""


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
    subject.add_argument(
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
    _add_folds(parser)


def _add_folds(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the training runs of --folds."""
    runs = parser.add_argument_group("cross-validation", "The training runs of --folds. A repeated command continues.")
    length = runs.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=number, help="length of each run in minutes (default: 10)")
    length.add_argument("--epochs", type=number, help="length of each run in passes over its training images")
    runs.add_argument("--config", type=path, help="YAML file with settings; see configs/README.md")
    runs.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; repeatable")
    runs.add_argument("--model", help="size of the network: pico, nano, small or medium (default: nano)")
    runs.add_argument("--seed", type=whole, help="random seed of each run (default: 0)")
    runs.add_argument("--out", type=path, help="folder for the folds (default: runs/folds)")


def run(options: argparse.Namespace) -> int:
    """Measure the average precision of weights or of a COCO results file on a split, and print it."""
    if options.folds is not None:
        return _cross_validate(options)
    if given := given_flags(options, _FOLD_FLAGS):
        raise ConfigError(f"evaluate: {given}: only --folds trains; add it, or leave these flags out")
    against = options.against and local_path(options.against)
    inputs = (Path(options.data), options.detections, options.weights and Path(options.weights), against)
    if options.report is None:
        return _evaluate(options, inputs, None)
    from detector.evaluating.report.write import REPORT_FILES

    with claim_folder(options.report, "reporting", names=REPORT_FILES, overwrite=options.overwrite) as report:
        return _evaluate(options, (*inputs, *(report.path / name for name in REPORT_FILES)), report)


def _evaluate(options: argparse.Namespace, inputs: Sequence[Path | None], report: OutputFolder | None) -> int:
    """Evaluate, print and write the results.

    Args:
        options: the flags.
        inputs: files that the command reads, or writes to the folder of the report.
        report: folder of the report; None: it is not written.
    """
    from detector.data.open_data import open_data

    claim_file(options.json, overwrite=options.overwrite, inputs=(*inputs, options.results))
    claim_file(options.results, overwrite=options.overwrite, inputs=inputs)
    read = read_options(options)
    data_set = open_data(options.data, allow_outside=read.allow_outside, max_pixels=read.max_pixels)
    evaluate = _evaluate_file if options.detections is not None else _evaluate_weights
    evaluation = evaluate(options, data_set, options.detections or options.weights)
    if not options.no_intervals:
        evaluation = evaluation.with_intervals(options.threads)
    if options.against is not None:
        other = evaluate(options, data_set, options.against)
        evaluation = evaluation.compared_with(options.against, other, options.threads)
    evaluation.write(options.json, options.results)
    page = None if report is None else _write_report(options, data_set.description, evaluation, report)
    console.print_average_precision(evaluation.ap)
    if evaluation.against is not None:
        console.print_comparison(str(options.detections or options.weights), evaluation.against)
    if page is not None:
        console.print_line(f"report: {page}")
    if options.weights is not None:
        console.print_line(f"next: detector detect IMAGES {given_flags(options, ['weights', 'imgsz'])}")
    return 0


def _cross_validate(options: argparse.Namespace) -> int:
    """Cross-validate, and print the pooled average precision.

    Raises:
        ConfigError: a flag is given that belongs to the evaluation of weights.
    """
    if given := given_flags(options, _WEIGHTS_FLAGS):
        raise ConfigError(f"evaluate: {given}: cannot be used with --folds, which trains its own models")
    claim_file(options.json, overwrite=options.overwrite, inputs=(Path(options.data), options.results))
    claim_file(options.results, overwrite=options.overwrite, inputs=(Path(options.data),))
    device = None if options.device == "auto" else options.device  # --set and --config may name a device
    config = settings(argparse.Namespace(**vars(options) | {"device": device}))
    limit_torch_threads(options)
    from detector.cross_validating.cross_validate import cross_validate

    out = options.out or Path("runs/folds")
    own = cross_validate(
        options.data, config, folds=options.folds, out=out, split=options.split, overwrite=options.overwrite
    )
    evaluation = own.evaluation()
    if not options.no_intervals:
        evaluation = evaluation.with_intervals(options.threads)
    evaluation.write(options.json, options.results)
    console.print_average_precision(evaluation.ap)
    console.print_line(own.covers())
    return 0


def _write_report(options: argparse.Namespace, data: str, evaluation: "Evaluation", folder: OutputFolder) -> Path:
    """Write the report of an evaluation, and return the path of its page.

    Args:
        options: the flags.
        data: description of the data set.
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
