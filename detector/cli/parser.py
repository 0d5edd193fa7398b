"""The argument parser of the command line: one function per command. Does not import torch."""

import argparse
import typing
from pathlib import Path

import detector
from detector.options import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    MAX_PIXELS,
    SCORE_THRESHOLD,
    TILE_OVERLAP,
    RuntimeName,
    SuppressionName,
)

_Arguments: typing.TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"
_Commands: typing.TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_WEIGHTS = "a .safetensors or .onnx file, a folder with an OpenVINO export, or shipped weights: cells, scenes"
_TRAINED = "a .safetensors file, or shipped weights: cells, scenes"
_EXPORT_RUNTIMES = tuple(name for name in typing.get_args(RuntimeName) if name != "torch")
_SERVER_MAX_PIXELS = 50_000_000


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; it stores the name of the command as `command`."""
    parser = argparse.ArgumentParser(prog="detector", description=detector.__doc__ and detector.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=detector.__version__)
    functions = (_check, _train, _detect, _evaluate, _serve, _export, _verify, _compare, _summary)
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
        description="Check data, network and training in about a minute. Exit status: 0 ok, 4 look, 5 stop.",
    )
    _add_data(parser)
    parser.add_argument("--out", type=Path, default=Path("check"), help="folder for images (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the findings to this file")
    _add_run(parser)


def _train(commands: _Commands) -> None:
    parser = commands.add_parser(
        "train", help="train on a data set", description="Train a detector, from scratch or from weights."
    )
    _add_data(parser, required=False)
    parser.add_argument("--weights", help=f"start from these weights: {_TRAINED}")
    parser.add_argument(
        "--reuse-backbone", action="store_true", help="with --weights of other classes: use all but the last layers"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="continue an interrupted run from its last checkpoint, bit-exactly"
    )
    parser.add_argument(
        "--resume-anyway", action="store_true", help="resume even if data, versions, threads or machine have changed"
    )
    parser.add_argument("--out", type=Path, help="output folder (default: a new one in runs/)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--allow-dropped",
        type=float,
        nargs="?",
        const=1.0,
        metavar="FRACTION",
        help="largest fraction of boxes that may be dropped (default: 0.02; without a number: any)",
    )
    _add_run(parser)


def _detect(commands: _Commands) -> None:
    parser = commands.add_parser(
        "detect", help="detect objects in images and videos", description="Detect objects in images and videos."
    )
    parser.add_argument(
        "source",
        nargs="*",
        help="images, folders, globs, a .txt list of these, - (an image on standard input), videos, cameras (0, 1, "
        "...), streams (rtsp://...); `scenes` for images of the built-in data set",
    )
    parser.add_argument(
        "--source", dest="more_sources", nargs="+", default=[], metavar="SOURCE", help="the same as an option"
    )
    parser.add_argument("--weights", required=True, help=_WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("found"), help="folder for the results (default: found)")
    parser.add_argument("--recursive", action="store_true", help="also take the images in subfolders")
    parser.add_argument("--allow-url", action="store_true", help="fetch images from http:// and https:// URLs")
    _add_max_pixels(parser)
    detection = parser.add_argument_group("detection")
    _add_conf(detection, SCORE_THRESHOLD)
    _add_iou(detection, IOU_THRESHOLD)
    _add_max_det(detection, MAX_DETECTIONS)
    detection.add_argument("--classes", nargs="+", metavar="CLASS", help="detect only these classes, by name or id")
    detection.add_argument(
        "--tile",
        type=_count,
        metavar="PIXELS",
        help="also run on tiles with this long side, to detect small objects in large images; raise --max-det too",
    )
    detection.add_argument(
        "--overlap",
        type=_fraction,
        default=TILE_OVERLAP,
        help="overlap of tiles, as a fraction of a tile (default: %(default)s)",
    )
    detection.add_argument(
        "--tta",
        action="store_true",
        help="flip test-time augmentation (TTA): twice the cost, slightly better AP",
    )
    _add_nms_variant(detection)
    video = parser.add_argument_group("video")
    video.add_argument("--every", type=_count, default=1, metavar="N", help="run on every Nth frame")
    video.add_argument("--track", action="store_true", help="track objects from frame to frame (ByteTrack)")
    output = parser.add_argument_group("output")
    output.add_argument("--save-txt", action="store_true", help="also write YOLO text files, in labels/")
    output.add_argument("--save-json", action="store_true", help="also write a JSON file per image, in json/")
    output.add_argument("--save-crops", action="store_true", help="also write each object as an image, in crops/CLASS/")
    output.add_argument("--csv", action="store_true", help="also write detections.csv")
    output.add_argument("--no-images", action="store_true", help="do not write annotated images or videos")
    output.add_argument("--skip-done", action="store_true", help="continue an interrupted run into the same folder")
    _add_input_size(parser)
    _add_backend(parser)


def _evaluate(commands: _Commands) -> None:
    parser = commands.add_parser(
        "evaluate", help="measure average precision", description="Measure COCO's average precision (AP) on a split."
    )
    _add_data(parser)
    parser.add_argument("--split", help="which split (default: test, or the only one)")
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--weights", help=_WEIGHTS)
    subject.add_argument("--detections", type=Path, help="a COCO results file of any program, instead of weights")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--results", type=Path, help="write the detections to this file, in COCO's results format")
    _add_input_size(parser)
    _add_backend(parser)
    _add_iou(parser, IOU_THRESHOLD)
    _add_nms_variant(parser)


def _serve(commands: _Commands) -> None:
    parser = commands.add_parser(
        "serve",
        help="start a web page and an HTTP API",
        description="Serve a web page for uploading images, and POST /detect for programs (see /openapi.json).",
    )
    parser.add_argument("--weights", nargs="+", required=True, help=f"{_WEIGHTS}; several to choose from")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; another one is reachable from the network (default: %(default)s)",
    )
    parser.add_argument("--port", type=_port, default=8000, help="0: any free port (default: %(default)s)")
    parser.add_argument("--max-megabytes", type=_count, default=20, help="largest upload (default: %(default)s)")
    _add_max_pixels(parser, _SERVER_MAX_PIXELS)
    _add_backend(parser)


def _export(commands: _Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="export weights to ONNX or OpenVINO",
        description="Export weights to an ONNX file or an OpenVINO folder that runs without torch, compare its "
        "detections with those of the weights, and write a certificate.",
    )
    parser.add_argument("--weights", required=True, help=_TRAINED)
    parser.add_argument("--out", type=Path, required=True, help="a file that ends in .onnx; for OpenVINO a folder")
    parser.add_argument(
        "--format", choices=("onnx", "openvino"), help="default: onnx if --out ends in .onnx, else openvino"
    )
    parser.add_argument(
        "--int8",
        nargs="*",
        metavar="SOURCE",
        help="post-training quantization to int8, calibrated on these images, or on the training images of --data",
    )
    parser.add_argument("--dynamic", action="store_true", help="accept any input size")
    parser.add_argument(
        "--nms", choices=("in", "out"), default="out", help="NMS inside the graph, or outside (default: out)"
    )
    inside = parser.add_argument_group("fixed in the graph by --nms in")
    _add_conf(inside, None)
    _add_iou(inside, None)
    _add_max_det(inside, None)
    comparison = parser.add_argument_group("what the certificate compares")
    _add_data(comparison, required=False)
    comparison.add_argument("--split", default="test", help="split of the data (default: %(default)s)")
    comparison.add_argument(
        "--runtime", choices=_EXPORT_RUNTIMES, default="auto", help="inference backend of the export (default: auto)"
    )
    _add_input_size(parser)


def _verify(commands: _Commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="check an export against its certificate",
        description="Run an export on built-in images and compare its detections with those in its certificate.",
    )
    parser.add_argument("export", type=Path, help="an .onnx file with its certificate beside it, or an OpenVINO folder")
    parser.add_argument("--runtime", choices=_EXPORT_RUNTIMES, default="auto", help="inference backend (default: auto)")


def _compare(commands: _Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare settings on your data",
        description="Train with the given settings and with each variation, with several seeds each, and compare the "
        "AP on val. An interrupted comparison continues where it stopped.",
    )
    _add_data(parser)
    _add_settings(parser)
    parser.add_argument(
        "--settings",
        nargs="+",
        required=True,
        metavar="VARIATION",
        help="KEY=VALUE (several: quoted, separated by spaces), KEY={A,B} for a grid, KEY=A..B or KEY=log:A..B for "
        "random values, or a file with one of these per line, such as configs/effects.txt",
    )
    parser.add_argument("--steps", type=_count, help="length of each run, unless the settings contain it")
    parser.add_argument("--seeds", type=_count, default=3, help="runs of each variation (default: %(default)s)")
    parser.add_argument("--trials", type=_count, default=10, help="draws of a random variation (default: %(default)s)")
    parser.add_argument("--jobs", type=_count, default=1, help="runs at the same time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder (default: %(default)s)")
    parser.add_argument("--keep-weights", action="store_true", help="keep the weights of the runs")


def _summary(commands: _Commands) -> None:
    parser = commands.add_parser(
        "summary",
        help="print the layers of a network",
        description="Print the output shape, parameters, FLOPs and receptive field of each layer.",
    )
    _add_settings(parser)
    parser.add_argument("--weights", help=f"describe this network instead: {_TRAINED}")
    parser.add_argument("--classes", type=_count, default=20, help="number of classes (default: %(default)s)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a training run."""
    _add_settings(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="wall time from the command to saved weights (default: 10)")
    length.add_argument("--epochs", type=float, help="passes over the training images")
    parser.add_argument("--split", default="train", help="the split to train on; trainval: both (default: train)")
    parser.add_argument("--seed", type=int, help="seed of everything random (default: 0)")
    parser.add_argument("--batch", type=int, help="batch size: images per step (default: auto)")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML file of settings; see configs/README.md")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change any setting; repeatable"
    )
    parser.add_argument("--model", help="pico, nano, small or medium (default: nano)")
    parser.add_argument("--imgsz", type=int, help="input size: long side in pixels, a multiple of 32 (default: auto)")


def _add_data(parser: _Arguments, required: bool = True) -> None:
    parser.add_argument(
        "--data",
        required=required,
        help="data.yaml, COCO JSON, the folder of a data set, or `scenes`; see datasets/README.md",
    )
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        default=None,
        help="allow the files of the data set to lead to files outside its folder",
    )
    _add_max_pixels(parser)


def _add_max_pixels(parser: _Arguments, default: int = MAX_PIXELS) -> None:
    parser.add_argument(
        "--max-pixels",
        type=_count,
        help=f"largest image that is decoded (default: {default / 1e6:.0f} million pixels)",
    )


def _add_input_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--imgsz", type=int, help="input size: long side in pixels (default: as trained)")


def _add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the inference backend."""
    parser.add_argument(
        "--runtime",
        choices=typing.get_args(RuntimeName),
        default="auto",
        help="inference backend: auto takes torch for .safetensors, OpenVINO or ONNX Runtime for an export",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")


def _add_conf(parser: _Arguments, default: float | None) -> None:
    parser.add_argument(
        "--conf", type=_fraction, default=default, help=f"lowest confidence score (default: {SCORE_THRESHOLD})"
    )


def _add_iou(parser: _Arguments, default: float | None) -> None:
    parser.add_argument("--iou", type=_fraction, default=default, help=f"NMS IoU threshold (default: {IOU_THRESHOLD})")


def _add_max_det(parser: _Arguments, default: int | None) -> None:
    parser.add_argument(
        "--max-det", type=_count, default=default, help=f"largest number per image (default: {MAX_DETECTIONS})"
    )


def _add_nms_variant(parser: _Arguments) -> None:
    parser.add_argument(
        "--suppression",
        choices=typing.get_args(SuppressionName),
        help="NMS variant (default: as in the settings of the weights, else classic)",
    )
    parser.add_argument(
        "--agnostic-nms",
        action=argparse.BooleanOptionalAction,
        help="boxes of different classes suppress each other (default: as in the settings of the weights, else not)",
    )


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value
