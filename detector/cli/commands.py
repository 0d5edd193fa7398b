"""The commands. Each is a short function that calls the package, prints the result, and returns the exit status.

Exit status: 0: success; 2: an error the user can fix (one message, no traceback); 3: some of several images failed; 4
and 5: the verdicts "look" and "stop" of `check`. PyTorch is imported only by the commands that need it.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from detector.cli import console
from detector.cli.parser import make_parser
from detector.config import Config, override, parse_value, read_config
from detector.errors import ConfigError, InputError
from detector.options import MAX_PIXELS, DetectOptions, ReadOptions
from detector.wording import plural

if TYPE_CHECKING:
    from detector.detecting.formats import OutputFormat

log = logging.getLogger(__name__)

_STARTED = time.monotonic()
"""Start of the process. A length of a training run in minutes includes the time since this moment."""

_SETTING_FLAGS = (
    "allow_outside", "max_pixels", "model", "batch", "seed", "device", "allow_dropped", "ignore_check", "minutes",
    "epochs", "val_fraction",
)  # fmt: skip
"""Flags with the same name as a setting."""

_EXIT_STATUS = {"ok": 0, "look": 4, "stop": 5}
"""Verdict of `check` → exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line; return the exit status of the process.

    Args:
        arguments: arguments after the name of the program; None: those of this process.
    """
    options = make_parser().parse_args(arguments)
    console.set_up_console()
    try:
        return _COMMANDS[options.command](options)
    except InputError as error:
        console.print_error(error)
        return 2
    except BrokenPipeError:  # the program that reads the output has closed it, as `head` does
        sys.stdout = None  # nothing is left to flush at exit
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def train(options: argparse.Namespace) -> int:
    """Train a detector, or resume a run."""
    if options.resume is not None:
        return _resume(options)
    if options.data is None:
        raise ConfigError("train: give --data to start a run, or --resume with the output folder of a run")
    config = settings(options)  # before torch is imported, so that an invalid setting is reported at once
    from detector.training.train import make_request, start_run

    request = make_request(
        options.data, config, split=options.split, weights=options.weights, reuse_backbone=options.reuse_backbone
    )
    start_run(request, options.out or _next_free(Path("runs/train")), _STARTED)
    return 0


def _resume(options: argparse.Namespace) -> int:
    """Resume a run; raise ConfigError if another option than --resume and --resume-anyway is given."""
    own = {"command", "resume", "resume_anyway"}
    other = [key for key, value in vars(options).items() if key not in own and value not in (None, [], "train", False)]
    if other:
        weights = quote(str(options.resume / "weights" / "last.safetensors"))
        raise ConfigError(
            f"--resume uses all settings of the run; leave out --{other[0].replace('_', '-')}. To train longer or with "
            f"other settings, start a new run from its weights: detector train --data ... --weights {weights}"
        )
    from detector.training.train import resume_run

    resume_run(options.resume, options.resume_anyway, _STARTED)
    return 0


def check(options: argparse.Namespace) -> int:
    """Check data, network and training before a long run; return 0 for ok, 4 for look, 5 for stop."""
    config = settings(options)
    from detector.checking.check import check as run
    from detector.files import write_json

    report = run(options.data, config, out=options.out, split=options.split, report=print)
    print(f"{report.verdict}: {len(report.findings)} checks in {report.seconds:.0f} s")
    if options.json:
        write_json(options.json, report.to_json())
    return _EXIT_STATUS[report.verdict]


def summary(options: argparse.Namespace) -> int:
    """Print a table of the layers of a network."""
    config = settings(options)
    from detector.describing.describe import describe

    for line in describe(config, options.weights, options.classes):
        print(line)
    return 0


def compare(options: argparse.Namespace) -> int:
    """Train with each of several settings, and print a table that compares their AP."""
    base = override(settings(options), [f"steps={options.steps}"] if options.steps else [])
    from detector.comparing.compare import compare as run
    from detector.comparing.table import to_text

    rows = run(
        options.data,
        options.settings,
        base,
        out=options.out,
        seeds=options.seeds,
        trials=options.trials,
        jobs=options.jobs,
        keep_weights=options.keep_weights,
    )
    print(to_text(rows))
    return 0


def detect(options: argparse.Namespace) -> int:
    """Detect objects in images and videos, and write the results; return 2 if all sources failed, 3 if some failed."""
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
        max_detections=options.max_det,
        classes=options.classes,
        suppression=options.suppression,
        class_agnostic=options.agnostic_nms,
        tile=options.tile,
        tile_overlap=options.overlap,
        tta=options.tta,
    )
    sources, videos = find_inputs(specs, _read_options(options))
    model = Detector.load(options.weights, device=options.device, runtime=options.runtime, input_size=options.imgsz)
    _warn_about_options_without_effect(options, bool(videos))
    failed = 0
    if sources:
        result = detect_images(
            model,
            sources,
            options.out,
            detect_options,
            weights=options.weights,
            formats=_formats(options),
            skip_done=options.skip_done,
        )
        console.print_detect_summary(result, options.out)
        failed += result.failed
    summaries = detect_videos(
        model, videos, options.out, detect_options,
        every=options.every, track=options.track, save_video=not options.no_images,
    )  # fmt: skip
    for name, video in zip(videos, summaries, strict=True):
        if isinstance(video, InputError):
            failed += 1
        else:
            objects, frames = plural(video.objects, "object"), plural(video.frames_detected, "frame")
            print(f"{name}: {objects} in {frames}; see {options.out}")
    return (2 if failed == len(sources) + len(videos) else 3) if failed else 0


def _formats(options: argparse.Namespace) -> "set[OutputFormat]":
    """Return the output formats that the flags select."""
    flags: dict[OutputFormat, bool] = {
        "images": not options.no_images,
        "txt": options.save_txt,
        "json": options.save_json,
        "crops": options.save_crops,
        "csv": options.csv,
    }
    return {name for name, is_set in flags.items() if is_set}


def _warn_about_options_without_effect(options: argparse.Namespace, videos: bool) -> None:
    """Log a warning for each option that has no effect; `videos`: True if a video is among the inputs."""
    if videos and _formats(options) - {"images"}:
        log.warning(
            "--save-txt, --save-json, --save-crops and --csv work on images only; the objects of a video are written "
            "to a .jsonl file"
        )
    if not videos and (options.track or options.every > 1):
        log.warning("--track and --every work on videos only, and no video is given")


def evaluate(options: argparse.Namespace) -> int:
    """Measure the average precision of weights or of a COCO results file on a split, and print it."""
    from detector.data.open_data import open_data
    from detector.evaluating.evaluate import evaluate_split, evaluation_options
    from detector.evaluating.evaluate_results import evaluate_results
    from detector.evaluating.evaluation_data import choose_split, read_evaluation_split
    from detector.files import check_writable
    from detector.predict.detector import Detector

    for path in (options.json, options.results):
        check_writable(path)
    read = _read_options(options)
    data_set = open_data(options.data, allow_outside=read.allow_outside, max_pixels=read.max_pixels)
    if options.detections is not None:
        name = choose_split(data_set, options.split)
        evaluation = evaluate_results(data_set, name, options.detections, options.max_det)
    else:
        model = Detector.load(options.weights, device=options.device, runtime=options.runtime, input_size=options.imgsz)
        split = read_evaluation_split(data_set, options.split, model.info.image_hashes)
        log.info("%s", data_set.description)
        detect_options = evaluation_options(options.iou, options.suppression, options.agnostic_nms, options.max_det)
        evaluation = evaluate_split(model, split, detect_options)
    evaluation.write(options.json, options.results)
    console.print_average_precision(evaluation.ap)
    return 0


def serve(options: argparse.Namespace) -> int:
    """Serve a web page and an HTTP API until the process is stopped."""
    from detector.serving.app import MAX_PIXELS
    from detector.serving.app import serve as run

    run(
        options.weights,
        device=options.device,
        runtime=options.runtime,
        host=options.host,
        port=options.port,
        max_bytes=options.max_megabytes * 1_000_000,
        max_pixels=options.max_pixels or MAX_PIXELS,
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Export weights to an ONNX file or an OpenVINO folder, and write a certificate."""
    from detector.exporting.export import export as run
    from detector.exporting.export import format_of, training_images
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
    read = _read_options(options)
    images = find_sources(options.int8, read) if options.int8 else []
    calibration = None if options.int8 is None else images or training_images(options.data, read)
    result = run(
        options.weights,
        options.out,
        format=options.format or format_of(options.out),
        input_size=options.imgsz,
        int8_images=calibration,
        nms=DetectOptions(**given) if options.nms == "in" else None,
        dynamic=options.dynamic,
        data=options.data,
        split=options.split,
        runtime=options.runtime,
        certificate_images=images,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
    )
    has_advice = options.int8 is not None and options.data is not None
    advice = console.int8_advice(quote(options.data), quote(str(options.weights))) if has_advice else ""
    console.print_export(result, advice)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare an export with its certificate, and print the differences."""
    from detector.exporting.verify import verify as run

    result = run(options.export, runtime=options.runtime)
    print(
        f"{options.export}: the detections match the certificate, which was written with "
        f"{result.certificate.runtime}: {result.parity} (the certificate has boxes rounded to 0.001 px "
        "and scores rounded to 0.000001)"
    )
    return 0


def convert(options: argparse.Namespace) -> int:
    """Convert a data set to another label format, and print what was written."""
    from detector.converting.convert import convert as run

    read = _read_options(options)
    result = run(
        options.source,
        options.to,
        options.out,
        images=options.images,
        splits=options.split,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
    )
    console.print_conversion(result, quote(str(result.folder)))
    return 0


def split(options: argparse.Namespace) -> int:
    """Divide a data set into train, val and test by lists of its images, and print the path of the description."""
    read = _read_options(options)
    from detector.converting.split import split as run

    result = run(
        options.data,
        options.out,
        val_fraction=options.val_fraction,
        test_fraction=options.test_fraction,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
    )
    print(", ".join(f"{name}: {count} images" for name, count in result.counts.items()))
    print(f"to train: detector train --data {quote(str(result.description))}")
    return 0


def settings(options: argparse.Namespace) -> Config:
    """Return the settings of a run: those of the file --config, changed by --set, then by flags such as --model."""
    config = override(read_config(options.config) if options.config else Config(), options.set)
    flags = {"imgsz": "input_size"} | {key: key for key in _SETTING_FLAGS}
    given = {name: getattr(options, flag, None) for flag, name in flags.items()}
    return apply_flags(config, {key: value for key, value in given.items() if value is not None})


def apply_flags(config: Config, flags: dict[str, Any]) -> Config:
    """Return the configuration with the values of flags; --minutes or --epochs replaces any other length of the run.

    Args:
        config: configuration from the file and --set.
        flags: name of a setting → value from the command line.
    """
    if flags.keys() & {"minutes", "epochs"}:
        config = replace(config, minutes=None, epochs=None, steps=None)
    return replace(config, **{key: parse_value(key, value) for key, value in flags.items()})


def _read_options(options: argparse.Namespace) -> ReadOptions:
    """Return the options for reading files from the flags of a command; a missing flag has its default value."""
    return ReadOptions(
        allow_outside=bool(getattr(options, "allow_outside", None)),
        allow_url=getattr(options, "allow_url", False),
        recursive=getattr(options, "recursive", False),
        max_pixels=options.max_pixels or MAX_PIXELS,
    )


def _next_free(path: Path) -> Path:
    """Return `path` if it does not exist, else the first of `path-2`, `path-3`, ... that does not exist."""
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


_COMMANDS = {
    command.__name__: command
    for command in (check, train, detect, evaluate, serve, export, verify, compare, summary, convert, split)
}
