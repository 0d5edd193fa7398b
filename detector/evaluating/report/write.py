"""Write the report of an evaluation to a folder."""

from pathlib import Path

from detector.errors import InputError
from detector.evaluating.evaluation import Evaluation
from detector.evaluating.report import charts
from detector.evaluating.report.content import Content, make_content
from detector.evaluating.report.images import MOST_BYTES, Figures
from detector.evaluating.report.page import make_page
from detector.evaluating.report.sections import chart_name, make_sections
from detector.evaluating.report.subject import Subject
from detector.files import json_bytes
from detector.output_folder import OutputFolder
from detector.plots.svg import standalone

PAGE, NUMBERS = "report.html", "report.json"

_PLOTS = (
    "precision-recall", "class-ap", "threshold", "error-budget", "calibration", "recall-by-size",
    "recall-by-aspect-ratio", "recall-by-crowding", "recall-by-position", "training-loss", "training-ap",
)  # fmt: skip

REPORT_FILES = (PAGE, NUMBERS, *(f"plots/{name}.svg" for name in _PLOTS))
"""Names of all files of a report; a report without a training run does not have the plots of the training."""


def write_report(
    folder: OutputFolder, subject: Subject, evaluation: Evaluation, *, prefix: str = "", most_bytes: int = MOST_BYTES
) -> Path:
    """Write the page, its numbers and its plots to a folder, and return the path of the page.

    Args:
        folder: the folder; the caller has claimed `REPORT_FILES`.
        subject: what the report is about.
        evaluation: the evaluation, with its split.
        prefix: folder inside of `folder`, with a / at the end.
        most_bytes: largest size of all images in the page.

    Raises:
        InputError: the split has no images, or a file cannot be written.
    """
    if evaluation.split is None or not evaluation.split.annotations:
        raise InputError("a report needs at least one image; the evaluated split has none")
    content = make_content(subject, evaluation, evaluation.split)
    plots = _plots(content)
    figures = Figures(content, most_bytes)
    sections = make_sections(content, plots, figures)
    folder.write(f"{prefix}{PAGE}", make_page(content, sections, figures.shown, figures.is_full).encode())
    folder.write(f"{prefix}{NUMBERS}", json_bytes(content.to_json()))
    for name, chart in plots.items():
        folder.write(f"{prefix}plots/{name}.svg", standalone(chart).encode())
    return folder.path / f"{prefix}{PAGE}"


def _plots(content: Content) -> dict[str, str]:
    """Return file name without suffix → plot."""
    return {
        "precision-recall": charts.precision_recall(content),
        "class-ap": charts.class_ap(content),
        "threshold": charts.thresholds(content),
        "error-budget": charts.error_budget(content),
        "calibration": charts.calibration(content),
        **{chart_name(kind): charts.recall_by(kind, groups) for kind, groups in content.groups.items()},
        **charts.training(content),
    }
