"""The command line: a function per verb. Reads arguments, calls the engine, prints, exits.

Exit status: 0 done; 2 something given was wrong (one message, no traceback); 3 some images of many failed.
Torch is imported only when a verb needs it.
"""

import argparse
import io
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from detector.cli.parser import make_parser
from detector.config import Config, override, parse_value, read_config
from detector.errors import InputError

if TYPE_CHECKING:
    from detector.metrics.average_precision import AveragePrecision

log = logging.getLogger(__name__)

_STARTED = time.monotonic()
_HELP_WITH_INT8 = """\
more than half a point of AP is lost. What may help: images for --int8 more like those of --data; --format openvino;
or quantization-aware fine-tuning, a few minutes of learning to live with eight bits, and an export of what comes of it:
  detector train --data {} --weights {} --minutes 3 \\
    --set qat_start=0 --set first_input_size=1 --set lr=0.005 --set lr_adamw=0.0003\
"""
_SETTING_FLAGS = ("allow_outside", "model", "batch", "seed", "device", "allow_dropped", "minutes", "epochs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = make_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name of bytes that are no UTF-8 is said, not tripped over
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("detector")
    logger.setLevel(logging.INFO)
    handler = _BarAwareHandler()
    logger.handlers = [handler]
    try:
        status = _VERBS[options.verb](options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stdout = None  # nothing is left to flush at exit
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def train(options: argparse.Namespace) -> int:
    """Train a detector."""
    if options.resume is not None:
        return _resume(options)
    if options.data is None:
        raise InputError("train: give --data, or --resume with the folder of a run")
    config = settings(options)  # what is wrong with them is said without waiting for torch
    from detector.training.train import train as run

    out = options.out or _next_free(Path("runs/train"))
    run(options.data, config, out, options.split, _STARTED, options.weights, options.reuse_backbone)
    return 0


def _resume(options: argparse.Namespace) -> int:
    own = {"verb", "resume", "resume_anyway", "max_pixels"}
    other = [key for key, value in vars(options).items() if key not in own and value not in (None, [], "train", False)]
    if other:
        raise InputError(f"--resume goes on with the run's own settings; leave out --{other[0].replace('_', '-')}")
    from detector.training.train import resume

    resume(options.resume, options.resume_anyway, started=_STARTED)
    return 0


def check(options: argparse.Namespace) -> int:
    """Check data, network and learning before a long run."""
    config = settings(options)
    from detector.checking.check import check as run

    report = run(options.data, config, options.out, options.split, said=print)
    print(f"{report.verdict}: {len(report.findings)} checks in {report.seconds:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    return {"ok": 0, "look": 4, "stop": 5}[report.verdict]


def summary(options: argparse.Namespace) -> int:
    """Print a network layer by layer."""
    config = settings(options)
    from detector.describing.describe import describe

    for line in describe(config, options.weights, options.classes):
        print(line)
    return 0


def compare(options: argparse.Namespace) -> int:
    """Train with each of several settings and compare."""
    base = override(settings(options), [f"steps={options.steps}"] if options.steps else [])
    from detector.comparing.compare import compare as run
    from detector.comparing.table import to_text

    rows = run(options.data, options.settings, base, options.out, options.seeds, options.trials, options.jobs,
               options.keep_weights)  # fmt: skip
    print(to_text(rows))
    return 0


def settings(options: argparse.Namespace) -> Config:
    """Return the settings of a run: those of the file, then of --set, then of the flags."""
    config = override(read_config(options.config) if options.config else Config(), options.set)
    flags = {"imgsz": "input_size"} | {key: key for key in _SETTING_FLAGS}
    given = {name: getattr(options, flag, None) for flag, name in flags.items()}
    return override_flags(config, {key: value for key, value in given.items() if value is not None})


def override_flags(config: Config, flags: dict[str, Any]) -> Config:
    """Return the configuration with flags applied; a length given by flag replaces the file's."""
    if flags.keys() & {"minutes", "epochs"}:
        config = replace(config, minutes=None, epochs=None, steps=None)
    return replace(config, **{key: parse_value(key, value) for key, value in flags.items()})


def detect(options: argparse.Namespace) -> int:
    """Detect in images and videos and write what was found."""
    from detector.detecting.detect_files import detect_images, detect_videos, find_inputs
    from detector.predict.detector import Detector

    words = [*options.source, *options.more_sources]
    if not words and options.classes:
        raise InputError("no images given: --classes takes every word behind it, so name the images before it")
    sources, videos = find_inputs(words, options.recursive, options.allow_url)
    model = Detector.load(options.weights, options.device, options.imgsz, options.runtime)
    looking = {
        "score_threshold": options.conf,
        "iou_threshold": options.iou,
        "max_detections": options.max_det,
        "class_agnostic": options.agnostic_nms,
        "suppression": options.suppression,
        "classes": options.classes,
        "tile": options.tile,
        "overlap": options.overlap,
        "mirror": options.flip,
    }
    failed = 0
    if videos and any((options.save_txt, options.save_json, options.save_crops, options.csv)):
        log.warning("--save-txt, --save-json, --save-crops and --csv are for images: a video gets its lines of JSON")
    if not videos and (options.track or options.every > 1):
        log.warning("--track and --every are for videos, and none is given")
    if sources:
        saving = {"txt": options.save_txt, "json_each": options.save_json, "crops": options.save_crops}
        saving |= {"table": options.csv, "images": not options.no_images, "skip_done": options.skip_done}
        tally = detect_images(model, options.weights, sources, options.out, looking, **saving)
        before = f", {tally.before} were done before" if tally.before else ""
        print(f"{tally.objects} objects in {tally.done} images{before}; see {options.out}")
        if tally.failed:
            print(f"{tally.failed} of {tally.given} images could not be read", file=sys.stderr)
        failed += tally.failed
    saving = {"every": options.every, "track": options.track, "images": not options.no_images}
    for word, summary in zip(videos, detect_videos(model, videos, options.out, looking, **saving), strict=True):
        if isinstance(summary, InputError):
            failed += 1
        else:
            print(f"{word}: {summary.objects} objects in {summary.frames_detected} frames; see {options.out}")
    return (2 if failed == len(sources) + len(videos) else 3) if failed else 0


def evaluate(options: argparse.Namespace) -> int:
    """Score weights, or another program's detections, on a split."""
    from detector.evaluating.evaluate import evaluate_to_files

    ap = evaluate_to_files(
        options.data,
        options.split,
        weights=options.weights,
        detections=options.detections,
        device=options.device,
        iou_threshold=options.iou,
        long_side=options.imgsz,
        runtime=options.runtime,
        suppression=options.suppression,
        class_agnostic=options.agnostic_nms,
        allow_outside=bool(options.allow_outside),
        json_path=options.json,
        results_path=options.results,
    )
    print_table(ap)
    return 0


def serve(options: argparse.Namespace) -> int:
    """Serve a page and an HTTP interface."""
    from detector.serving.app import serve as run

    run(
        options.weights,
        options.host,
        options.port,
        options.runtime,
        options.device,
        max_bytes=options.max_megabytes * 1_000_000,
        **({"max_pixels": options.max_pixels} if options.max_pixels else {}),
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Write weights as an ONNX file or an OpenVINO folder, with its certificate."""
    from detector.exporting.export import export as run
    from detector.exporting.export import training_images
    from detector.graph.metadata import NmsSettings
    from detector.graph.openvino_ir import export_files
    from detector.media.sources import find_sources

    given = {"score_threshold": options.conf, "iou_threshold": options.iou, "max_detections": options.max_det}
    thresholds = {name: value for name, value in given.items() if value is not None}
    if thresholds and options.nms == "out":
        raise InputError("--conf, --iou and --max-det are fixed in the graph by --nms in; without it, detect has them")
    allow_outside = bool(options.allow_outside)
    images = find_sources(options.int8) if options.int8 else []
    if options.int8 == [] and options.data is None:
        raise InputError("--int8: name images like those it will see, or give --data")
    calibration = None if options.int8 is None else images or training_images(options.data, allow_outside)
    height, width = run(
        options.weights,
        options.out,
        options.format or _format_of(options.out),
        options.imgsz,
        calibration,
        NmsSettings(**thresholds) if options.nms == "in" else None,
        options.dynamic,
    )
    size = sum(path.stat().st_size for path in export_files(options.out))
    print(f"{options.out}: {size / 1e6:.1f} MB, canvas {width}x{height} (width x height)")
    if not (find_spec("openvino") or find_spec("onnxruntime")):
        print("not checked: neither openvino nor onnxruntime is installed to run it")
        return 0
    from detector.exporting.certify import certificate_path, certify, loses_too_much
    from detector.exporting.parity import Drift

    certificate = certify(
        options.weights, options.out, options.runtime, options.data, options.split, images, allow_outside
    )
    for name, drift in certificate["drift"].items():
        print(f"{certificate['runtime']} against the weights on {name}: {Drift(**drift)}")
    times, ap = certificate["milliseconds"], certificate["AP"]
    print(f"an image takes {times['export']} ms, {times['weights']} with the weights in torch")
    if ap is not None:
        print(f"AP {ap['export']} on {options.split}, {ap['weights']} with the weights")
        if options.int8 is not None and loses_too_much(certificate):
            print(_HELP_WITH_INT8.format(quote(options.data), quote(str(options.weights))))
    print(f"certificate: {certificate_path(options.out)}")
    return 0


def _format_of(path: Path) -> Literal["onnx", "openvino"]:
    """Return the format that the name of an export asks for.

    Raises:
        InputError: it has an ending that says neither.
    """
    if path.suffix and path.suffix != ".onnx" and not path.name.endswith("_openvino"):
        raise InputError(
            f"{path}: ONNX files end in .onnx; if an OpenVINO folder is to be called so, add --format openvino"
        )
    return "onnx" if path.suffix == ".onnx" else "openvino"


def verify(options: argparse.Namespace) -> int:
    """Hold an export to its certificate."""
    from detector.exporting.certify import verify as run

    drift, certificate = run(options.export, options.runtime)
    print(f"{options.export}: as certified with {certificate['runtime']}: {drift}")
    return 0


def print_table(ap: "AveragePrecision") -> None:
    """Print COCO's numbers."""
    for key, value in ap.to_json().items():
        if key != "per_class":
            print(f"{key:6} {value:7.4f}")
    width = max([len(name) for name in ap.per_class] + [5])
    print(f"\n{'class':{width}}      AP    AP50  objects")
    for name, row in ap.per_class.items():
        print(f"{name:{width}} {row['AP']:7.4f} {row['AP50']:7.4f} {row['objects']:8.0f}")


def _next_free(path: Path) -> Path:
    """Return `path`, numbered if it is taken."""
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


class _BarAwareHandler(logging.Handler):
    """Prints log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


_VERBS = {verb.__name__: verb for verb in (check, train, detect, evaluate, serve, export, verify, compare, summary)}
