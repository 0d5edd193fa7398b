"""The argument parser of the command line, with one function per command. This module does not import PyTorch."""

import argparse
import typing
from pathlib import Path

import detector
from detector.cli.arguments import (
    add_allow_outside,
    add_backend,
    add_conf,
    add_data,
    add_input_size,
    add_iou,
    add_max_det,
    add_max_pixels,
    add_nms_variant,
    add_run,
    add_settings,
    add_val_fraction,
    count,
    fraction,
    path,
    port,
)
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, TILE_OVERLAP, VAL_FRACTION, RuntimeName

_Commands: typing.TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_WEIGHTS = "a .safetensors or .onnx file, a folder with an OpenVINO export, or shipped weights: cells, scenes"
_TRAINED = "a .safetensors file, or shipped weights: cells, scenes"
_EXPORT_RUNTIMES = tuple(name for name in typing.get_args(RuntimeName) if name != "torch")
_SERVER_MAX_PIXELS = 50_000_000


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the name of the command is stored as `command` in the parsed arguments."""
    parser = argparse.ArgumentParser(prog="detector", description=detector.__doc__ and detector.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=detector.__version__)
    functions = (_check, _train, _detect, _evaluate, _serve, _export, _verify, _compare, _summary, _convert, _split)
    commands = parser.add_subparsers(
        required=True, dest="command", metavar=" | ".join(function.__name__[1:] for function in functions)
    )
    for add in functions:
        add(commands)
    return parser


def _check(commands: _Commands) -> None:
    parser = commands.add_parser(
        "check",
        help="find problems before a long training run",
        description="Check data, network and training in about a minute. Exit status: 0: ok, 4: look, 5: stop.",
    )
    add_data(parser)
    parser.add_argument(
        "--out", type=path, default=Path("check"), help="folder for the images of the check (default: %(default)s)"
    )
    parser.add_argument("--json", type=path, help="also write the findings to this JSON file")
    add_run(parser)


def _train(commands: _Commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train on a data set",
        description="Train a detector, from random weights or from given weights.",
    )
    add_data(parser, required=False)
    parser.add_argument("--weights", help=f"initial weights: {_TRAINED} (default: random weights)")
    parser.add_argument(
        "--reuse-backbone",
        action="store_true",
        help="accept --weights with other classes than the data set, and use all but their last layers",
    )
    parser.add_argument(
        "--resume",
        type=path,
        metavar="RUN",
        help="output folder of an interrupted run: continue the run from its last checkpoint, with exactly the same "
        "result as an uninterrupted run",
    )
    parser.add_argument(
        "--resume-anyway",
        action="store_true",
        help="resume even if the data, a version, the number of threads, the device or the machine has changed",
    )
    parser.add_argument("--out", type=path, help="output folder (default: a new folder in runs/)")
    parser.add_argument("--device", help="device: cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--ignore-check",
        action="store_true",
        default=None,
        help="start the run although the check of the data says stop",
    )
    parser.add_argument(
        "--allow-dropped",
        type=float,
        nargs="?",
        const=1.0,
        metavar="FRACTION",
        help="largest fraction of the label boxes that may be dropped (default: 0.02; without a number: 1, that is, "
        "any number of boxes)",
    )
    add_run(parser)


def _detect(commands: _Commands) -> None:
    parser = commands.add_parser(
        "detect", help="detect objects in images and videos", description="Detect objects in images and videos."
    )
    parser.add_argument(
        "source",
        nargs="*",
        help="images, folders, glob patterns, a .txt file that lists these, - (an image on standard input), videos, "
        "cameras (0, 1, ...), streams (rtsp://...), or `scenes` (images of the built-in data set)",
    )
    parser.add_argument(
        "--source",
        dest="more_sources",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="the same as the positional argument",
    )
    parser.add_argument("--weights", required=True, help=_WEIGHTS)
    parser.add_argument("--out", type=path, default=Path("found"), help="folder for the results (default: %(default)s)")
    parser.add_argument("--recursive", action="store_true", help="also detect in the images of subfolders")
    parser.add_argument(
        "--allow-url", action="store_true", help="allow sources that are http:// or https:// URLs of images"
    )
    add_max_pixels(parser)
    detection = parser.add_argument_group("detection")
    add_conf(detection, SCORE_THRESHOLD)
    add_iou(detection, IOU_THRESHOLD)
    add_max_det(detection, MAX_DETECTIONS)
    detection.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="detect only these classes: names, or class ids from 0"
    )
    detection.add_argument(
        "--tile",
        type=count,
        metavar="PIXELS",
        help="also detect in overlapping tiles with this long side, to find small objects in large images; increase "
        "--max-det too",
    )
    detection.add_argument(
        "--overlap",
        type=fraction,
        default=TILE_OVERLAP,
        help="overlap of neighboring tiles, as a fraction of the tile size (default: %(default)s)",
    )
    detection.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation (TTA): also detect in the flipped image; twice the time, slightly higher AP",
    )
    add_nms_variant(detection)
    video = parser.add_argument_group("video")
    video.add_argument(
        "--every", type=count, default=1, metavar="N", help="detect in every Nth frame only (default: 1)"
    )
    video.add_argument("--track", action="store_true", help="track objects from frame to frame with ByteTrack")
    output = parser.add_argument_group("output")
    output.add_argument("--save-txt", action="store_true", help="also write a YOLO text file per image, in labels/")
    output.add_argument("--save-json", action="store_true", help="also write a JSON file per image, in json/")
    output.add_argument(
        "--save-crops", action="store_true", help="also write an image of each detected object, in crops/CLASS/"
    )
    output.add_argument("--csv", action="store_true", help="also write all detections to detections.csv")
    output.add_argument("--no-images", action="store_true", help="do not write annotated images or videos")
    output.add_argument(
        "--skip-done",
        action="store_true",
        help="skip images whose results are already in the output folder, to continue an interrupted run",
    )
    add_input_size(parser)
    add_backend(parser)


def _evaluate(commands: _Commands) -> None:
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
    subject.add_argument("--weights", help=_WEIGHTS)
    subject.add_argument(
        "--detections", type=path, help="evaluate a COCO results file of any program instead of weights"
    )
    parser.add_argument("--json", type=path, help="also write the AP to this JSON file")
    parser.add_argument("--results", type=path, help="also write the detections to this file, in COCO results format")
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


def _serve(commands: _Commands) -> None:
    parser = commands.add_parser(
        "serve",
        help="start a web page and an HTTP API",
        description="Serve a web page for uploading images, and an HTTP API: POST /detect (see /openapi.json).",
    )
    parser.add_argument(
        "--weights", nargs="+", required=True, help=f"{_WEIGHTS}; with several weights, each request can choose"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 127.0.0.1 is reachable from this machine only, 0.0.0.0 also from the network "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=port, default=8000, help="port to listen on; 0: any free port (default: %(default)s)"
    )
    parser.add_argument(
        "--max-megabytes", type=count, default=20, help="largest upload, in megabytes (default: %(default)s)"
    )
    add_max_pixels(parser, _SERVER_MAX_PIXELS)
    add_backend(parser)


def _export(commands: _Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="export weights to ONNX or OpenVINO",
        description="Export weights to an ONNX file or an OpenVINO folder, which run without PyTorch. Then compare the "
        "detections of the export with those of the weights, and write the differences to a certificate.",
    )
    parser.add_argument("--weights", required=True, help=_TRAINED)
    parser.add_argument(
        "--out", type=path, required=True, help="file name that ends in .onnx, or for OpenVINO the name of a folder"
    )
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino"),
        help="format of the export (default: onnx if --out ends in .onnx, else openvino)",
    )
    parser.add_argument(
        "--int8",
        nargs="*",
        metavar="SOURCE",
        help="quantize to int8 after training, calibrated on these images (default: the training images of --data)",
    )
    parser.add_argument("--dynamic", action="store_true", help="export a graph that accepts any input size")
    parser.add_argument(
        "--nms",
        choices=("in", "out"),
        default="out",
        help="in: the graph contains NMS; out: the program that runs the graph does NMS (default: %(default)s)",
    )
    inside = parser.add_argument_group("thresholds of the NMS in the graph, only with --nms in")
    add_conf(inside, None)
    add_iou(inside, None)
    add_max_det(inside, None)
    comparison = parser.add_argument_group("comparison for the certificate")
    add_data(comparison, required=False)
    comparison.add_argument("--split", help="split of --data (default: as for evaluate)")
    comparison.add_argument(
        "--runtime",
        choices=_EXPORT_RUNTIMES,
        default="auto",
        help="inference backend that runs the export (default: %(default)s)",
    )
    add_input_size(parser)


def _verify(commands: _Commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="check that an export gives the detections in its certificate",
        description="Run an export on the built-in images and compare its detections with those in its certificate. "
        "Works on any machine, without the weights.",
    )
    parser.add_argument("export", type=path, help="an .onnx file with its certificate beside it, or an OpenVINO folder")
    parser.add_argument(
        "--runtime",
        choices=_EXPORT_RUNTIMES,
        default="auto",
        help="inference backend that runs the export (default: %(default)s)",
    )


def _compare(commands: _Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare settings on your data",
        description="Train with the given settings (the baseline) and with each variation, with several seeds each, "
        "and compare the AP on val. An interrupted comparison continues where it stopped.",
    )
    add_data(parser)
    add_settings(parser)
    add_val_fraction(parser)
    parser.add_argument(
        "--settings",
        nargs="+",
        required=True,
        metavar="VARIATION",
        help="changed settings: KEY=VALUE, or several in quotes, separated by spaces; KEY={A,B} for a grid; KEY=A..B "
        "or KEY=log:A..B for random numbers; or a file with one variation per line, such as configs/effects.txt",
    )
    parser.add_argument(
        "--steps",
        type=count,
        help="number of steps of each run; required unless --set or --config sets steps or epochs",
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=3,
        help="number of runs per variation, each with another seed (default: %(default)s)",
    )
    parser.add_argument(
        "--trials",
        type=count,
        default=10,
        help="number of random draws per variation with a range (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=count, default=1, help="number of runs at the same time (default: %(default)s)")
    parser.add_argument(
        "--out", type=path, default=Path("runs/compare"), help="folder for the results (default: %(default)s)"
    )
    parser.add_argument(
        "--keep-weights", action="store_true", help="keep the weights of the runs (default: remove them)"
    )


def _split(commands: _Commands) -> None:
    parser = commands.add_parser(
        "split",
        help="divide a data set into train, val and test",
        description="Divide the training images of a data set, in any format, into train, val and test. Writes lists "
        "of the images and a data.yaml, which --data accepts. The images and labels stay where they are.",
    )
    parser.add_argument("data", help="data set, as for --data of other commands")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the lists and data.yaml")
    parser.add_argument(
        "--val-fraction",
        type=fraction,
        default=VAL_FRACTION,
        help="fraction of the training images for val, at most 0.33 (default: %(default)s)",
    )
    parser.add_argument(
        "--test-fraction",
        type=fraction,
        default=0.0,
        help="fraction of the training images for test, at most 0.33 (default: none)",
    )
    add_allow_outside(parser)
    add_max_pixels(parser)


def _summary(commands: _Commands) -> None:
    parser = commands.add_parser(
        "summary",
        help="print the layers of a network",
        description="Print the output shape, number of parameters, FLOPs and receptive field of each layer.",
    )
    add_settings(parser)
    parser.add_argument("--weights", help=f"print the network of these weights: {_TRAINED}")
    parser.add_argument(
        "--classes", type=count, default=20, help="number of classes, without --weights (default: %(default)s)"
    )


def _convert(commands: _Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert a data set to COCO JSON, YOLO or Pascal VOC",
        description="Convert a data set to another label format, read the result, and compare all its boxes with those "
        "of the source. The source is not changed.",
    )
    parser.add_argument("source", help="data set in any format that is read, or `scenes`; see docs/data.md")
    parser.add_argument("--to", choices=("coco", "yolo", "voc"), required=True, help="format to write")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the converted data set; it must not exist or be empty"
    )
    parser.add_argument(
        "--images",
        choices=("copy", "link", "none"),
        default="copy",
        help="copy: copy the images; link: create hard links to them, which needs no space but the same drive; none: "
        "only with --to coco: refer to the images of the source, which then needs --allow-outside (default: "
        "%(default)s)",
    )
    parser.add_argument("--split", nargs="+", metavar="NAME", help="convert only these splits (default: all)")
    add_allow_outside(parser)
    add_max_pixels(parser)
