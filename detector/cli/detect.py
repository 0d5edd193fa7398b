"""The command `detect`."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from detector.cli import console
from detector.cli.arguments import (
    WEIGHTS,
    Commands,
    add_backend,
    add_conf,
    add_input_size,
    add_iou,
    add_max_pixels,
    add_nms_variant,
    path,
)
from detector.cli.numbers import count, count_or_zero, fraction
from detector.cli.settings import read_options
from detector.errors import ConfigError, InputError
from detector.options import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    SCORE_THRESHOLD,
    TILE_OVERLAP,
    TILED_MAX_DETECTIONS,
    DetectOptions,
    DrawOptions,
)
from detector.wording import plural

if TYPE_CHECKING:
    from detector.detecting.formats import OutputFormat


log = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
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
    parser.add_argument("--weights", required=True, help=WEIGHTS)
    parser.add_argument("--out", type=path, default=Path("found"), help="folder for the results (default: %(default)s)")
    parser.add_argument("--recursive", action="store_true", help="also detect in the images of subfolders")
    parser.add_argument(
        "--allow-url", action="store_true", help="allow sources that are http:// or https:// URLs of images"
    )
    add_max_pixels(parser)
    detection = parser.add_argument_group("detection")
    add_conf(detection, SCORE_THRESHOLD)
    add_iou(detection, IOU_THRESHOLD)
    detection.add_argument(
        "--max-det",
        type=count,
        help="largest number of detections per image; if an image has more, the best are kept (default: "
        f"{MAX_DETECTIONS}, with --tile {TILED_MAX_DETECTIONS})",
    )
    detection.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="detect only these classes: names, or class ids from 0"
    )
    detection.add_argument(
        "--tile",
        type=count,
        metavar="PIXELS",
        help="also detect in overlapping tiles with this long side, to find small objects in large images",
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
    video.add_argument(
        "--reconnect",
        type=count_or_zero,
        default=3,
        metavar="N",
        help="open a camera or a stream that ended or stalls again, at most N times; 0: never (default: 3)",
    )
    video.add_argument("--track", action="store_true", help="track objects from frame to frame with ByteTrack")
    output = parser.add_argument_group("output")
    output.add_argument("--save-txt", action="store_true", help="also write a YOLO text file per image, in labels/")
    output.add_argument("--save-json", action="store_true", help="also write a JSON file per image, in json/")
    output.add_argument(
        "--save-crops", action="store_true", help="also write an image of each detected object, in crops/CLASS/"
    )
    output.add_argument("--csv", action="store_true", help="also write all detections to detections.csv")
    output.add_argument(
        "--counts", action="store_true", help="also write the number of objects per image and class to counts.csv"
    )
    output.add_argument("--no-images", action="store_true", help="do not write annotated images or videos")
    output.add_argument(
        "--hide-labels", action="store_true", help="draw only the boxes, without class names and scores"
    )
    output.add_argument(
        "--line-width",
        type=count,
        metavar="PIXELS",
        help="width of the drawn lines (default: chosen from the size of the image)",
    )
    output.add_argument(
        "--skip-done",
        action="store_true",
        help="skip images whose results are already in the output folder, to continue an interrupted run",
    )
    add_input_size(parser)
    add_backend(parser)


def run(options: argparse.Namespace) -> int:
    """Detect objects in images and videos, and write the results.

    Returns:
        0, 2 if all sources failed, or 3 if some failed or a stream broke, whose results are kept.
    """
    specs = [*options.source, *options.more_sources]
    if not specs and options.classes:
        raise ConfigError(
            "no image is given: --classes uses all arguments after it, so give the images before --classes"
        )
    from detector.detecting.detect_files import detect_images, detect_videos, find_inputs
    from detector.predict.detector import Detector

    detect_options = DetectOptions(
        score_threshold=options.conf,
        iou_threshold=options.iou,
        max_detections=options.max_det or (TILED_MAX_DETECTIONS if options.tile else MAX_DETECTIONS),
        classes=options.classes,
        suppression=options.suppression,
        class_agnostic=options.agnostic_nms,
        tile=options.tile,
        tile_overlap=options.overlap,
        tta=options.tta,
    )
    drawing = DrawOptions(labels=not options.hide_labels, line_width=options.line_width)
    sources, videos = find_inputs(specs, read_options(options))
    model = Detector.load(
        options.weights,
        device=options.device,
        runtime=options.runtime,
        input_size=options.imgsz,
        threads=options.threads,
    )
    _warn_about_options_without_effect(options, bool(videos))
    failed = broken = 0
    if sources:
        result = detect_images(
            model,
            sources,
            options.out,
            detect_options,
            weights=options.weights,
            formats=_formats(options),
            skip_done=options.skip_done,
            drawing=drawing,
        )
        console.print_detect_summary(result, options.out, options.conf)
        failed += result.failed
    summaries = detect_videos(
        model, videos, options.out, detect_options,
        every=options.every, track=options.track, save_video=not options.no_images, reconnect=options.reconnect,
        drawing=drawing,
    )  # fmt: skip
    for name, video in zip(videos, summaries, strict=True):
        if isinstance(video, InputError):
            failed += 1
        else:
            broken += video.is_broken
            objects, frames = plural(video.objects, "object"), plural(video.frames_detected, "frame")
            console.print_line(f"{name}: {objects} in {frames}; see {options.out}")
    if failed == len(sources) + len(videos):
        return 2
    return 3 if failed or broken else 0


def _formats(options: argparse.Namespace) -> "set[OutputFormat]":
    """Return the output formats that the flags select."""
    flags: dict[OutputFormat, bool] = {
        "images": not options.no_images,
        "txt": options.save_txt,
        "json": options.save_json,
        "crops": options.save_crops,
        "csv": options.csv,
        "counts": options.counts,
    }
    return {name for name, is_set in flags.items() if is_set}


def _warn_about_options_without_effect(options: argparse.Namespace, videos: bool) -> None:
    """Log a warning for each option that has no effect; `videos`: True if a video is among the inputs."""
    if videos and _formats(options) - {"images"}:
        log.warning(
            "--save-txt, --save-json, --save-crops, --csv and --counts work on images only; the objects of a video are "
            "written to a .jsonl file"
        )
    if not videos and (options.track or options.every > 1):
        log.warning("--track and --every work on videos only, and no video is given")
