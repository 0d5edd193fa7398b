"""The sections of a report page, as HTML."""

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from detector.escaping import escape_line
from detector.evaluating.report.charts import FEWEST_DETECTIONS, MOST_BARS, MOST_LINES
from detector.evaluating.report.confusion_table import confusion_table, outcome_text
from detector.evaluating.report.content import Content
from detector.evaluating.report.images import Figures
from detector.metrics.average_precision import AveragePrecision
from detector.metrics.bootstrap import few_images_note
from detector.metrics.calibration import LOWEST_SCORE
from detector.metrics.intervals import Interval
from detector.wording import UNDEFINED, metric, plural

_WORST_IMAGES, _MOST_CROPS = 12, 24
_LEDGER_LINES = 10

_LONG_TABLE = 20
"""A table with more rows scrolls, except on paper."""

_SIZES = (
    ("all objects", "AP", "AP50", "AP75", "AR100"),
    ("small (area below 32² px)", "APs", None, None, "ARs"),
    ("medium (32² to 96² px)", "APm", None, None, "ARm"),
    ("large (above 96² px)", "APl", None, None, "ARl"),
)
"""Rows of the table of metrics: label, and the names of AP, AP50, AP75 and AR."""

_KINDS = (
    ("class", "right place, wrong class"),
    ("localization", "right class, IoU 0.1 to 0.5"),
    ("both", "wrong class, and IoU 0.1 to 0.5"),
    ("duplicate", "the object is already found by a better detection"),
    ("background", "no object there (IoU at most 0.1)"),
    ("missed", "no detection, and no class or localization error is about the object"),
)


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        anchor: its id, for links.
        title: its heading.
        html: its content.
    """

    anchor: str
    title: str
    html: str


def make_sections(content: Content, charts: dict[str, str], figures: Figures) -> list[Section]:
    """Return all sections of the page in their order.

    Args:
        content: the numbers.
        charts: file name without suffix → SVG of each plot.
        figures: makes the images; those of the last sections are left out first if the report becomes too large.
    """
    # Whole images first, then lists, then the cells of the matrix: so each part gets its images before the limit.
    worst, false_positives, missed = (make(content, figures) for make in (_worst, _false_positives, _missed))
    matrix = confusion_table(content, figures)
    sections = [Section("metrics", "Average precision", _metrics(content, charts))]
    if content.subject.training:
        titles = {"training-loss": "Loss", "training-ap": "AP on val"}
        curves = [f"<h3>{title}</h3>{charts[name]}" for name, title in titles.items() if name in charts]
        note = (
            "<p>The best weights are those with the highest AP on these images, so the numbers on other images are "
            "slightly lower.</p>"
        )
        sections.append(Section("training", "Training", note * (len(content.subject.training) > 1) + _grid(curves)))
    sections += [
        Section("threshold", "Precision, recall and the score threshold", _threshold(content, charts)),
        Section("confusion", "Confusion matrix", _confusion(content, matrix)),
        Section("errors", "Error budget", _errors(content, charts)),
        Section("calibration", "Calibration", _calibration(content, charts)),
        Section("objects", "Which objects are found", _objects(content, charts)),
        Section("worst", "Images with the most errors", worst),
        Section("false-positives", "False positives with the highest scores", false_positives),
        Section("missed", "Missed objects", missed),
        Section("data", "Data and weights", _data(content)),
    ]
    return sections


def summary(content: Content) -> str:
    """Return the first lines of the page: the most important numbers."""
    ap, total = content.evaluation.ap, content.total
    intervals = {} if ap.intervals is None else ap.intervals.metrics
    cards = []
    for name, what in (
        ("AP", "mean over IoU 0.50 to 0.95"),
        ("AP50", "at IoU 0.50"),
        ("AP75", "at IoU 0.75"),
        ("AR100", "average recall"),
    ):
        interval = _interval_text(getattr(ap, name), intervals.get(name))
        cards.append(
            f"<div><dt>{name}</dt><dd><b>{metric(getattr(ap, name))}</b><span>{interval}</span><i>{what}</i></dd></div>"
        )
    images = plural(len(content.evaluation.ground_truth["images"]), "image")
    at_threshold = (
        f"<p>At the score threshold {content.threshold:.2f}, {_percent(total.precision)} of the detections are right, "
        f"and {_percent(total.recall)} of the {total.objects:,} objects are found (IoU at least 0.5).</p>"
    )
    note = f"<p>{_text(content.subject.note)}</p>" if content.subject.note else ""
    return f"{note}<p>{_interval_note(ap, images)}</p><dl class='cards'>{''.join(cards)}</dl>{at_threshold}"


def _interval_note(ap: AveragePrecision, images: str) -> str:
    """Return what was measured, and what the intervals mean."""
    if ap.intervals is None or not any(ap.intervals.metrics.values()):
        return f"COCO's metrics on {images}."
    few = few_images_note(ap.intervals.few_images)
    return (
        f"COCO's metrics on {images}. [low, high]: 95 % confidence interval on many more images like these."
        f"{'' if few is None else f' {_text(few[0].upper() + few[1:])}.'}"
    )


def _metrics(content: Content, charts: dict[str, str]) -> str:
    """Return the tables of AP by size and by class, with the curves of precision and recall."""
    ap = content.evaluation.ap
    intervals = {} if ap.intervals is None else ap.intervals.metrics
    rows = []
    for label, *names in _SIZES:
        cells = ["" if name is None else _value(getattr(ap, name), intervals.get(name)) for name in names]
        rows.append([label, *cells])
    by_size = _table(["objects", "AP", "AP50", "AP75", "AR (100 detections)"], rows)
    rows = []
    for row in content.classes:
        own = {} if ap.intervals is None else ap.intervals.per_class[row.name]
        values = [_value(ap.per_class[row.name][name], own.get(name)) for name in ("AP", "AP50")]
        rates = [metric(value) for value in (row.precision, row.recall, row.f1)]
        rows.append([_text(row.name), *values, *rates, f"{row.objects:,}"])
    columns = ["class", "AP", "AP50", "precision", "recall", "F1", "objects"]
    note = f"<p>Precision, recall and F1 are those at the score threshold {content.threshold:.2f}.</p>"
    blocks = [
        f"<h3>Precision against recall at IoU 0.5</h3>{charts['precision-recall']}",
        f"<h3>AP of each class</h3>{charts['class-ap']}",
    ]
    if len(rows) > MOST_LINES:
        blocks.append(f"<p>Curves: the {MOST_LINES} classes with the most objects. Bars: the first {MOST_BARS}.</p>")
    return by_size + _table(columns, rows) + note + _grid(blocks)


def _threshold(content: Content, charts: dict[str, str]) -> str:
    """Return precision, recall and F1 against the score threshold."""
    if content.curve.best is None:
        note = f"No detection is right, so the default threshold {content.threshold:.2f} of `detect` is marked."
    else:
        note = (
            f"The marked score threshold, {content.threshold:.2f}, has the highest F1 of all classes together. All "
            "numbers below that need a threshold use it. It is chosen on the same images on which it is measured, so "
            "the numbers on other images are slightly lower."
        )
    return f"<p>{escape(note)}</p>{_grid([charts['threshold']])}"


def _confusion(content: Content, matrix: str) -> str:
    """Return the confusion matrix with its explanation."""
    return (
        f"<p>Outcomes at the score threshold {content.threshold:.2f} and an IoU of at least 0.5. The row background "
        "has detections without an object, the column background has missed objects. Colors show fractions of a row. "
        f"Select a number off the diagonal to see its images.</p>{matrix}"
    )


def _errors(content: Content, charts: dict[str, str]) -> str:
    """Return the error budget with its explanation."""
    budget = content.budget
    kinds = _table(["kind", "meaning"], [[kind, escape(meaning)] for kind, meaning in _KINDS])
    totals = ""
    if budget.AP50 != UNDEFINED:
        totals = (
            f" Without any false positive, AP50 would rise by {100 * budget.false_positives:.1f} points; without any "
            f"missed object, by {100 * budget.false_negatives:.1f}."
        )
    return (
        f"<p>By how many points AP50 ({metric(budget.AP50)}) would rise if all errors of one kind were fixed (TIDE; "
        f"detections with any score). The numbers do not sum up to the distance from 1.{totals}</p>"
        f"{_grid([charts['error-budget'], kinds])}"
    )


def _calibration(content: Content, charts: dict[str, str]) -> str:
    """Return the calibration curve with its explanation."""
    curve = content.calibration
    if curve is None:
        return "<p>n/a: some scores are outside 0 to 1, so they are no probabilities.</p>"
    count = plural(int(curve.counts.sum()), "detection")
    return (
        f"<p>Expected calibration error (ECE): <b>{metric(curve.ece)}</b>, from {count} with a score of at least "
        f"{LOWEST_SCORE:g}. On the dotted line, a score is the probability that the detection is right; below the "
        f"line, scores are too high; above, too low. Dots: bins with at least {FEWEST_DETECTIONS} detections.</p>"
        f"{_grid([charts['calibration']])}"
    )


def _objects(content: Content, charts: dict[str, str]) -> str:
    """Return the recall by kind of object."""
    blocks = [f"<h3>By {escape(kind)}</h3>{charts[chart_name(kind)]}" for kind in content.groups]
    return (
        f"<p>Fraction of the objects that are found at the score threshold {content.threshold:.2f}. Size: square root "
        "of the area of the box. Aspect ratio: width to height. Crowding: largest IoU with another object.</p>"
        f"{_grid(blocks)}"
    )


def chart_name(kind: str) -> str:
    """Return the file name, without suffix, of the plot of recall by a kind of group.

    >>> chart_name("aspect ratio")
    'recall-by-aspect-ratio'
    """
    return f"recall-by-{kind.replace(' ', '-')}"


def _worst(content: Content, figures: Figures) -> str:
    """Return the images with the most false positives and missed objects."""
    confusion = content.confusion
    wrong = confusion.image[~confusion.correct]
    count = len(content.evaluation.matches.image_ids)
    false_positives = np.bincount(wrong[confusion.found[~confusion.correct] >= 0], minlength=count)
    missed = np.bincount(wrong[confusion.object[~confusion.correct] >= 0], minlength=count)
    order = np.argsort(-(false_positives + missed), kind="stable")
    chosen = [int(image) for image in order if false_positives[image] + missed[image]]

    def figure(image: int) -> str | None:
        """Return the figure of an image."""
        caption = f"{plural(int(false_positives[image]), 'false positive')}, {missed[image]} missed"
        return figures.whole(image, caption)

    legend = (
        '<p class="legend"><span class="tp">correct detection</span> <span class="fp">false positive</span> '
        '<span class="fn">missed object</span></p>'
        "<p>An object that is detected as another class counts as both errors.</p>"
    )
    return legend + _gallery(chosen, figure, _WORST_IMAGES, "image", "with an error", "shots")


def _false_positives(content: Content, figures: Figures) -> str:
    """Return the false positives with the highest scores."""
    confusion, scores = content.confusion, content.evaluation.matches.scores
    own = np.flatnonzero((confusion.found >= 0) & ~confusion.correct)
    own = own[np.argsort(-scores[confusion.found[own]], kind="stable")]
    note = "<p>Some may be objects that lack a label.</p>"
    return note + _gallery(
        own.tolist(), lambda i: figures.crop(i, outcome_text(content, i)), _MOST_CROPS, "false positive", "", "crops"
    )


def _missed(content: Content, figures: Figures) -> str:
    """Return the missed objects, the largest first."""
    confusion, evaluation = content.confusion, content.evaluation
    own = np.flatnonzero(confusion.found < 0)
    rows = [evaluation.ground_truth["annotations"][row] for row in evaluation.matches.object_row[confusion.object[own]]]
    areas = np.array([row["bbox"][2] * row["bbox"][3] for row in rows], np.float64)
    sizes = dict(zip(own.tolist(), (f"{row['bbox'][2]:.0f}x{row['bbox'][3]:.0f} px" for row in rows), strict=True))
    ordered = own[np.argsort(-areas, kind="stable")].tolist()

    def figure(outcome: int) -> str | None:
        """Return the figure of a missed object."""
        return figures.crop(outcome, f"{content.names[confusion.truth[outcome]]}, {sizes[outcome]}")

    note = "<p>The largest first. Objects that are detected as another class are in the confusion matrix.</p>"
    return note + _gallery(ordered, figure, _MOST_CROPS, "missed object", "", "crops")


def _gallery(
    items: Sequence[int], figure: Callable[[int], str | None], most: int, noun: str, rest: str, kind: str
) -> str:
    """Return the figures of the first items, and a line that says how many are shown.

    Args:
        items: the items, the most important first.
        figure: returns the figure of an item; None if there is none.
        most: largest number of figures.
        noun: what the items are, in the singular.
        rest: the rest of the line, after the number of items.
        kind: class of the HTML element.
    """
    if not items:
        return "<p>None.</p>"
    shown = [html for html in map(figure, items[:most]) if html is not None]
    return f"<p>{len(shown)} of {plural(len(items), noun)} {rest} shown.</p><div class='{kind}'>{''.join(shown)}</div>"


def _data(content: Content) -> str:
    """Return what was evaluated, with hashes and the ledger."""
    rows = [[escape(label), _text(text)] for label, text in content.facts.items()]
    speed = content.evaluation.images_per_second
    if speed is not None:
        text = f"{speed:.1f} images per second on this machine: reading, scaling and detecting, measured once"
        rows.append(["speed", text])
    ledger = content.split.ledger
    lines = [
        f"{text} ({plural(count, 'row')})" if count > 1 else text
        for text, count in ledger.distinct_entries(_LEDGER_LINES)
    ]
    lines = [*ledger.note_lines(), *lines]
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    more = f"<p>Label rows that were clipped or dropped (first {_LEDGER_LINES}):</p><ul>{listed}</ul>" if lines else ""
    return _table(["", ""], rows, "facts") + more


def _grid(blocks: Sequence[str]) -> str:
    """Return blocks side by side where there is room."""
    return f'<div class="grid">{"".join(f"<div>{block}</div>" for block in blocks)}</div>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table; the cells are HTML, and the first of each row is its header."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    head = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    table = f'<table class="{kind}">{head}<tbody>{body}</tbody></table>'
    long = " long" if len(rows) > _LONG_TABLE else ""
    return f'<div class="scroll{long}" tabindex="0" role="region" aria-label="table">{table}</div>'


def _value(value: float, interval: Interval | None) -> str:
    """Return a metric with its interval."""
    return f"{metric(value)} <small>{_interval_text(value, interval)}</small>"


def _interval_text(value: float, interval: Interval | None) -> str:
    """Return the text of an interval; empty if there is none."""
    return "" if interval is None or value == UNDEFINED else str(interval)


def _percent(value: float) -> str:
    """Return a fraction in percent; "n/a" for -1."""
    return "n/a" if value == UNDEFINED else f"{100 * value:.1f} %"


def _text(text: str) -> str:
    """Return text from data for HTML: escaped, on one line, and isolated from the direction of the text around it."""
    return f"<bdi>{escape(escape_line(text))}</bdi>"
