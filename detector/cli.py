"""The command line: `detector train | detect | evaluate`. Reads arguments, calls the engine, prints, exits.

Exit status: 0 done; 2 something given was wrong (one message, no traceback); 3 some pictures of many failed.
Torch is imported only when a verb needs it.
"""

import argparse
import hashlib
import io
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector import images
from detector.arguments import make_parser
from detector.config import Config, override, parse_value, read_config
from detector.errors import InputError

if TYPE_CHECKING:
    from detector.metrics.average_precision import AveragePrecision

_STARTED = time.monotonic()
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
        if getattr(options, "max_pixels", None):
            images.allow_pixels(options.max_pixels)
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
    from detector.engine.train import train as run

    out = options.out or _next_free(Path("runs/train"))
    run(options.data, config, out, options.split, _STARTED, options.weights, options.reuse_backbone)
    return 0


def _resume(options: argparse.Namespace) -> int:
    own = {"verb", "resume", "resume_anyway", "max_pixels"}
    other = [key for key, value in vars(options).items() if key not in own and value not in (None, [], "train", False)]
    if other:
        raise InputError(f"--resume goes on with the run's own settings; leave out --{other[0].replace('_', '-')}")
    from detector.engine.train import resume

    resume(options.resume, options.resume_anyway, started=_STARTED)
    return 0


def check(options: argparse.Namespace) -> int:
    """Check data, network and learning before a long run."""
    config = settings(options)
    from detector.engine.check import check as run

    report = run(options.data, config, options.out, options.split, said=print)
    print(f"{report.verdict}: {len(report.findings)} checks in {report.seconds:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    return {"ok": 0, "look": 4, "stop": 5}[report.verdict]


def summary(options: argparse.Namespace) -> int:
    """Print a network layer by layer."""
    config = settings(options)
    from detector.engine.describe import describe

    for line in describe(config, options.weights, options.classes):
        print(line)
    return 0


def compare(options: argparse.Namespace) -> int:
    """Train with each of several settings and compare."""
    base = override(settings(options), [f"steps={options.steps}"] if options.steps else [])
    from detector.engine.compare import compare as run
    from detector.engine.comparison_table import to_text

    rows = run(options.data, options.settings, base, options.out, options.seeds, options.trials, options.jobs,
               options.keep_weights)  # fmt: skip
    print(to_text(rows))
    return 0


def settings(options: argparse.Namespace) -> Config:
    """Return the settings of a run: those of the file, then of --set, then of the flags."""
    config = override(read_config(options.config) if options.config else Config(), options.set)
    flags = {"imgsz": "canvas"} | {key: key for key in _SETTING_FLAGS}
    given = {name: getattr(options, flag, None) for flag, name in flags.items()}
    return override_flags(config, {key: value for key, value in given.items() if value is not None})


def override_flags(config: Config, flags: dict[str, Any]) -> Config:
    """Return the configuration with flags applied; a length given by flag replaces the file's."""
    if flags.keys() & {"minutes", "epochs"}:
        config = replace(config, minutes=None, epochs=None, steps=None)
    return replace(config, **{key: parse_value(key, value) for key, value in flags.items()})


def detect(options: argparse.Namespace) -> int:
    """Detect on pictures and write what was found."""
    from tqdm import tqdm

    from detector.engine.detect import BATCH, Detector
    from detector.engine.save_detections import DetectionWriter
    from detector.engine.sources import find_sources, not_done

    sources = find_sources([*options.source, *options.more_sources])
    model = Detector.load(options.weights, options.device, options.imgsz, options.runtime)
    thresholds = {
        "score_threshold": options.conf,
        "iou_threshold": options.iou,
        "max_detections": options.max_det,
        "class_agnostic": options.agnostic_nms,
        "suppression": options.suppression,
    }
    made_by = {"weights": _fingerprint(options.weights), "runtime": model.runtime.name, "canvas_hw": [*model.canvas_hw]}
    writer = DetectionWriter(
        options.out,
        model.info.category_ids,
        (source.name for source in sources),
        pictures=not options.no_pictures,
        txt=options.save_txt,
        table=options.csv,
        settings=made_by | thresholds,
        skip_done=options.skip_done,
    )
    failed = added = found_count = 0
    todo = not_done(sources, writer.done, BATCH)
    answers = model.detect_with_images((source.read for source in todo), **thresholds)
    bar = tqdm(todo, initial=len(sources) - len(todo), total=len(sources), unit="picture", disable=None)
    for source, answer in zip(bar, answers, strict=True):
        if str(source.name) in writer.done:
            continue
        if isinstance(answer, InputError):
            failed += 1
            tqdm.write(f"skipped: {answer}", file=sys.stderr)
            continue
        image, found = answer
        added += 1
        found_count += len(found)
        writer.add(source.name, image, found)
    writer.close()
    before = f", {len(writer.done)} were done before" if writer.done else ""
    print(f"{found_count} objects in {added} pictures{before}; see {options.out}")
    if failed:
        print(f"{failed} of {len(sources)} pictures could not be read", file=sys.stderr)
        return 2 if failed == len(sources) else 3
    return 0


def _fingerprint(weights: str) -> str:
    """Return what tells weights apart: the digest of a file, the name of shipped ones."""
    path = Path(weights)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else weights


def evaluate(options: argparse.Namespace) -> int:
    """Score weights, or another program's detections, on a split."""
    from detector.engine.evaluate import evaluate_to_files

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


def export(options: argparse.Namespace) -> int:
    """Write weights as an ONNX file."""
    from detector.engine.export import export as run
    from detector.engine.sources import find_sources

    pictures = find_sources(options.int8) if options.int8 else None
    height, width = run(options.weights, options.out, options.imgsz, pictures)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, canvas {width}x{height} (width x height)")
    if not (find_spec("openvino") or find_spec("onnxruntime")):
        print("not checked: neither openvino nor onnxruntime is installed to run it")
        return 0
    from detector.engine.certify import Drift, certify, loses_too_much

    certificate = certify(options.weights, options.out, options.imgsz, bool(options.int8), options.data, options.split)
    print(f"{certificate['runtime']} against the weights: {Drift(**certificate['drift'])}")
    times = certificate["milliseconds"]
    print(f"a picture takes {times['file']} ms, {times['weights']} with the weights in torch")
    if certificate["AP"] is not None:
        ap = certificate["AP"]
        print(f"AP {ap['file']} on {options.split}, {ap['weights']} with the weights")
        if loses_too_much(certificate):
            print("more than half a point of AP is lost: other pictures for --int8, or a larger model, may help")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Hold an exported file to its certificate."""
    from detector.engine.certify import verify as run

    drift, certificate = run(options.file, options.runtime)
    print(f"{options.file}: as certified with {certificate['runtime']}: {drift}")
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


_VERBS = {verb.__name__: verb for verb in (check, train, detect, evaluate, export, verify, compare, summary)}
