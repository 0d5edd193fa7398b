"""Console output of the command line: log lines, tables and messages."""

import io
import logging
import re
import sys
from typing import TYPE_CHECKING

from detector.wording import UNDEFINED, metric, plural

if TYPE_CHECKING:
    from pathlib import Path

    from detector.converting.convert import Conversion
    from detector.detecting.detect_files import DetectSummary
    from detector.exporting.certificate import Certificate
    from detector.exporting.export import ExportResult
    from detector.metrics.average_precision import AveragePrecision

_INT8_ADVICE = """\
What may help: calibration images (--int8) that are more like the images that the detector is used on; --format
openvino; no --int8-full-range; or a few minutes of quantization-aware training (QAT), and an export of the trained
weights:
  detector train --data {data} --weights {weights} --minutes 3 \\
    --set qat_start=0 --set first_input_size=1 --set lr=0.005 --set lr_adamw=0.0003\
"""

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tab and newline. A file name may contain them; a terminal would obey them."""

_MAX_CLASSES = 20
"""Largest number of class names that `convert` prints."""

_MAX_ENTRIES = 5
"""Largest number of clipped and dropped rows per split that `convert` prints."""


def set_up_console() -> None:
    """Print log lines of the package to standard output, and allow printing of file names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("detector")
    logger.setLevel(logging.INFO)
    logger.handlers = [_ProgressBarSafeHandler()]


class _ProgressBarSafeHandler(logging.Handler):
    """A log handler for a terminal with a progress bar: prints each line above the bar, without breaking the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(_CONTROL_CHARACTERS.sub("?", self.format(record)), file=sys.stdout)
        sys.stdout.flush()


def print_error(error: Exception) -> None:
    """Print the message of an error to standard error."""
    print(f"error: {_CONTROL_CHARACTERS.sub('?', str(error))}", file=sys.stderr)


def print_average_precision(ap: "AveragePrecision") -> None:
    """Print the COCO metrics, and a table with AP, AP50 and number of objects per class."""
    for key, value in ap.to_json().items():
        if key not in ("per_class", "many"):
            print(f"{key:6} {metric(value, 4):>7}")
    if any(value == UNDEFINED for value in ap.to_json().values()):
        print("n/a: the split has no such objects")
    if ap.many is not None:
        print(f"\nwith at most {ap.many.max_detections} detections per image (the numbers above: at most 100):")
        for key in ("AP", "AP50", "AP75", "AR"):
            print(f"{key:6} {metric(getattr(ap.many, key), 4):>7}")
    width = max([len(name) for name in ap.per_class] + [5])
    print(f"\n{'class':{width}}      AP    AP50  objects")
    for name, row in ap.per_class.items():
        print(f"{name:{width}} {metric(row['AP'], 4):>7} {metric(row['AP50'], 4):>7} {row['objects']:8.0f}")


def print_detect_summary(summary: "DetectSummary", folder: "Path") -> None:
    """Print the number of objects and images, and to standard error the number of images that could not be read."""
    before = f", {summary.before} {'was' if summary.before == 1 else 'were'} done before" if summary.before else ""
    print(f"{plural(summary.objects, 'object')} in {plural(summary.done, 'image')}{before}; see {folder}")
    if summary.failed:
        print(f"{summary.failed} of {plural(summary.given, 'image')} could not be read", file=sys.stderr)


def print_export(result: "ExportResult", advice: str) -> None:
    """Print the size of an export, and the differences from its weights that its certificate contains.

    Args:
        result: the export.
        advice: text to print if an int8 export is worse than the weights; empty: none.
    """
    height, width = result.input_hw
    print(f"{result.path}: {result.size_bytes / 1e6:.1f} MB, input {width}x{height} (width x height)")
    certificate = result.certificate
    if certificate is None:
        print(
            "the export was not compared with the weights, because neither openvino nor onnxruntime is installed; "
            "install one of them and export again"
        )
        return
    for name, parity in certificate.parity.items():
        print(f"{certificate.runtime} compared with the weights on {name}: {parity}")
    latency, ap = certificate.latency_ms, certificate.AP
    print(f"latency: {latency.export} ms per image, {latency.weights} ms with the weights in torch")
    if ap is not None:
        print(f"AP {metric(ap.export, 4)} on {ap.split}, {metric(ap.weights, 4)} with the weights")
    worse = _print_agreement(certificate)
    if certificate.loses_too_much:
        worse = True
        print("COCO AP of the export is more than 0.005 below the AP of the weights")
    if advice and worse:
        print(advice)
    print(f"valid for: {certificate.valid_for}")
    print(f"certificate: {result.certificate_path}")


def _print_agreement(certificate: "Certificate") -> bool:
    """Print the verdict on the drift of an int8 export in the user's images; return True if it is too large."""
    from detector.exporting.certificate import USER_IMAGES
    from detector.exporting.parity import CONFIDENT, MIN_AGREEMENT

    parity = certificate.parity.get(USER_IMAGES)
    if not certificate.graph.int8 or parity is None:
        return False
    least = f"at least {100 * MIN_AGREEMENT:.0f} % is expected"
    verdict = {
        True: f"ok, {least}",
        False: f"too small, {least}: the export detects other objects than the weights",
        None: "too few to judge the export; give more images with objects (--int8 or --data)",
    }[parity.agrees]
    percent = "" if parity.agreement is None else f"{100 * parity.agreement:.1f} % of "
    print(
        f"agreement with the weights on {USER_IMAGES}: {percent}{parity.confident} detections with a score above "
        f"{CONFIDENT:g}; {verdict}"
    )
    return parity.agrees is False


def int8_advice(data: str, weights: str) -> str:
    """Return the advice for an int8 export that is worse than the weights; the arguments are quoted for a shell."""
    return _INT8_ADVICE.format(data=data, weights=weights)


def print_conversion(conversion: "Conversion", folder: str) -> None:
    """Print the counts of a converted data set, the first clipped and dropped rows, and the next command.

    Args:
        conversion: what was written.
        folder: the folder of the converted data set, quoted for a shell.
    """
    print(f"{conversion.description} → {conversion.format} in {conversion.folder}")
    names = [_printable(name) for name in conversion.class_names]
    print(f"{len(names)} classes: {', '.join(names[:_MAX_CLASSES])}{', ...' if len(names) > _MAX_CLASSES else ''}")
    for split, ledger in conversion.ledgers.items():
        print(f"{split}: {conversion.image_counts[split]} images, {conversion.box_counts[split]} boxes written")
        print(f"  source: {_printable(ledger.summary())}")
        for line in ledger.note_lines():
            print(f"  {_printable(line)}")
        for entry in ledger.entries[:_MAX_ENTRIES]:
            print(f"  {entry}")
        if len(ledger.entries) > _MAX_ENTRIES:
            print(f"  ... and {len(ledger.entries) - _MAX_ENTRIES} more: see {conversion.folder / 'ledger.json'}")
    print("read again and compared with the source: the same classes, images and boxes")
    outside = " --allow-outside" if conversion.needs_allow_outside else ""
    if "train" in conversion.ledgers:
        print(f"next: detector train --data {folder}{outside}")
    else:
        print(
            f"next: detector evaluate --data {folder} --split {next(iter(conversion.ledgers))}{outside} --weights ..."
        )


def _printable(text: str) -> str:
    """Return text on one line, without control characters that a terminal would obey."""
    return _CONTROL_CHARACTERS.sub("?", text).replace("\n", "?").replace("\t", " ")
