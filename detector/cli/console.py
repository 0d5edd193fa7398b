"""What the command line prints: log lines, tables and messages."""

import io
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from detector.detecting.detect_files import DetectSummary
    from detector.exporting.export import ExportResult
    from detector.metrics.average_precision import AveragePrecision

_INT8_ADVICE = """\
More than half a point of AP is lost. What may help: calibration images (--int8) that are more like those of --data;
--format openvino; or quantization-aware training (QAT) for a few minutes, and an export of the result:
  detector train --data {data} --weights {weights} --minutes 3 \\
    --set qat_start=0 --set first_input_size=1 --set lr=0.005 --set lr_adamw=0.0003\
"""


def set_up_console() -> None:
    """Print log lines of the package to standard output, and print any file name, also one that is not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("detector")
    logger.setLevel(logging.INFO)
    logger.handlers = [_BarAwareHandler()]


class _BarAwareHandler(logging.Handler):
    """Prints log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def print_average_precision(ap: "AveragePrecision") -> None:
    """Print COCO's numbers, and a table of the classes."""
    for key, value in ap.to_json().items():
        if key != "per_class":
            print(f"{key:6} {value:7.4f}")
    width = max([len(name) for name in ap.per_class] + [5])
    print(f"\n{'class':{width}}      AP    AP50  objects")
    for name, row in ap.per_class.items():
        print(f"{name:{width}} {row['AP']:7.4f} {row['AP50']:7.4f} {row['objects']:8.0f}")


def print_detect_summary(summary: "DetectSummary", folder: "Path") -> None:
    """Print how many images were processed and how many failed."""
    before = f", {summary.before} were done before" if summary.before else ""
    print(f"{summary.objects} objects in {summary.done} images{before}; see {folder}")
    if summary.failed:
        print(f"{summary.failed} of {summary.given} images could not be read", file=sys.stderr)


def print_export(result: "ExportResult", advice: str) -> None:
    """Print the size of an export and what its certificate says; `advice` where int8 loses too much AP."""
    height, width = result.input_hw
    print(f"{result.path}: {result.size_bytes / 1e6:.1f} MB, input {width}x{height} (width x height)")
    certificate = result.certificate
    if certificate is None:
        print("not compared with the weights: neither openvino nor onnxruntime is installed to run the export")
        return
    for name, parity in certificate.parity.items():
        print(f"{certificate.runtime} against the weights on {name}: {parity}")
    latency, ap = certificate.latency_ms, certificate.AP
    print(f"latency: {latency.export} ms per image, {latency.weights} ms with the weights in torch")
    if ap is not None:
        print(f"AP {ap.export} on {ap.split}, {ap.weights} with the weights")
        if advice and certificate.loses_too_much:
            print(advice)
    print(f"certificate: {result.certificate_path}")


def int8_advice(data: str, weights: str) -> str:
    """Return what to do where int8 loses too much AP; the arguments are quoted for a shell."""
    return _INT8_ADVICE.format(data=data, weights=weights)
