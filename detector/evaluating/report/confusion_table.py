"""The confusion matrix of a report as an HTML table; a cell leads to the images of its errors."""

from html import escape

import numpy as np

from detector.arrays import Ints
from detector.escaping import escape_line
from detector.evaluating.report.content import Content
from detector.evaluating.report.images import Figures
from detector.plots.svg import shorten

_MOST_CLASSES = 20
"""Largest number of classes in the table: those with the most errors."""

_MOST_CELLS, _CROPS_PER_CELL = 60, 8
"""Largest number of cells with images, and of images in each."""


def confusion_table(content: Content, figures: Figures) -> str:
    """Return the table, and the images of its cells, which are hidden until a cell is selected."""
    matrix = content.confusion.matrix
    background = len(content.names)
    names = content.confusion_names
    shown = _classes_with_most_errors(matrix)
    wrong = [(int(matrix[i, j]), i, j) for i in shown for j in shown if i != j and matrix[i, j]]
    wrong.sort(key=lambda cell: (-cell[0], *cell[1:]))
    cells = {(i, j): _cell_images(content, figures, i, j) for _, i, j in wrong[:_MOST_CELLS]}
    head = "".join(f'<th scope="col"><bdi>{_name(names[j])}</bdi></th>' for j in shown)
    rows = []
    for i in shown:
        row, sum_of_row = [], max(int(matrix[i].sum()), 1)
        for j in shown:
            if i == j == background:
                row.append("<td></td>")
                continue
            count = int(matrix[i, j])
            text = f"{count:,}"
            if cells.get((i, j)):
                label = _label(f"{count} outcomes, truth {names[i]}, detected as {names[j]}: show images")
                text = f'<a href="#cell-{i}-{j}" aria-label="{label}">{text}</a>'
            kind = "hit" if i == j else "error"
            row.append(f'<td class="{kind}" style="--f:{50 * count / sum_of_row:.0f}%">{text}</td>')
        rows.append(f'<tr><th scope="row"><bdi>{_name(names[i])}</bdi></th>{"".join(row)}</tr>')
    more = ""
    if len(shown) <= background:
        more = (
            f"<p>The {len(shown) - 1} of {background} classes with the most errors; report.json has the whole "
            "matrix.</p>"
        )
    return (
        f'{more}<div class="scroll" tabindex="0" role="region" aria-label="confusion matrix"><table class="matrix">'
        "<caption>Rows: true class. Columns: detected class.</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{''.join(cells.values())}"
    )


def _classes_with_most_errors(matrix: Ints) -> list[int]:
    """Return the indices of the classes to show, and of the background, which is the last."""
    errors = (matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix))[:-1]
    chosen = np.argsort(-errors, kind="stable")[:_MOST_CLASSES]
    return [*sorted(chosen.tolist()), len(matrix) - 1]


def _cell_images(content: Content, figures: Figures, truth: int, predicted: int) -> str:
    """Return the hidden block with the images of a cell; empty if no image can be shown."""
    confusion, scores = content.confusion, content.evaluation.matches.scores
    own = np.flatnonzero((confusion.truth == truth) & (confusion.predicted == predicted))
    best = np.where(confusion.found[own] >= 0, np.append(scores, 0.0)[confusion.found[own]], 0)
    own = own[np.argsort(-best, kind="stable")]
    crops = [figures.crop(outcome, outcome_text(content, outcome)) for outcome in own[:_CROPS_PER_CELL].tolist()]
    shown = [crop for crop in crops if crop is not None]
    if not shown:
        return ""
    names = content.confusion_names
    title = f"truth: {_name(names[truth])}, detected as: {_name(names[predicted])}"
    return (
        f'<section class="cell" id="cell-{truth}-{predicted}"><h3>{title}</h3><p>{len(shown)} of {len(own):,} shown. '
        f'<a href="#confusion">close</a></p><div class="crops">{"".join(shown)}</div></section>'
    )


def outcome_text(content: Content, outcome: int) -> str:
    """Return the caption of an outcome, such as "RBC 0.93, truth: background"."""
    confusion, names = content.confusion, content.confusion_names
    found, truth = int(confusion.found[outcome]), names[confusion.truth[outcome]]
    if found < 0:
        return f"{truth}, missed"
    score = content.evaluation.matches.scores[found]
    return f"{names[confusion.predicted[outcome]]} {score:.2f}, truth: {truth}"


def _label(text: str) -> str:
    """Return text for an attribute."""
    return escape(escape_line(text))


def _name(name: str) -> str:
    """Return the name of a class for HTML."""
    return escape(shorten(name, 24))
