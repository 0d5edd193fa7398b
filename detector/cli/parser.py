"""The arguments of the command line: one function per verb. Torch is not needed to know them."""

import argparse
import typing
from pathlib import Path

import detector
from detector.config import Config
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, TILE_OVERLAP, RuntimeName

_Arguments: typing.TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"
_Verbs: typing.TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_WEIGHTS = "a .safetensors or .onnx file, an OpenVINO folder, or a shipped name: cells, scenes"

_RUNTIMES_OF_EXPORTS = tuple(name for name in typing.get_args(RuntimeName) if name != "torch")

_RUNTIME = "what computes: auto takes torch for .safetensors, OpenVINO or ONNX Runtime for an export"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; the chosen verb's name ends up in `verb`."""
    parser = argparse.ArgumentParser(prog="detector", description=detector.__doc__ and detector.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=detector.__version__)
    added = (_check, _train, _detect, _evaluate, _serve, _export, _verify, _compare, _summary)
    verbs = parser.add_subparsers(required=True, dest="verb", metavar=" | ".join(f.__name__[1:] for f in added))
    for add in added:
        add(verbs)
    return parser


def _check(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "check",
        help="find what is wrong before a long run",
        description="Check data, network and learning in about a minute. Exit status: 0 ok, 4 look, 5 stop.",
    )
    _data_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("check"), help="folder for images (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the findings to this file")
    _run_arguments(parser)


def _train(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "train", help="train on a data set", description="Train a detector, from scratch or from weights."
    )
    _data_argument(parser, required=False)
    parser.add_argument("--weights", help="begin with these: a .safetensors file, or a shipped name")
    parser.add_argument(
        "--reuse-backbone", action="store_true", help="with --weights of other classes: take all but the last layers"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a run that was cut short, to the same bits"
    )
    parser.add_argument(
        "--resume-anyway", action="store_true", help="also where data, versions, threads or machine are others"
    )
    parser.add_argument("--out", type=Path, help="folder for weights and results (default: a new one under runs/)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--allow-dropped",
        type=float,
        nargs="?",
        const=1.0,
        metavar="SHARE",
        help="largest share of boxes that may be dropped (default: 0.02; without a number: any)",
    )
    _run_arguments(parser)


def _detect(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "detect", help="find objects in images and videos", description="Find objects in images and videos."
    )
    parser.add_argument(
        "source",
        nargs="*",
        help="images, folders, globs, a .txt list of these, - (an image on standard input), videos, cameras (0, 1, "
        "...), streams (rtsp://...); `scenes` for images of the built-in set",
    )
    parser.add_argument("--source", dest="more_sources", nargs="+", default=[], metavar="SOURCE", help="the same")
    parser.add_argument("--weights", required=True, help=_WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("found"), help="folder for the results (default: found)")
    parser.add_argument("--recursive", action="store_true", help="also the images in subfolders")
    parser.add_argument("--allow-url", action="store_true", help="fetch images named by http:// and https://")
    _pixels_argument(parser)
    looking = parser.add_argument_group("how to look")
    looking.add_argument("--conf", type=_fraction, default=SCORE_THRESHOLD, help="lowest score (default: %(default)s)")
    looking.add_argument("--max-det", type=_count, default=MAX_DETECTIONS, help="most per image (default: %(default)s)")
    looking.add_argument("--classes", nargs="+", metavar="CLASS", help="find only these, by name or number")
    looking.add_argument(
        "--tile",
        type=_count,
        metavar="SIDE",
        help="also look at tiles with this long side in pixels, for small things in big images; raise --max-det too",
    )
    looking.add_argument(
        "--overlap", type=_fraction, default=TILE_OVERLAP, help="share tiles have in common (default: %(default)s)"
    )
    looking.add_argument("--mirror", action="store_true", help="also look at the mirrored image: dearer, a bit better")
    looking.add_argument("--every", type=_count, default=1, metavar="N", help="of a video, each Nth frame")
    looking.add_argument("--track", action="store_true", help="follow objects through a video: each gets a number")
    saving = parser.add_argument_group("what to write")
    saving.add_argument("--save-txt", action="store_true", help="YOLO text files too, in labels/")
    saving.add_argument("--save-json", action="store_true", help="a JSON file per image too, in json/")
    saving.add_argument("--save-crops", action="store_true", help="each object as an image too, in crops/CLASS/")
    saving.add_argument("--csv", action="store_true", help="detections.csv too")
    saving.add_argument("--no-images", action="store_true", help="no drawn images or videos")
    saving.add_argument("--skip-done", action="store_true", help="go on where a run into the same folder was stopped")
    _input_size_argument(parser)
    _answer_arguments(parser)


def _evaluate(verbs: _Verbs) -> None:
    parser = verbs.add_parser("evaluate", help="score on a split", description="Score with COCO's average precision.")
    _data_argument(parser)
    parser.add_argument("--split", help="which split (default: test, or the only one)")
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--weights", help=_WEIGHTS)
    subject.add_argument("--detections", type=Path, help="COCO results of any program, to score instead of weights")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--results", type=Path, help="write the detections to this file as COCO results")
    _input_size_argument(parser)
    _answer_arguments(parser)


def _serve(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "serve",
        help="a page and an HTTP interface on this machine",
        description="Serve a page to drop images on, and POST /detect for programs (described at /openapi.json).",
    )
    parser.add_argument("--weights", nargs="+", required=True, help=f"{_WEIGHTS}; several to choose from")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address; another one lets the network in (default: %(default)s)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="0: any that is free (default: %(default)s)")
    parser.add_argument("--max-megabytes", type=_count, default=20, help="largest upload (default: %(default)s)")
    _pixels_argument(parser, default="50")
    _machine_arguments(parser)


def _export(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "export",
        help="write a file that runs without torch",
        description="Write weights as an ONNX file or an OpenVINO folder, and certify that it answers alike.",
    )
    parser.add_argument("--weights", required=True, help="a .safetensors file, or a shipped name: cells, scenes")
    parser.add_argument("--out", type=Path, required=True, help="a file that ends in .onnx; for openvino a folder")
    parser.add_argument("--format", choices=("onnx", "openvino"), help="default: onnx if --out ends so, else openvino")
    parser.add_argument(
        "--int8",
        nargs="*",
        metavar="SOURCE",
        help="in eight-bit integers, ranges as seen on these images, or on the training images of --data",
    )
    parser.add_argument("--dynamic", action="store_true", help="for an input of any size")
    parser.add_argument(
        "--nms", choices=("in", "out"), default="out", help="suppression inside of the graph (default: outside)"
    )
    inside = parser.add_argument_group("fixed by --nms in")
    inside.add_argument("--conf", type=_fraction, help=f"lowest score (default: {SCORE_THRESHOLD})")
    inside.add_argument("--iou", type=_fraction, help=f"overlap that suppresses (default: {IOU_THRESHOLD})")
    inside.add_argument("--max-det", type=_count, help=f"most per image (default: {MAX_DETECTIONS})")
    proof = parser.add_argument_group("what the certificate compares")
    _data_argument(proof, required=False)
    proof.add_argument("--split", default="test", help="split of the data (default: %(default)s)")
    proof.add_argument(
        "--runtime", choices=_RUNTIMES_OF_EXPORTS, default="auto", help="what runs the export (default: auto)"
    )
    _input_size_argument(parser)


def _verify(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "verify",
        help="hold an export to its certificate",
        description="Run an export on built-in images and compare with what its weights answered, as its certificate "
        "says.",
    )
    parser.add_argument("export", type=Path, help="an .onnx file with its certificate beside it, or an OpenVINO folder")
    parser.add_argument("--runtime", choices=_RUNTIMES_OF_EXPORTS, default="auto", help="what computes (default: auto)")


def _compare(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "compare",
        help="try settings on your data",
        description="Train with the settings as configured and with each variation, several seeds each, and compare "
        "the AP on val. Goes on where it was stopped.",
    )
    _data_argument(parser)
    _setting_arguments(parser)
    parser.add_argument(
        "--settings",
        nargs="+",
        required=True,
        metavar="VARIATION",
        help="KEY=VALUE (several: quoted, with spaces), KEY={A,B} for a grid, KEY=A..B or KEY=log:A..B for random "
        "draws, or a file with one of these per line, such as configs/effects.txt",
    )
    parser.add_argument("--steps", type=_count, help="length of each run, unless the settings say it")
    parser.add_argument("--seeds", type=_count, default=3, help="runs of each variation (default: %(default)s)")
    parser.add_argument("--trials", type=_count, default=10, help="draws of a random variation (default: %(default)s)")
    parser.add_argument("--jobs", type=_count, default=1, help="runs at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder (default: %(default)s)")
    parser.add_argument("--keep-weights", action="store_true", help="do not remove the weights of the runs")


def _summary(verbs: _Verbs) -> None:
    parser = verbs.add_parser(
        "summary",
        help="print a network layer by layer",
        description="Print each layer's output, parameters, operations and receptive field.",
    )
    _setting_arguments(parser)
    parser.add_argument("--weights", help="describe these instead: a .safetensors file, or a shipped name")
    parser.add_argument("--classes", type=_count, default=20, help="number of classes (default: %(default)s)")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what describes a training run."""
    _setting_arguments(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="wall time from the command to saved weights (default: 10)")
    length.add_argument("--epochs", type=float, help="passes over the training images")
    parser.add_argument("--split", default="train", help="what to learn from; trainval: both (default: train)")
    parser.add_argument("--seed", type=int, help="seed of everything random (default: 0)")
    parser.add_argument("--batch", type=int, help="images per step (default: auto)")


def _input_size_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--imgsz", type=int, help="long side of the canvas in pixels (default: as trained)")


def _answer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides how a trained network is run and its boxes suppressed."""
    _machine_arguments(parser)
    parser.add_argument(
        "--iou", type=_fraction, default=IOU_THRESHOLD, help="overlap that suppresses (default: %(default)s)"
    )
    parser.add_argument(
        "--suppression",
        choices=typing.get_args(typing.get_type_hints(Config)["suppression"]),
        help="what becomes of boxes that overlap (default: as the weights' settings say, else classic)",
    )
    parser.add_argument(
        "--agnostic-nms",
        action=argparse.BooleanOptionalAction,
        help="boxes of different classes suppress each other (default: as the weights' settings say, else not)",
    )


def _machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what computes a trained network, and where."""
    parser.add_argument("--runtime", choices=typing.get_args(RuntimeName), default="auto", help=_RUNTIME)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")


def _data_argument(parser: _Arguments, required: bool = True) -> None:
    parser.add_argument(
        "--data",
        required=required,
        help="data.yaml, COCO JSON, a folder of a data set, or `scenes`; see datasets/README.md",
    )
    parser.add_argument(
        "--allow-outside", action="store_true", default=None, help="let its files lead to files outside of its folder"
    )
    _pixels_argument(parser)


def _pixels_argument(parser: _Arguments, default: str = "89") -> None:
    parser.add_argument(
        "--max-pixels", type=_count, help=f"largest image that is decoded (default: {default} million pixels)"
    )


def _setting_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML file of settings; see configs/README.md")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change any setting; repeatable"
    )
    parser.add_argument("--model", help="pico, nano, small or medium (default: nano)")
    parser.add_argument("--imgsz", type=int, help="long side of the canvas in pixels, divides by 32 (default: auto)")


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
