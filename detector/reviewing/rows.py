"""`ReviewRow`: one label that looks wrong, with a suggestion; CSV and JSON files with such rows."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detector.arrays import Floats
from detector.errors import LabelError, location
from detector.files import read_text
from detector.reviewing.scores import Kind
from detector.wording import shown

Action = Literal["change class", "change box", "remove", "add"]
"""What a suggestion does with a label."""

ACTIONS: dict[Kind, Action] = {
    "swapped": "change class",
    "loose": "change box",
    "size": "change box",
    "spurious": "remove",
    "duplicate": "remove",
    "missing": "add",
}
"""Kind of error → what is suggested."""

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the image: the shortest decimal numbers that are read as the same float32."""

NO_LABEL = -1
"""Index of the label in a row about an object without a label."""


@dataclass(frozen=True)
class ReviewRow:
    """A label that looks wrong, or an object that seems to have no label.

    Attributes:
        kind: kind of error.
        score: how wrong it looks, 0..1.
        action: what is suggested.
        split: name of the split.
        image: path of the image.
        label: index of the label in the image, from 0; -1: there is no label.
        class_name: class of the label; of a missing label: the suggested class.
        box: box of the label; of a missing label: the suggested box.
        suggested_class: the class after the change.
        suggested_box: the box after the change.
    """

    kind: Kind
    score: float
    action: Action
    split: str
    image: str
    label: int
    class_name: str
    box: Box
    suggested_class: str
    suggested_box: Box

    def to_json(self) -> dict[str, Any]:
        """Return the row as values that JSON can represent."""
        return asdict(self)


_SIDES = ("x1", "y1", "x2", "y2")
_HEADER = (
    "kind", "score", "action", "split", "image", "label", "class_name", *_SIDES,
    "suggested_class", *(f"suggested_{side}" for side in _SIDES),
)  # fmt: skip


def to_box(box: Floats) -> Box:
    """Return a box [4] as the shortest decimal numbers that are read as the same float32."""
    x1, y1, x2, y2 = (float(str(np.float32(side))) for side in box)
    return x1, y1, x2, y2


def rows_to_csv(rows: Sequence[ReviewRow]) -> bytes:
    """Return rows as the content of a CSV file with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for row in rows:
        label = (row.kind, f"{row.score:.4f}", row.action, row.split, row.image, row.label, row.class_name)
        writer.writerow((*label, *row.box, row.suggested_class, *row.suggested_box))
    return text.getvalue().encode()


def read_rows(path: Path) -> list[ReviewRow]:
    """Read a CSV file that `rows_to_csv` wrote, from which the user may have removed rows.

    Raises:
        InputError: the file cannot be read, or a row has another form. The message names the line.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if tuple(reader.fieldnames or ()) != _HEADER:
        raise LabelError(
            f"{path}: expected the header of a review, {','.join(_HEADER)}; keep the first line of the file"
        )
    return [_parse(values, path, reader.line_num) for values in reader]


def _parse(values: dict[str, str], path: Path, line: int) -> ReviewRow:
    """Return the row in a line of a CSV file."""
    if None in values or None in values.values():
        raise LabelError(f"{location(path, line)}: expected {len(_HEADER)} values; restore the line, or remove it")
    kind = values["kind"]
    kinds = {name: name for name in ACTIONS}
    if kind not in kinds or values["action"] != ACTIONS[kinds[kind]]:
        raise LabelError(
            f"{location(path, line)}: {shown(kind)} with the action {shown(values['action'])} is not in a review; "
            f"kinds are {', '.join(ACTIONS)}"
        )
    try:
        score, label = float(values["score"]), int(values["label"])
        boxes = [[float(values[prefix + side]) for side in _SIDES] for prefix in ("", "suggested_")]
    except ValueError as error:
        raise LabelError(f"{location(path, line)}: {error}; restore the line, or remove it") from None
    (x1, y1, x2, y2), (a1, b1, a2, b2) = boxes
    return ReviewRow(
        kinds[kind], score, ACTIONS[kinds[kind]], values["split"], values["image"], label,
        values["class_name"], (x1, y1, x2, y2), values["suggested_class"], (a1, b1, a2, b2),
    )  # fmt: skip
