"""Sheets of images that show the labels that look wrong: the label in red, the suggestion in green."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from detector.annotation import Annotation
from detector.arrays import Floats, ImageArray
from detector.data.split import Split
from detector.errors import InputError
from detector.plots.sheet import (
    COLUMNS,
    PER_SHEET,
    TILE_SIDE,
    arrange_in_grid,
    crop_tile,
    empty_tile,
    short_name,
    with_text,
)
from detector.plots.svg import shorten
from detector.reviewing.rows import ReviewRow
from detector.reviewing.scores import KINDS

_SHEETS = 4
"""Largest number of sheets of a kind."""

_LABEL, _SUGGESTION = (230, 30, 30), (20, 200, 60)
"""Colors of the box of a label and of a suggested box."""


_NAME_LENGTH = 11
"""Largest number of characters of a class name in a change of the class: two fit below a tile."""


class _Source(NamedTuple):
    """An image and the split that reads it."""

    split: Split
    annotation: Annotation


def review_sheets(rows: Sequence[ReviewRow], splits: Sequence[Split]) -> Iterator[tuple[str, ImageArray]]:
    """Yield (file name, image [H, W, 3]) of sheets with the first rows of each kind, up to 96 rows of a kind.

    Args:
        rows: the rows, most suspicious first.
        splits: the splits of the rows.
    """
    sources = {(s.name, str(a.image_path)): _Source(s, a) for s in splits for a in s.annotations}
    for kind in KINDS:
        own = [row for row in rows if row.kind == kind][: _SHEETS * PER_SHEET]
        for number, start in enumerate(range(0, len(own), PER_SHEET), 1):
            tiles = [_tile(row, sources) for row in own[start : start + PER_SHEET]]
            yield f"{kind}-{number}.jpg", arrange_in_grid(tiles, columns=min(COLUMNS, len(tiles)))


def _tile(row: ReviewRow, sources: Mapping[tuple[str, str], _Source]) -> ImageArray:
    """Return a tile with the box of the label, the suggested box, and three lines of text."""
    source = sources[row.split, row.image]
    text = [f"{row.kind} {row.score:.2f}", _change(row), short_name(Path(row.image), TILE_SIDE)]
    try:
        image = source.split.read_image(source.annotation)
    except InputError:
        return with_text(empty_tile(0), text)
    boxes = np.array([row.box, row.suggested_box], np.float32)
    tile, (label, suggested) = crop_tile(image, boxes)
    drawn = Image.fromarray(tile)
    if row.action != "add":
        _outline(drawn, label, _LABEL)
    if row.action in ("add", "change box"):
        _outline(drawn, suggested, _SUGGESTION)
    return with_text(np.array(drawn), text)


def _change(row: ReviewRow) -> str:
    """Return the classes of a row as text."""
    if row.action != "change class":
        return row.class_name
    own, suggested = (shorten(name, _NAME_LENGTH) for name in (row.class_name, row.suggested_class))
    return f"{own} → {suggested}"


def _outline(image: Image.Image, box: Floats, color: tuple[int, int, int]) -> None:
    """Draw the outline of a box on an image."""
    x1, y1, x2, y2 = np.round(box).tolist()
    ImageDraw.Draw(image).rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=2)
