"""Arguments that several commands share, and the types of their values. This module does not import PyTorch."""

import argparse
import typing
from pathlib import Path

from detector.cli.numbers import count, fraction, number, whole
from detector.errors import FileError
from detector.files import local_path
from detector.object_store import is_store_url
from detector.options import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    MAX_PIXELS,
    SCORE_THRESHOLD,
    VAL_FRACTION,
    RuntimeName,
    SuppressionName,
)

Arguments: typing.TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"
Commands: typing.TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

WEIGHTS = (
    "a .safetensors file, an export (.onnx or .tflite file, OpenVINO or ncnn folder), the URL of a file, or shipped "
    "weights: cells, everyday, scenes"
)
"""Help for an argument that takes any weights."""

SEVERAL_WEIGHTS = f"{WEIGHTS}; several: an ensemble, whose boxes are fused"
"""Help for an argument that takes any weights, also several."""

TRAINED = "a .safetensors file or its URL, or shipped weights: cells, everyday, scenes"
"""Help for an argument that takes weights as they were trained, no exported graph."""

EXPORT_RUNTIMES = tuple(name for name in typing.get_args(RuntimeName) if name != "torch")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `check` and `train` share: settings, length, split, seed and batch size."""
    add_settings(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=number,
        help="length of the run in minutes, from the start of the command to the saved weights (default: 10)",
    )
    length.add_argument("--epochs", type=number, help="length of the run in passes over the training images")
    parser.add_argument(
        "--split", help="split to train on; trainval: train and val (default: train, or the only split)"
    )
    add_val_fraction(parser)
    parser.add_argument("--seed", type=whole, help="random seed of the run (default: 0)")
    parser.add_argument("--batch", type=whole, help="batch size: number of images per step (default: auto)")


def add_initial_weights(parser: Arguments) -> None:
    """Add --weights and --reuse-backbone, for commands that only train."""
    parser.add_argument(
        "--weights",
        help=f"initial weights: {TRAINED}; none: random weights; auto: shipped weights that fit the network, with "
        "--reuse-backbone, else random weights (default: auto)",
    )
    parser.add_argument(
        "--reuse-backbone",
        action="store_true",
        help="accept --weights with other classes than the dataset, and use all but their outputs for classes",
    )


def add_init_weights(parser: Arguments) -> None:
    """Add --init-weights and --reuse-backbone, for commands whose --weights are not the initial weights of training."""
    parser.add_argument(
        "--init-weights",
        metavar="WEIGHTS",
        help=f"initial weights of each fold, as --weights of `train`: {TRAINED}; none; or auto (default: auto); they "
        "must not be trained on the images",
    )
    parser.add_argument(
        "--reuse-backbone",
        action="store_true",
        help="accept --init-weights with other classes than the dataset, and use all but their outputs for classes",
    )


def add_val_fraction(parser: argparse.ArgumentParser) -> None:
    """Add --val-fraction, for datasets without a val split."""
    parser.add_argument(
        "--val-fraction",
        type=number,
        metavar="FRACTION",
        help="without a val split: fraction of the training images that are held back for evaluation; 0: none "
        f"(default: {VAL_FRACTION})",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change settings: --config, --set, --model and --imgsz."""
    parser.add_argument("--config", type=path, help="YAML file with settings; see configs/README.md")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; may be repeated"
    )
    parser.add_argument("--model", help="size of the network: pico, nano, small or medium (default: nano)")
    parser.add_argument("--imgsz", type=whole, help="input size: long side in pixels, a multiple of 32 (default: auto)")


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add --quiet and --verbose."""
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("--quiet", action="store_true", help="print only results and errors")
    verbosity.add_argument(
        "--verbose", action="store_true", help="print also details, times, and the traceback of an unexpected error"
    )


_DATA = "dataset: a folder, a label file, a data.yaml, or `scenes` (built in); docs/data.md lists the formats"


def add_data(parser: Arguments, required: bool = True) -> None:
    """Add --data, and the arguments that say what a dataset may contain."""
    parser.add_argument("--data", required=required, help=_DATA)
    add_allow_outside(parser)
    add_max_pixels(parser)


def add_several_data(parser: Arguments, required: bool = True, use: str = "") -> None:
    """Add --data for one or several datasets, as a list, and the arguments that say what a dataset may contain.

    Args:
        parser: the parser of the command.
        required: whether --data must be given.
        use: what the command does with several datasets, for the help.
    """
    parser.add_argument("--data", required=required, nargs="+", action="extend", metavar="DATA", help=f"{_DATA}{use}")
    add_allow_outside(parser)
    add_max_pixels(parser)


def add_overwrite(parser: Arguments) -> None:
    """Add --overwrite."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files at the names of the output that this program did not write, or that were changed since",
    )


def add_allow_outside(parser: Arguments) -> None:
    """Add --allow-outside."""
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        default=None,
        help="allow links and paths in the dataset that lead to files outside its folder",
    )


def add_max_pixels(parser: Arguments, default: int = MAX_PIXELS) -> None:
    """Add --max-pixels; `default` is only shown in the help."""
    parser.add_argument(
        "--max-pixels",
        type=count,
        help=f"largest number of pixels of an image; larger images are errors (default: {default / 1e6:.0f} million)",
    )


def add_input_size(parser: argparse.ArgumentParser) -> None:
    """Add --imgsz for weights that were trained at another input size."""
    parser.add_argument(
        "--imgsz", type=whole, help="input size: long side in pixels, a multiple of 32 (default: as in training)"
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the arguments --runtime, --device and --threads, which select the inference backend and limit its threads."""
    parser.add_argument(
        "--runtime",
        choices=typing.get_args(RuntimeName),
        default="auto",
        help="inference backend (default: auto, which is torch for a .safetensors file, else OpenVINO or ONNX Runtime)",
    )
    parser.add_argument(
        "--device", default="auto", help="device: cpu, cuda, cuda:1, mps (default: a GPU if there is one)"
    )
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add --threads, the number of threads that compute."""
    parser.add_argument(
        "--threads",
        type=count,
        metavar="N",
        help="largest number of CPU threads that run the network (default: OMP_NUM_THREADS, or one per CPU core)",
    )


def add_conf(parser: Arguments, default: float | None, *, auto: bool = False) -> None:
    """Add --conf, the score threshold; with `auto`, it may be auto, the thresholds stored with the weights."""
    stored = "; auto: the thresholds that `detector evaluate --save` has stored with the weights" if auto else ""
    parser.add_argument(
        "--conf",
        type=_fraction_or_auto if auto else fraction,
        default=default,
        help=f"score threshold: lowest confidence score of a detection{stored} (default: {SCORE_THRESHOLD})",
    )


def _fraction_or_auto(text: str) -> float | typing.Literal["auto"]:
    """Return "auto", or the number in an argument if it is from 0 to 1, else raise ArgumentTypeError."""
    return "auto" if text == "auto" else fraction(text)


def add_iou(parser: Arguments, default: float | None) -> None:
    """Add --iou, the IoU threshold of NMS."""
    parser.add_argument("--iou", type=fraction, default=default, help=f"NMS IoU threshold (default: {IOU_THRESHOLD})")


def add_max_det(parser: Arguments, default: int | None) -> None:
    """Add --max-det, the largest number of detections per image."""
    parser.add_argument(
        "--max-det",
        type=count,
        default=default,
        help=f"largest number of detections per image (default: {MAX_DETECTIONS})",
    )


def add_nms_variant(parser: Arguments) -> None:
    """Add --suppression and --agnostic-nms; without them the settings of the weights apply."""
    parser.add_argument(
        "--suppression",
        choices=typing.get_args(SuppressionName),
        help="NMS variant (default: the setting of the weights)",
    )
    parser.add_argument(
        "--agnostic-nms",
        action=argparse.BooleanOptionalAction,
        help="let boxes of different classes suppress each other in NMS (default: the setting of the weights)",
    )


def path_or_url(text: str) -> Path | str:
    """Return the path in an argument, or the URL of a place where files can be written."""
    return text if is_store_url(text) else path(text)


def path(text: str) -> Path:
    """Return the path in an argument, or raise ArgumentTypeError if it is a URL."""
    try:
        return local_path(text)
    except FileError as error:  # argparse would replace the message of a FileError
        raise argparse.ArgumentTypeError(str(error)) from None
