"""The command `export`."""

import argparse
import typing
from shlex import quote

from detector.cli import console
from detector.cli.arguments import (
    EXPORT_RUNTIMES,
    TRAINED,
    Commands,
    add_conf,
    add_data,
    add_input_size,
    add_iou,
    add_max_det,
    add_overwrite,
    add_threads,
    path,
)
from detector.cli.settings import read_options
from detector.errors import ConfigError
from detector.graph.export_format import Format, format_of_name
from detector.options import DetectOptions

FORMATS = typing.get_args(Format)


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "export",
        help="export weights to ONNX, OpenVINO, ncnn, LiteRT or Core ML",
        description="Export weights to a format that runs without PyTorch: ONNX, OpenVINO, ncnn, LiteRT (TensorFlow "
        "Lite) or Core ML. Then compare the detections of the export with those of the weights, and write the "
        "differences to a certificate. Core ML packages cannot run here: only their structure is checked.",
    )
    parser.add_argument("--weights", required=True, help=TRAINED)
    parser.add_argument(
        "--out",
        type=path,
        required=True,
        help="a name that ends in .onnx, .tflite (LiteRT) or .mlpackage (Core ML), or the name of a folder for "
        "OpenVINO (_openvino) or ncnn (_ncnn)",
    )
    add_overwrite(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the export (default: from the end of the name of --out; a name without suffix is openvino)",
    )
    parser.add_argument(
        "--int8",
        nargs="*",
        metavar="SOURCE",
        help="quantize to int8 after training, calibrated on these images (default: the training images of --data)",
    )
    parser.add_argument(
        "--int8-full-range",
        action="store_true",
        help="with --int8: use all 8 bits of the weights; only for CPUs with VNNI and for ARM, others compute worse "
        "detections (default: 7 bits, for every CPU)",
    )
    parser.add_argument(
        "--fp16",
        action="store_true",
        help="store the weights in float16: half the size, and faster on devices that compute in float16",
    )
    parser.add_argument("--dynamic", action="store_true", help="export a graph that accepts any input size")
    parser.add_argument(
        "--nms",
        choices=("in", "out"),
        default="out",
        help="in: the graph contains NMS; out: the program that runs the graph does NMS (default: %(default)s)",
    )
    inside = parser.add_argument_group("thresholds of the NMS in the graph, only with --nms in")
    add_conf(inside, None, auto=True)
    add_iou(inside, None)
    add_max_det(inside, None)
    comparison = parser.add_argument_group("comparison for the certificate")
    add_data(comparison, required=False)
    comparison.add_argument("--split", help="split of --data (default: as for evaluate)")
    comparison.add_argument(
        "--runtime",
        choices=EXPORT_RUNTIMES,
        default="auto",
        help="inference backend that runs the export (default: %(default)s)",
    )
    add_input_size(parser)
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Export weights to a file or folder, and write a certificate."""
    from detector.exporting.export import export, training_images
    from detector.media.sources import find_sources

    thresholds = {"score_threshold": options.conf, "iou_threshold": options.iou, "max_detections": options.max_det}
    given = {name: value for name, value in thresholds.items() if value is not None}
    if given and options.nms == "out":
        raise ConfigError(
            "--conf, --iou and --max-det need --nms in, which fixes them in the graph; add --nms in, or set them in "
            "`detector detect`"
        )
    if options.int8 == [] and options.data is None:
        raise ConfigError("--int8: give images like those the detector will be used on, or give --data")
    read = read_options(options)
    images = find_sources(options.int8, read) if options.int8 else []
    calibration = None if options.int8 is None else images or training_images(options.data, read)
    result = export(
        options.weights,
        options.out,
        format=options.format or format_of_name(options.out),
        input_size=options.imgsz,
        int8_images=calibration,
        int8_full_range=options.int8_full_range,
        fp16=options.fp16,
        nms=DetectOptions(**given) if options.nms == "in" else None,
        dynamic=options.dynamic,
        data=options.data,
        split=options.split,
        runtime=options.runtime,
        threads=options.threads,
        certificate_images=images,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
        overwrite=options.overwrite,
    )
    data = "DATA" if options.data is None else quote(options.data)
    advice = console.int8_advice(data, quote(str(options.weights))) if options.int8 is not None else []
    console.print_export(result, advice)
    return 0
