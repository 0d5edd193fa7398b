"""The command `detect`."""

import argparse
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from detector.cli import console
from detector.cli.arguments import (
    SEVERAL_WEIGHTS,
    Commands,
    add_allow_outside,
    add_backend,
    add_conf,
    add_input_size,
    add_iou,
    add_max_pixels,
    add_nms_variant,
    add_overwrite,
    path_or_url,
)
from detector.cli.numbers import count, count_or_zero, fraction, shard
from detector.cli.settings import are_weights, load_detector, one_or_several, read_options
from detector.errors import ConfigError, InputError
from detector.files import local_path
from detector.mirror import is_at_url
from detector.options import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    SCORE_THRESHOLD,
    TILE_OVERLAP,
    TILED_MAX_DETECTIONS,
    DetectOptions,
    DrawOptions,
    Shard,
)
from detector.output_folder import OutputFolder, claim_folder, next_free
from detector.remote_folder import output_place
from detector.wording import plural

if TYPE_CHECKING:
    from detector.detecting.formats import OutputFormat
    from detector.detecting.ray_engine import RayCluster
    from detector.detecting.shards import ShardInputs
    from detector.media.sources import Source
    from detector.predict.detector import Detector


log = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "detect", help="detect objects in images and videos", description="Detect objects in images and videos."
    )
    parser.add_argument(
        "source",
        nargs="*",
        help="images, folders, glob patterns, a .txt file that lists these, - (an image on standard input), Parquet "
        "files and tar archives (WebDataset) with images, videos, cameras (0, 1, ...), streams (rtsp://...), or "
        "`scenes` (images of the built-in dataset)",
    )
    parser.add_argument(
        "--source",
        dest="more_sources",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="the same as the positional argument",
    )
    parser.add_argument("--weights", required=True, nargs="+", action="append", help=SEVERAL_WEIGHTS)
    parser.add_argument(
        "--out", type=path_or_url, help="folder for the results, or its URL (default: found, found-2, ...)"
    )
    add_overwrite(parser)
    parser.add_argument("--recursive", action="store_true", help="also detect in the images of subfolders")
    parser.add_argument(
        "--allow-url", action="store_true", help="allow sources that are http:// or https:// URLs of images"
    )
    add_max_pixels(parser)
    _add_packed_files(parser)
    _add_detection(parser)
    _add_video(parser)
    _add_output(parser)
    _add_cluster(parser)
    add_input_size(parser)
    add_backend(parser)


def _add_packed_files(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for Parquet files and tar archives with images."""
    packed = parser.add_argument_group("Parquet files and tar archives")
    packed.add_argument(
        "--image-column",
        metavar="NAME",
        help="Parquet: the column with the images, as bytes of image files or structs with these in the field `bytes` "
        "(default: the only such column, or `image`); tar: the extension of the images, or a pattern such as '*png' "
        "(default: all extensions of images)",
    )
    packed.add_argument(
        "--name-column",
        metavar="NAME",
        help="Parquet: the column with the names of the images (default: a column with a usual name such as file_name, "
        "the field `path` of the images, or the numbers of the rows)",
    )


def _add_detection(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change what is detected: thresholds, NMS, classes, tiles and TTA."""
    detection = parser.add_argument_group("detection")
    add_conf(detection, SCORE_THRESHOLD, auto=True)
    detection.add_argument(
        "--calibrated",
        action="store_true",
        help="give probabilities of being correct instead of scores, with the map of `detector evaluate --calibrate "
        "--save`; --conf stays a threshold of scores",
    )
    add_iou(detection, IOU_THRESHOLD)
    detection.add_argument(
        "--max-det",
        type=count,
        help="largest number of detections per image; if an image has more, the best are kept (default: "
        f"{MAX_DETECTIONS}, with --tile {TILED_MAX_DETECTIONS})",
    )
    detection.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="detect only these classes: names, or class ids from 0; all: all classes, also those that weights such as "
        "`everyday` do not detect by default",
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


def _add_video(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for videos, cameras and streams."""
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


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the files to write, for the drawing, and for a run in several parts."""
    output = parser.add_argument_group("output")
    output.add_argument("--save-txt", action="store_true", help="also write a YOLO text file per image, in labels/")
    output.add_argument(
        "--save-conf", action="store_true", help="with --save-txt: also write the score, as the last column"
    )
    output.add_argument("--save-json", action="store_true", help="also write a JSON file per image, in json/")
    output.add_argument(
        "--save-crops", action="store_true", help="also write an image of each detected object, in crops/CLASS/"
    )
    output.add_argument("--csv", action="store_true", help="also write all detections to detections.csv")
    output.add_argument(
        "--counts", action="store_true", help="also write the number of objects per image and class to counts.csv"
    )
    output.add_argument(
        "--parquet",
        action="store_true",
        help="also write all detections to detections.parquet, with one row per image (needs the extra `parquet`)",
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
        help="skip images whose results are already in the folder --out, if their files have not changed since, to "
        "continue an interrupted run",
    )
    output.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="detect in part I of N of the images only, I from 0, and write to the folder shard-I-of-N in --out; "
        "`detector gather` joins the results of all parts",
    )
    output.add_argument(
        "--data",
        help="dataset that contains the images: write its ids of images and classes to detections.json, so that it "
        "matches the ground truth (default: images are numbered 1, 2, ...)",
    )
    add_allow_outside(output)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for detection on a Ray cluster."""
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help="ray: detect on a Ray cluster (needs the extra `ray`; images only, with --no-images and --out); plain: in "
        "this process (default)",
    )
    cluster.add_argument(
        "--address",
        help="with --engine ray: auto: the cluster of RAY_ADDRESS or of this machine; HOST:PORT; local: start Ray on "
        "this machine (default)",
    )


def run(options: argparse.Namespace) -> int:
    """Detect objects in images and videos, and write the results.

    Returns:
        0, 2 if all sources failed, or 3 if some failed or a stream broke, whose results are kept.
    """
    # As for other flags, the last --weights counts; images after any of them count too.
    given = [_weights_and_sources(values) for values in options.weights]
    images = [image for _, own_images in given for image in own_images]
    options.weights = one_or_several(given[-1][0])
    specs = [*options.source, *images, *options.more_sources]
    if not specs and options.classes:
        raise ConfigError(
            "no image is given: --classes uses all arguments after it, so give the images before --classes"
        )
    if options.save_conf and not options.save_txt:
        raise ConfigError("--save-conf adds the scores to the text files of --save-txt; add --save-txt")
    from detector.detecting.detect_files import claim_videos, find_inputs
    from detector.detecting.gather import gather
    from detector.detecting.shards import shard_folder, take_shard

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
        calibrated=options.calibrated,
    )
    sources, videos = find_inputs(specs, read_options(options))
    _check_engine(options)
    if options.engine == "ray":  # the results arrive in any order, as a single shard, and `gather` sorts them
        options.shard = Shard(0, 1)
        options.threads = options.threads or 1
    if options.shard is not None:
        _check_can_be_sharded(options, specs, sources, videos)
    out = options.out or _new_folder(options.skip_done)
    part = None
    if options.shard is not None:
        part, out = take_shard(sources, options.shard, detect_options.batch_size), shard_folder(out, options.shard)
    with (
        output_place(out, resume=options.skip_done, overwrite=options.overwrite) as place,
        claim_folder(place, "writing detections", overwrite=options.overwrite) as folder,
    ):
        claim_videos(videos, folder, save_video=not options.no_images)
        if options.skip_done:
            folder.keep_earlier()  # else the first video would remove the results of the images
        model = load_detector(options)
        _warn_about_options_without_effect(options, bool(videos))
        if options.classes is None and (shown := model.info.default_classes) is not None:
            log.info(f"detecting {len(shown)} of {len(model.class_names)} classes; for all: --classes all")
        failed = _detect_in_images(model, sources, part, folder, detect_options, options) if sources else 0
        failed_videos, broken = _detect_in_videos(model, videos, folder, detect_options, options) if videos else (0, 0)
        failed += failed_videos
    if options.engine == "ray":
        gather([out], options.out, formats=_formats(options), overwrite=options.overwrite)
    if part is None and failed == len(sources) + len(videos):
        return 2
    return 3 if failed or broken else 0


def _weights_and_sources(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the values of --weights into weights and images, as in `--weights mine.safetensors image.jpg`.

    The first value is always weights. Another one is weights if it is a .safetensors, .onnx or .tflite file, the folder
    of an OpenVINO or ncnn export, or the name of shipped weights and no file or folder has this name.
    """
    weights = [values[0]]
    sources: list[str] = []
    for value in values[1:]:
        (weights if are_weights(value) else sources).append(value)
    return weights, sources


def _detect_in_images(
    model: "Detector",
    sources: "Sequence[Source]",
    part: "ShardInputs | None",
    folder: OutputFolder,
    detect_options: DetectOptions,
    options: argparse.Namespace,
) -> int:
    """Detect objects in images, print a summary, and return the number of images that cannot be read.

    Args:
        model: the detector.
        sources: all images, whose ids are searched in --data.
        part: the shard of these images to detect in; None: all.
        folder: the output folder.
        detect_options: thresholds, NMS, tiling and batch size.
        options: the arguments.
    """
    from detector.detecting.data_ids import coco_file_beside, read_ids
    from detector.detecting.detect_files import detect_images

    ids = read_ids(options.data, sources, read_options(options)) if options.data else None
    if part is not None:
        sources = part.sources
    with _cluster(options, model) as cluster:
        result = detect_images(
            model,
            sources,
            folder,
            detect_options,
            weights=options.weights,
            formats=_formats(options),
            skip_done=options.skip_done,
            ids=ids,
            drawing=_drawing(options),
            shard=part,
            cluster=cluster,
        )
    written = options.out if options.engine == "ray" else folder.path
    console.print_detect_summary(result, written, None if options.conf == "auto" else options.conf)
    if ids is None and result.objects and (coco_file := coco_file_beside(sources)) is not None:
        log.info(
            "detections.json numbers the images 1, 2, ...; to write the image ids of a dataset such as %s, add --data",
            coco_file,
        )
    return result.failed


def _detect_in_videos(
    model: "Detector",
    videos: Sequence[str],
    folder: OutputFolder,
    detect_options: DetectOptions,
    options: argparse.Namespace,
) -> tuple[int, int]:
    """Detect objects in videos, print a summary of each, and return the numbers of failed videos and broken streams."""
    from detector.detecting.detect_files import detect_videos

    summaries = detect_videos(
        model, videos, folder, detect_options,
        every=options.every, track=options.track, save_video=not options.no_images, reconnect=options.reconnect,
        drawing=_drawing(options),
    )  # fmt: skip
    failed = broken = 0
    for name, video in zip(videos, summaries, strict=True):
        if isinstance(video, InputError):
            failed += 1
        else:
            broken += video.is_broken
            objects, frames = plural(video.objects, "object"), plural(video.frames_detected, "frame")
            console.print_line(f"{name}: {objects} in {frames}; see {folder.path}")
    return failed, broken


def _cluster(options: argparse.Namespace, model: "Detector") -> "AbstractContextManager[RayCluster | None]":
    """Return the Ray cluster that detects, or None if this process does, as a context manager."""
    if options.engine == "plain":
        return nullcontext()
    from detector.detecting.ray_engine import RayCluster
    from detector.runtime.hardware import choose_device

    uses_gpu = "torch" in model.runtime_name and choose_device(options.device).type == "cuda"
    return RayCluster(options.address or "local", threads=options.threads, uses_gpu=uses_gpu)


def _check_engine(options: argparse.Namespace) -> None:
    """Raise ConfigError if an option cannot be used with the engine."""
    if options.engine == "plain" and options.address is not None:
        raise ConfigError("--address is the address of a Ray cluster; add --engine ray")
    if options.engine == "ray" and options.shard is not None:
        raise ConfigError(
            "--shard divides the images between processes, which --engine ray does itself; use one of them"
        )
    if options.engine == "ray" and (pixels := _formats(options) & {"images", "crops"}):
        flag = "leave out --save-crops" if pixels == {"crops"} else "add --no-images"
        raise ConfigError(f"--engine ray writes detections only, no images; {flag}")


def _check_can_be_sharded(
    options: argparse.Namespace, specs: Sequence[str], sources: "Sequence[Source]", videos: Sequence[str]
) -> None:
    """Raise InputError if --shard cannot be used: --out is missing, or an input is no image that can be listed."""
    from detector.detecting.shards import check_outside

    if options.out is None:
        raise ConfigError("--shard and --engine ray need --out: the same folder in each command, such as --out found")
    local_path(options.out)
    if options.engine == "ray" and any(is_at_url(source.name) for source in sources):
        raise ConfigError("--engine ray does not read images at URLs; use --shard, or a path that all machines have")
    if "-" in specs:
        raise ConfigError("--shard and --engine ray: an image on standard input cannot be divided; pass a file")
    if videos:
        raise ConfigError(
            f"{videos[0]}: --shard and --engine ray divide a list of images, and this is a video or stream; pass it to "
            "`detector detect` without them"
        )
    check_outside(sources, options.out)


def _new_folder(skip_done: bool) -> Path:
    """Return the name of a new folder for the results.

    Raises:
        ConfigError: `skip_done` is True, and the new folder contains no run that could be continued.
    """
    if skip_done:
        raise ConfigError("--skip-done needs --out: the folder of the run to continue, such as --out found")
    return next_free(Path("found"))


def _formats(options: argparse.Namespace) -> "set[OutputFormat]":
    """Return the output formats that the flags select."""
    flags: dict[OutputFormat, bool] = {
        "images": not options.no_images,
        "txt": options.save_txt,
        "conf": options.save_conf,
        "json": options.save_json,
        "crops": options.save_crops,
        "csv": options.csv,
        "counts": options.counts,
        "parquet": options.parquet,
    }
    return {name for name, is_set in flags.items() if is_set}


def _warn_about_options_without_effect(options: argparse.Namespace, videos: bool) -> None:
    """Log a warning for each option that has no effect; `videos`: True if a video is among the inputs."""
    if videos and _formats(options) - {"images"}:
        log.warning(
            "--save-txt, --save-json, --save-crops, --csv, --counts and --parquet work on images only; the objects of "
            "a video are written to a .jsonl file"
        )
    if not videos and (options.track or options.every > 1):
        log.warning("--track and --every work on videos only, and no video is given")


def _drawing(options: argparse.Namespace) -> DrawOptions:
    """Return the options for drawing in the arguments."""
    return DrawOptions(labels=not options.hide_labels, line_width=options.line_width)
