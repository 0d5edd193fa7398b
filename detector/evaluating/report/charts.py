"""The plots of a report, as SVG."""

from collections.abc import Sequence

import numpy as np

from detector.evaluating.report.content import Content
from detector.metrics.error_budget import ERROR_KINDS
from detector.metrics.object_groups import ObjectGroup
from detector.metrics.precision_recall import RECALL_LEVELS
from detector.plots.svg import Axis, Bar, Line, bar_chart, line_chart
from detector.wording import UNDEFINED, metric, plural

MOST_LINES = 12
"""Largest number of classes with a curve; the classes with the most objects are shown."""

FEWEST_DETECTIONS = 10
"""Smallest number of detections of a bin that is drawn in the calibration curve."""

MOST_BARS = 24
"""Largest number of classes with a bar; the first are shown."""


def precision_recall(content: Content) -> str:
    """Return the curves of precision against recall, one per class."""
    objects = [row.objects for row in content.classes]
    chosen = sorted(np.argsort(-np.array(objects, np.int64), kind="stable")[:MOST_LINES].tolist())
    lines, texts = [], []
    for index in chosen:
        curve, name = content.class_curves[index], content.names[index]
        if curve is not None:
            ap50 = float(curve.mean())
            lines.append(Line(f"{name} {ap50:.3f}", list(zip(RECALL_LEVELS.tolist(), curve.tolist(), strict=True))))
            texts.append(f"{name}: AP50 {ap50:.3f}")
    description = f"Precision against recall at the IoU threshold 0.5. {'; '.join(texts) or 'There are no objects'}."
    return line_chart("Precision and recall", description, lines, (Axis("recall"), Axis("precision")))


def thresholds(content: Content) -> str:
    """Return precision, recall and F1 against the score threshold, with the threshold of the report marked."""
    curve, total = content.curve, content.total
    x = curve.thresholds.tolist()
    lines = []
    for name, values in (("precision", curve.precision), ("recall", curve.recall), ("F1", curve.f1)):
        points = [point for point in zip(x, values.tolist(), strict=True) if point[1] != UNDEFINED]
        lines.append(Line(name, points))
    description = (
        f"At the score threshold {content.threshold:.2f}: precision {metric(total.precision)}, recall "
        f"{metric(total.recall)}, F1 {metric(total.f1)}."
    )
    axis = Axis("score threshold", min(0.0, x[0]), max(1.0, x[-1]))
    mark = (content.threshold, f"{content.threshold:.2f}")
    return line_chart("Precision, recall and F1", description, lines, (axis, Axis("value")), mark=mark)


def error_budget(content: Content) -> str:
    """Return what each kind of error costs, in points of AP50."""
    budget = content.budget
    bars = []
    for kind in ERROR_KINDS:
        gain, count = budget.gains[kind], plural(budget.counts[kind], "error")
        if gain == UNDEFINED:
            bars.append(Bar(kind, None, f"n/a · {count}"))
        else:
            bars.append(Bar(kind, 100 * gain, f"{100 * gain:.1f} · {count}"))
    high = max(1.0, *(bar.value or 0.0 for bar in bars))
    description = "Points of AP50 that each kind of error costs: " + "; ".join(f"{b.name}: {b.text}" for b in bars)
    return bar_chart("Error budget", f"{description}.", bars, high=high)


def calibration(content: Content) -> str:
    """Return the fraction of correct detections against their score."""
    curve = content.calibration
    points: list[tuple[float, float]] = []
    ece = "n/a"
    if curve is not None:
        used = curve.counts >= FEWEST_DETECTIONS
        points = list(zip(curve.confidence[used].tolist(), curve.precision[used].tolist(), strict=True))
        ece = metric(curve.ece)
    description = f"Fraction of correct detections against their confidence score. Expected calibration error: {ece}."
    axes = (Axis("mean score"), Axis("precision"))
    return line_chart("Calibration", description, [Line("detections", points, dots=True)], axes, diagonal=True)


def recall_by(kind: str, groups: Sequence[ObjectGroup]) -> str:
    """Return the recall of groups of objects; the arguments are an item of `Content.groups`."""
    bars = []
    for group in groups:
        recall = group.found / group.objects if group.objects else None
        text = "no objects" if recall is None else f"{100 * recall:.0f} % of {group.objects:,}"
        bars.append(Bar(group.name, recall, text))
    description = "; ".join(f"{bar.name}: {bar.text}" for bar in bars)
    return bar_chart(f"Recall by {kind}", f"{description}.", bars)


def class_ap(content: Content) -> str:
    """Return the AP of each class, with its interval."""
    ap = content.evaluation.ap
    bars = []
    for name in content.names[:MOST_BARS]:
        value = ap.per_class[name]["AP"]
        interval = None if ap.intervals is None else ap.intervals.per_class[name]["AP"]
        ends = None if interval is None or value == UNDEFINED else (interval.low, interval.high)
        text = "no objects" if value == UNDEFINED else f"{value:.3f}"
        bars.append(Bar(name, None if value == UNDEFINED else value, text, ends))
    description = "; ".join(f"{bar.name}: {bar.text}" for bar in bars)
    return bar_chart("AP of each class", f"{description}.", bars)


def training(content: Content) -> dict[str, str]:
    """Return the curves of the training run by file name: loss and AP over the steps; empty if there was no run."""
    rows = content.subject.training
    if not rows:
        return {}
    steps = Axis("step", 0, max(1.0, float(rows[-1]["step"])))
    losses = [key for key in rows[0] if key.startswith("loss_")]
    lines = [Line(key.removeprefix("loss_"), [(row["step"], row[key]) for row in rows], dots=True) for key in losses]
    high = max([1e-9, *(y for line in lines for _, y in line.points)])
    last = ", ".join(f"{line.name} {line.points[-1][1]:.3f}" for line in lines)
    charts = {
        "training-loss": line_chart(
            "Training loss", f"Mean loss since the last evaluation; at the end: {last}.", lines,
            (steps, Axis("loss", 0, high)),
        )
    }  # fmt: skip
    names = [name for name in ("AP", "AP50", "AP75") if name in rows[0]]
    if names:
        lines = [
            Line(name, [(row["step"], row[name]) for row in rows if row[name] != UNDEFINED], dots=True)
            for name in names
        ]
        text = ", ".join(f"{name} {metric(rows[-1][name])}" for name in names)
        charts["training-ap"] = line_chart(
            "AP in training", f"Metrics on val; at the end: {text}.", lines, (steps, Axis("value"))
        )
    return charts
