"""The command `evaluate`."""

import argparse
import logging
from pathlib import Path

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
from detector.cli.numbers import count
from detector.cli.settings import given_flags, load_detector, read_options
from detector.options import IOU_THRESHOLD
from detector.outputs import claim_file

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


def run(options: argparse.Namespace) -> int:
    """Measure the average precision of weights or of a COCO results file on a split, and print it."""
    from detector.data.open_data import open_data
    from detector.evaluating.evaluate import evaluate_split, evaluation_options
    from detector.evaluating.evaluate_results import evaluate_results
    from detector.evaluating.evaluation_data import choose_split, read_evaluation_split

    inputs = (Path(options.data), options.detections, options.weights and Path(options.weights))
    claim_file(options.json, overwrite=options.overwrite, inputs=(*inputs, options.results))
    claim_file(options.results, overwrite=options.overwrite, inputs=inputs)
    read = read_options(options)
    data_set = open_data(options.data, allow_outside=read.allow_outside, max_pixels=read.max_pixels)
    if options.detections is not None:
        name = choose_split(data_set, options.split)
        evaluation = evaluate_results(data_set, name, options.detections, options.max_det)
    else:
        model = load_detector(options)
        split = read_evaluation_split(data_set, options.split, model.info.image_hashes)
        log.info("%s", data_set.description)
        detect_options = evaluation_options(options.iou, options.suppression, options.agnostic_nms, options.max_det)
        evaluation = evaluate_split(model, split, detect_options)
    evaluation.write(options.json, options.results)
    console.print_average_precision(evaluation.ap)
    if options.weights is not None:
        console.print_line(f"next: detector detect IMAGES {given_flags(options, ['weights', 'imgsz'])}")
    return 0
