"""Console output of the command line: log lines, tables and messages."""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from detector.escaping import cell, columns, escape, escape_line, shorten_message
from detector.wording import UNDEFINED, few_names, metric, plural

if TYPE_CHECKING:
    from pathlib import Path

    from detector.converting.convert import Conversion
    from detector.detecting.detect_files import DetectSummary
    from detector.detecting.gather import GatherSummary
    from detector.evaluating.decisions import Decided
    from detector.evaluating.evaluation import Against
    from detector.explaining.explanation import Explanation, ImageExplanation
    from detector.exporting.certificate import Certificate
    from detector.exporting.export import ExportResult
    from detector.metrics.average_precision import AveragePrecision
    from detector.metrics.bootstrap import Intervals
    from detector.metrics.intervals import Interval
    from detector.restyling.restyle import RestyledData
    from detector.training.run import TrainingResult

_INT8_ADVICE = """\
What may help: calibration images (--int8) that are more like the images that the detector is used on; --format
openvino; no --int8-full-range; or a few minutes of quantization-aware training (QAT), and an export of the trained
weights:
  detector train --data {data} --weights {weights} --minutes 3 \\
    --set qat_start=0 --set first_input_size=1 --set lr=0.005 --set lr_adamw=0.0003\
"""

_VERBOSE_FORMAT = "%(relativeCreated)8.0f ms  %(name)s: %(message)s"

_CLASS_COLUMNS = 40
"""Largest width of a class name in a table."""

_MAX_ENTRIES = 5
"""Largest number of clipped and dropped rows per split that `convert` prints."""


_MAX_EXPLAINED = 5
"""Up to this number of images, `explain` prints the cause of each missed object."""


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Print log lines of the package to standard output, and errors to standard error.

    Args:
        quiet: print only errors, and no progress bars.
        verbose: print also details, and before each line the time and the module.
    """
    logger = logging.getLogger("detector")
    logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    handler = _ProgressBarSafeHandler()
    handler.setFormatter(_LineFormatter(_VERBOSE_FORMAT if verbose else None))
    logger.handlers = [handler]


class _LineFormatter(logging.Formatter):
    """Formats a log record as one line, whatever names it contains; only a traceback has several lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is from `logging`
        """Return the line."""
        return shorten_message(escape_line(super().formatMessage(record)))


class _ProgressBarSafeHandler(logging.Handler):
    """A log handler for a terminal with a progress bar: prints each line above the bar, without breaking the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the line of a record: an error to standard error, as `print_error` does, anything else to output."""
        from tqdm import tqdm

        is_error = record.levelno >= logging.ERROR
        stream = sys.stderr if is_error else sys.stdout
        tqdm.write(("error: " if is_error else "") + self.format(record), file=stream)
        stream.flush()


def print_line(text: str = "") -> None:
    """Print text on one line of standard output, whatever names it contains. All commands print with this function."""
    print(escape_line(text))


def print_text(text: str) -> None:
    """Print text of several lines to standard output."""
    print(escape(text))


def print_error(message: str) -> None:
    """Print the message of an error to standard error."""
    print(f"error: {message}", file=sys.stderr)


def print_average_precision(ap: "AveragePrecision") -> None:
    """Print the COCO metrics, and a table with AP, AP50 and number of objects per class, with their intervals."""
    intervals = ap.intervals
    for key, value in ap.to_json().items():
        if key not in ("per_class", "many", "intervals"):
            interval = None if intervals is None else intervals.metrics[key]
            mark = "" if intervals is None else _few_images_mark(key, interval, intervals.few_images)
            print_line(f"{key:6} {metric(value)}{_interval(value, interval)}{mark}")
    if any(value == UNDEFINED for value in ap.to_json().values()):
        print_line("n/a: the split has no such objects")
    if intervals is not None:
        _print_interval_notes(ap, intervals)
    if ap.many is not None:
        print_line()
        print_line(f"with at most {ap.many.max_detections} detections per image (the numbers above: at most 100):")
        for key in ("AP", "AP50", "AP75", "AR"):
            print_line(f"{key:6} {metric(getattr(ap.many, key))}")
    rows = [("class", "AP", "AP50", "objects")]
    for name, row in ap.per_class.items():
        own = {} if intervals is None else intervals.per_class[name]
        ap_text, ap50_text = (f"{metric(row[key])}{_interval(row[key], own.get(key))}" for key in ("AP", "AP50"))
        rows.append((name, ap_text, ap50_text, f"{row['objects']:.0f}"))
    _print_class_table(rows)


def _interval(value: float, interval: "Interval | None") -> str:
    """Return the text of an interval after its metric; empty for a metric that is undefined or has no interval."""
    return "" if value == UNDEFINED or interval is None else f" {interval}"


def _few_images_mark(key: str, interval: "Interval | None", few: "Mapping[str, Sequence[str]]") -> str:
    """Return the mark of an interval that is too narrow because of classes with objects in few images; else empty."""
    return " *" if interval is not None and key in few else ""


def _print_few_images_note(intervals: "Mapping[str, Interval | None]", few: "Mapping[str, Sequence[str]]") -> None:
    """Print what the mark of `_few_images_mark` means, if some metric has it."""
    from detector.metrics.bootstrap import few_images_note

    note = few_images_note({key: classes for key, classes in few.items() if intervals.get(key) is not None})
    if note is not None:
        print_line(f"* {note}")


def _print_interval_notes(ap: "AveragePrecision", intervals: "Intervals") -> None:
    """Print what the intervals mean, and why metrics have none."""
    if any(intervals.metrics.values()):
        images = plural(intervals.images, "image")
        print_line(f"[low, high]: 95 % confidence interval of the value on many more images like these {images}")
        if any(own is None and getattr(ap, key) != UNDEFINED for key, own in intervals.metrics.items()):
            print_line("no interval: all halves of the images give the same value, or a single image has such objects")
        _print_few_images_note(intervals.metrics, intervals.few_images)
    elif intervals.images == 1:
        print_line("confidence intervals: n/a, because they need at least two images")
    else:
        print_line("confidence intervals: n/a, because all halves of the images give the same values")


def _print_class_table(rows: "Sequence[tuple[str, str, str, str]]") -> None:
    """Print a table of classes: name, AP, AP50 and number of objects; the first row is the header."""
    width = min(max([columns(escape_line(row[0])) for row in rows]), _CLASS_COLUMNS)
    first, second = (max(len(row[column]) for row in rows) for column in (1, 2))
    print_line()
    for name, ap, ap50, objects in rows:
        print_line(f"{cell(name, width)}  {ap:{first}}  {ap50:{second}}  {objects:>7}")


def print_comparison(name: str, against: "Against") -> None:
    """Print the difference between two evaluations, and the verdict.

    Args:
        name: weights or file of the evaluation, as the user gave it.
        against: the comparison with another evaluation.
    """
    print_line()
    print_line(f"{name} minus {against.name}, on the same {plural(against.difference.images, 'image')}:")
    difference = against.difference
    for key, own in difference.metrics.items():
        interval = "" if own.interval is None else f" {own.interval.signed(4)}"
        mark = _few_images_mark(key, own.interval, difference.few_images)
        print_line(f"{key:6} {own.value:+.4f}{interval}{mark}")
    _print_few_images_note({key: own.interval for key, own in difference.metrics.items()}, difference.few_images)
    print_line(difference.describe())


def print_decided(decided: "Decided") -> None:
    """Print the thresholds that were chosen on val with the values on test, and the calibration error."""
    print_line()
    val = f"val ({plural(decided.val_images, 'image')})"
    measured = f"{decided.test_split} ({plural(decided.test_images, 'image')})"
    if decided.optimistic:
        print_line("the data has no test split: the values are those of val, and are lower on new images")
    if decided.goal is not None:
        print_line(f"thresholds chosen on {val} for {decided.goal}; correct: IoU of at least 0.5")
        print_line(f"values on {measured}, with 95 % confidence intervals:")
        _print_operating_points(decided)
    for error in decided.errors:
        count = plural(error.detections, "detection")
        print_line(
            f"calibration error (ECE) on {measured}, of {count} with a score above {error.above:g}: "
            f"{metric(error.raw)} with scores, {metric(error.calibrated)} with probabilities fitted on {val}"
        )


def _print_operating_points(decided: "Decided") -> None:
    """Print a table of the thresholds and what they give, and below it the classes that have none."""
    names = list(dict.fromkeys([*decided.choices, *decided.reached]))  # the last may be that of all classes
    width = min(max(columns(escape_line(name)) for name in ["class", *names]), _CLASS_COLUMNS)
    values = ("precision", "recall", "F1")
    print_line(f"{cell('class', width)}  threshold  " + "  ".join(f"{name:20}" for name in values) + "  objects")
    for name in names:
        choice, reached = decided.choices.get(name), decided.reached.get(name)
        threshold = "" if choice is None else "n/a" if choice.point is None else f"{choice.point.threshold:.4g}"
        texts = [
            "n/a"
            if reached is None
            else f"{metric(reached.values[key])}{_interval(reached.values[key], reached.intervals[key])}"
            for key in values
        ]
        objects = "" if reached is None else f"{reached.objects:>7}"
        row = f"{cell(name, width)}  {threshold:>9}  " + "  ".join(f"{text:20}" for text in texts) + f"  {objects}"
        print_line(row.rstrip())
    known = [(value, one.intervals[key]) for one in decided.reached.values() for key, value in one.values.items()]
    if any(interval is None and value != UNDEFINED for value, interval in known):
        print_line("a value without an interval: the images do not tell it; all halves of them give the same value")
    for name, choice in decided.choices.items():
        if choice.point is None:
            print_line(f"{name}: no threshold, because on val: {choice.problem}")


def print_explanation(explanation: "Explanation", folder: "Path") -> None:
    """Print counts per cause and kind, the price of each setting, and the causes in the first images."""
    counts = explanation.counts
    if len(explanation.images) <= _MAX_EXPLAINED:
        for image in explanation.images:
            _print_image_explanation(explanation, image)
    print_line(
        f"{counts.found} of {plural(counts.objects, 'object')} found in {plural(len(explanation.images), 'image')}; "
        f"{sum(counts.misses.values())} missed, {plural(sum(counts.false_positives.values()), 'false positive')}"
    )
    for title, values in (("missed", counts.misses), ("false positives", counts.false_positives)):
        for kind, count in values.items():
            if count:
                print_line(f"{title + ':':16} {kind:14} {count:6}")
    prices = explanation.prices
    print_line(prices.note)
    if prices.now is not None and prices.by_setting:
        print_line(f"{'setting':16} {'FP per image':>16} {'recall':>8}")
        for name, price in [("now", prices.now), *((str(key), value) for key, value in prices.by_setting.items())]:
            recall = price.found / price.objects if price.objects else UNDEFINED
            print_line(f"{name:16} {price.false_positives_per_image:16.2f} {metric(recall):>8}")
    print_line(explanation.similar_note)
    print_line(f"see {folder}")


def _print_image_explanation(explanation: "Explanation", image: "ImageExplanation") -> None:
    """Print the cause of each missed object of an image, the setting that finds it, and each false positive."""
    from detector.explaining.sentences import remedy, wrong_sentence

    names, truth, outcome = explanation.class_names, image.annotation, image.outcome
    print_line(f"{image.name}: {len(image.misses)} of {plural(image.object_count, 'object')} missed")
    for miss, settings in zip(image.misses, image.settings, strict=True):
        name = names[truth.class_ids[miss.object]]
        print_line(f"  {name} missed: {explanation.sentence(miss)}; {remedy(settings, explanation.prices)}")
    for wrong in image.false_positives:
        name, score = names[outcome.class_ids[wrong.detection]], outcome.scores[wrong.detection]
        print_line(f"  false positive {name} {score:.2f}: {wrong_sentence(wrong, outcome, truth, names)}")


def print_detect_summary(summary: "DetectSummary", folder: "Path", score_threshold: float | None) -> None:
    """Print the number of objects and images, and to standard error the number of images that could not be read.

    Args:
        summary: the counts.
        folder: the folder with the results.
        score_threshold: the value of --conf, which the summary names if nothing was found; None: auto.
    """
    before = f", {summary.before} {'was' if summary.before == 1 else 'were'} done before" if summary.before else ""
    print_line(f"{plural(summary.objects, 'object')} in {plural(summary.done, 'image')}{before}; see {folder}")
    if summary.done and not summary.objects and score_threshold is None:
        print_line("no score was above the threshold of its class; to see less certain detections too: --conf 0.05")
    elif summary.done and not summary.objects and score_threshold:
        lower = 0.05 if score_threshold > 0.05 else score_threshold / 10
        print_line(
            f"no score was above {score_threshold:g}; to see less certain detections too: --conf {lower:.2g}; if that "
            "finds nothing either, the weights were trained for too short a time, or for other images"
        )
    if summary.failed:
        print(f"{summary.failed} of {plural(summary.given, 'image')} could not be read", file=sys.stderr)


def print_gather_summary(summary: "GatherSummary", folder: "Path") -> None:
    """Print the number of objects, images and shards, and to standard error the images that cannot be read."""
    objects, done = plural(summary.objects, "object"), plural(summary.images - len(summary.failed), "image")
    print_line(f"{plural(summary.shards, 'shard')} complete: {objects} in {done}; see {folder}")
    for message in summary.failed:
        print(f"skipped: {message}", file=sys.stderr)
    if summary.failed:
        print(f"{len(summary.failed)} of {plural(summary.images, 'image')} could not be read", file=sys.stderr)


def print_training_result(result: "TrainingResult") -> None:
    """Print the best weights of a run and their AP on val."""
    ap = "no val split" if result.best is None else f"val AP {metric(result.best.AP)}"
    print_line(f"{result.folder / 'weights' / 'best.safetensors'}: {ap} after {plural(result.steps, 'step')}")


def print_export(result: "ExportResult", advice: Sequence[str]) -> None:
    """Print the size of an export, and the differences from its weights that its certificate contains.

    Args:
        result: the export.
        advice: lines to print if an int8 export is worse than the weights.
    """
    height, width = result.input_hw
    print_line(f"{result.path}: {result.size_bytes / 1e6:.1f} MB, input {width}x{height} (width x height)")
    certificate = result.certificate
    if result.structure is not None:
        from detector.exporting.coreml_structure import NOT_RUN

        for check in result.structure.checks:
            print_line(f"checked: {check}")
        print_line(NOT_RUN)
        print_line(f"certificate: {result.certificate_path}")
        return
    if certificate is None:
        print_line(
            "the export was not compared with the weights, because neither openvino nor onnxruntime is installed; "
            "install one of them and export again"
        )
        return
    for name, parity in certificate.parity.items():
        print_line(f"{certificate.runtime} compared with the weights on {name}: {parity}")
    latency, ap = certificate.latency_ms, certificate.AP
    print_line(f"latency: {latency.export} ms per image, {latency.weights} ms with the weights in torch")
    if ap is not None:
        print_line(f"AP {metric(ap.export, 4)} on {ap.split}, {metric(ap.weights, 4)} with the weights")
    worse = _print_agreement(certificate)
    if certificate.loses_too_much:
        worse = True
        print_line("COCO AP of the export is more than 0.005 below the AP of the weights")
    for line in advice if worse else []:
        print_line(line)
    print_line(f"valid for: {certificate.valid_for}")
    print_line(f"certificate: {result.certificate_path}")


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
    }[certificate.int8_agrees]
    percent = "" if parity.agreement is None else f"{100 * parity.agreement:.1f} % of "
    print_line(
        f"agreement with the weights on {USER_IMAGES}: {percent}{parity.confident} detections with a score above "
        f"{CONFIDENT:g}; {verdict}"
    )
    return certificate.int8_agrees is False


def int8_advice(data: str, weights: str) -> list[str]:
    """Return the advice for an int8 export that is worse than the weights; the arguments are quoted for a shell."""
    return [line.format(data=data, weights=weights) for line in _INT8_ADVICE.splitlines()]


def print_conversion(conversion: "Conversion", folder: str) -> None:
    """Print the counts of a converted dataset, the first clipped and dropped rows, and the next command.

    Args:
        conversion: what was written.
        folder: the folder of the converted dataset, quoted for a shell.
    """
    print_line(f"{conversion.description} → {conversion.format} in {conversion.folder}")
    names = conversion.class_names
    print_line(f"{len(names)} classes: {few_names(names, most=20)}")
    for split, ledger in conversion.ledgers.items():
        print_line(f"{split}: {conversion.image_counts[split]} images, {conversion.box_counts[split]} boxes written")
        print_line(f"  source: {ledger.summary()}")
        for line in ledger.note_lines():
            print_line(f"  {line}")
        for entry in ledger.entries[:_MAX_ENTRIES]:
            print_line(f"  {entry}")
        if len(ledger.entries) > _MAX_ENTRIES:
            print_line(f"  ... and {len(ledger.entries) - _MAX_ENTRIES} more: see {conversion.folder / 'ledger.json'}")
    print_line("read again and compared with the source: the same classes, images and boxes")
    outside = " --allow-outside" if conversion.needs_allow_outside else ""
    if "train" in conversion.ledgers:
        print_line(f"next: detector train --data {folder}{outside}")
    else:
        print_line(
            f"next: detector evaluate --data {folder} --split {next(iter(conversion.ledgers))}{outside} --weights ..."
        )


def print_restyled(result: "RestyledData", folder: str) -> None:
    """Print the counts of a restyled dataset, and the next command; `folder` is quoted for a shell."""
    boxes = sum(len(annotation.boxes) for annotation in result.split.annotations)
    images = plural(len(result.split.annotations), "image")
    print_line(f"{result.split.name}: {images}, {plural(boxes, 'box')}, {plural(result.styles, 'style image')} used")
    print_line(f"  source: {result.split.ledger.summary()}")
    if result.failed:
        print_line(f"  {plural(len(result.failed), 'image')} left out: see {result.folder / 'ledger.json'}")
    print_line(f"look at {result.folder / 'sheet.jpg'}: before, style, after")
    print_line(f"next: detector train --data {folder}")
