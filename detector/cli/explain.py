"""The command `explain`."""

import argparse
from pathlib import Path

from detector.cli import console
from detector.cli.arguments import (
    WEIGHTS,
    Commands,
    add_backend,
    add_conf,
    add_data,
    add_input_size,
    add_iou,
    add_max_det,
    add_nms_variant,
    add_overwrite,
    path,
)
from detector.cli.numbers import fraction
from detector.cli.settings import one_set_of_weights, read_options
from detector.options import IOU_THRESHOLD, MATCH_IOU, MAX_DETECTIONS, SCORE_THRESHOLD
from detector.output_folder import next_free


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "explain",
        help="explain missed objects and false positives",
        description="Explain why the objects of labeled images were missed, and why false positives were detected.",
    )
    parser.add_argument(
        "images", nargs="*", help="labeled images, folders or glob patterns (default: all images of the split)"
    )
    add_data(parser, required=False)
    parser.add_argument(
        "--truth", type=path, help="label file with the objects of the images, in any format (default: those of --data)"
    )
    parser.add_argument(
        "--split",
        help="split of the images (default: images are searched in all splits; without images, as for `evaluate`)",
    )
    parser.add_argument("--weights", required=True, help=WEIGHTS)
    parser.add_argument("--out", type=path, help="output folder (default: explained, explained-2, ...)")
    add_overwrite(parser)
    add_conf(parser, SCORE_THRESHOLD)
    add_iou(parser, IOU_THRESHOLD)
    add_max_det(parser, MAX_DETECTIONS)
    add_nms_variant(parser)
    parser.add_argument(
        "--match-iou",
        type=fraction,
        default=MATCH_IOU,
        metavar="IOU",
        help="IoU from which a detection finds an object (default: %(default)s)",
    )
    add_input_size(parser)
    add_backend(parser)


def run(options: argparse.Namespace) -> int:
    """Explain missed objects and false positives; return 0, or 3 if some images could not be read."""
    one_set_of_weights("explain", options.weights, options.images)
    from detector.explaining.explain import explain

    read = read_options(options)
    out = options.out or next_free(Path("explained"))
    explanation = explain(
        options.images,
        options.weights,
        data=options.data,
        truth=options.truth,
        split=options.split,
        out=out,
        overwrite=options.overwrite,
        score_threshold=options.conf,
        iou_threshold=options.iou,
        max_detections=options.max_det,
        suppression=options.suppression,
        class_agnostic=options.agnostic_nms,
        min_iou=options.match_iou,
        device=options.device,
        runtime=options.runtime,
        input_size=options.imgsz,
        threads=options.threads,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
    )
    console.print_explanation(explanation, out)
    return 3 if explanation.failed else 0
