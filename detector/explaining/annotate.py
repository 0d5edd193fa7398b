"""Annotated images: found objects, missed objects and false positives in three colors, and below them the causes."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from detector.arrays import Floats, ImageArray
from detector.boxes import clip
from detector.drawing import BoxStyle, draw_styled_boxes, drawable_name, fitting_layout, ink
from detector.errors import InputError
from detector.explaining.explanation import Explanation, ImageExplanation
from detector.explaining.sentences import remedy, wrong_sentence
from detector.fonts import draw_text, layout_text
from detector.wording import plural

FOUND = BoxStyle((100, 143, 255))
MISSED = BoxStyle((220, 38, 127), dashed=True)
WRONG = BoxStyle((255, 176, 0))
"""Blue, magenta and amber differ in hue and lightness for people with any color blindness.

Source: the color-blind safe palette of the IBM Design Library.
"""

_LEAST_WIDTH = 1100
"""Smaller images are enlarged to this width in pixels, so that captions do not hide the objects."""

_LARGE_WIDTH = 1600
"""In images wider than this number of pixels, the text is larger, in proportion to the width."""

_MOST_ROWS = 40
"""Largest number of missed objects and false positives that are described below the image."""

_MOST_CROPS = 6
"""Largest number of false positives for which similar training crops are shown."""

_SHORT = {
    "max_det": "cut",
    "suppressed": "suppressed",
    "confused": "confused",
    "localization": "badly localized",
    "threshold": "low score",
    "too_small": "too small",
    "no_prediction": "no prediction",
}
"""Cause → caption at the box."""


class _Sizes(NamedTuple):
    """Sizes of the text and the crops below an image, in pixels.

    Attributes:
        width: width of the image.
        font: font size.
        row: height of a row of text.
        margin: space around and between the parts.
        crop: side of a crop.
    """

    width: int
    font: int
    row: int
    margin: int
    crop: int

    @classmethod
    def of(cls, width: int) -> "_Sizes":
        """Return the sizes for an image of this width."""
        factor = max(1.0, width / _LARGE_WIDTH)
        return cls(width, *(round(size * factor) for size in (17, 28, 12, 96)))

    def text_width(self, x: float) -> float:
        """Return the largest width of a text in a row that begins at `x`."""
        return self.width - x - self.row - 2 * self.margin


class _Row(NamedTuple):
    """A row of text below the image.

    Attributes:
        label: number of the box that the row describes; "": none.
        style: style of the box; None: the row describes no box.
        text: the text.
    """

    label: str
    style: BoxStyle | None
    text: str


def annotate(image: ImageArray, explanation: Explanation, own: ImageExplanation) -> ImageArray:
    """Return an image [H, W, 3] that shows the objects and false positives of an image, with the causes below it.

    Args:
        image: [H, W, 3] RGB.
        explanation: the explanation of all images.
        own: the explanation of this image.
    """
    scale = max(1.0, _LEAST_WIDTH / image.shape[1])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    enlarged = (
        np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8) if scale > 1 else image
    )
    boxes, captions, styles = _boxes(own)
    sizes = _Sizes.of(size[0])
    drawn = draw_styled_boxes(enlarged, boxes * np.float32(scale), captions, styles, font_size=sizes.font)
    described = _rows(explanation, own)
    shown = [row for rows in described[:_MOST_ROWS] for row in _joined(rows, sizes)]
    if (more := len(described) - _MOST_ROWS) > 0:
        shown.append(_Row("", None, f"and {more} more; see explanation.json"))
    if explanation.prices.now is not None and any(own.settings):
        shown.append(_Row("", None, f"price of a setting: change per image; {explanation.prices.note}"))
    panel = _text_panel(sizes, own, shown)
    crops = _crop_panel(sizes, image, explanation, own)
    return np.concatenate([drawn, panel, *([crops] if crops is not None else [])])


def _boxes(own: ImageExplanation) -> tuple[Floats, list[str], list[BoxStyle]]:
    """Return boxes, captions and styles: missed objects first, then false positives, then found objects."""
    truth, outcome = own.annotation, own.outcome
    missed = [miss.object for miss in own.misses]
    wrong = [item.detection for item in own.false_positives]
    found = np.flatnonzero(outcome.matches.objects >= 0)
    boxes = np.concatenate([truth.boxes[missed], outcome.boxes[wrong], outcome.boxes[found]])
    captions = [f"{number} {_SHORT[miss.cause]}" for number, miss in enumerate(own.misses, 1)]
    captions += [f"{number} {item.kind}" for number, item in enumerate(own.false_positives, len(missed) + 1)]
    captions += [""] * len(found)
    return boxes, captions, [MISSED] * len(missed) + [WRONG] * len(wrong) + [FOUND] * len(found)


def _rows(explanation: Explanation, own: ImageExplanation) -> list[list[_Row]]:
    """Return the rows for each missed object and each false positive, with the numbers of the captions."""
    truth, names = own.annotation, explanation.class_names
    rows: list[list[_Row]] = []
    for number, (miss, settings) in enumerate(zip(own.misses, own.settings, strict=True), 1):
        class_id = int(truth.class_ids[miss.object])
        text = f"{drawable_name(names[class_id], class_id)} missed: {explanation.sentence(miss)}"
        rows.append([_Row(str(number), MISSED, text), _Row("", None, remedy(settings, explanation.prices))])
    for number, wrong in enumerate(own.false_positives, len(own.misses) + 1):
        class_id, score = int(own.outcome.class_ids[wrong.detection]), own.outcome.scores[wrong.detection]
        name = drawable_name(names[class_id], class_id)
        text = f"{name} {score:.2f}: {wrong_sentence(wrong, own.outcome, truth, names)}"
        rows.append([_Row(str(number), WRONG, text)])
    return rows


def _joined(rows: Sequence[_Row], sizes: _Sizes) -> Sequence[_Row]:
    """Return rows as one row if their text fits into the width of the panel, else unchanged."""
    text = "; ".join(row.text for row in rows)
    fits = layout_text(text, sizes.font).size[0] <= sizes.text_width(sizes.margin)
    return [rows[0]._replace(text=text)] if fits else rows


def _text_panel(sizes: _Sizes, own: ImageExplanation, rows: Sequence[_Row]) -> ImageArray:
    """Return an image [H, W, 3] with the legend of the colors and rows of text."""
    panel = Image.new("RGB", (sizes.width, sizes.row * (len(rows) + 1) + 2 * sizes.margin), "white")
    pen = ImageDraw.Draw(panel)
    x = float(sizes.margin)
    found, missed = int(own.outcome.matches.found.sum()), len(own.misses)
    legend = (
        (FOUND, f"{found} of {plural(own.object_count, 'object')} found"),
        (MISSED, f"{missed} missed"),
        (WRONG, plural(len(own.false_positives), "false positive")),
    )
    for style, text in legend:
        x = _write(pen, (x, sizes.margin), _Row("", style, text), sizes) + 2 * sizes.margin
    for number, row in enumerate(rows, 1):
        _write(pen, (sizes.margin, sizes.margin + number * sizes.row), row, sizes)
    return np.array(panel)


def _write(pen: ImageDraw.ImageDraw, xy: tuple[float, float], row: _Row, sizes: _Sizes) -> float:
    """Write a colored square with a label, and text beside it; return the x of the end of the text.

    Args:
        pen: pen of the panel.
        xy: top left corner of the row.
        row: label, style and text; without a style there is no square. A text that does not fit is shortened.
        sizes: sizes of the panel.
    """
    x, y = xy
    height = sizes.row - sizes.margin // 2
    width, baseline = round(1.4 * height), y + 0.78 * height
    if row.style is not None:
        pen.rectangle((x, y, x + width, y + height), fill=row.style.color)
        label = fitting_layout(row.label, sizes.font - 2, width) if row.label else None
        if label is not None:
            draw_text(pen, (x + (width - label.size[0]) / 2, baseline), label, ink(row.style.color))
    text = fitting_layout(row.text, sizes.font, sizes.text_width(x))
    start = x + width + sizes.margin // 2
    draw_text(pen, (start, baseline), text, "black")
    return start + text.size[0]


def _crop_panel(sizes: _Sizes, image: ImageArray, explanation: Explanation, own: ImageExplanation) -> ImageArray | None:
    """Return an image [H, W, 3] of false positives, each beside its most similar training crops; None if none."""
    rows = [
        (number, wrong, own.similar[wrong.detection])
        for number, wrong in enumerate(own.false_positives, len(own.misses) + 1)
        if own.similar.get(wrong.detection)
    ][:_MOST_CROPS]
    if not rows:
        return None
    across, down = sizes.crop + sizes.margin, sizes.crop + sizes.margin + sizes.row
    per_line = max(1, (sizes.width - sizes.margin) // (5 * across))
    lines = -(-len(rows) // per_line)
    panel = Image.new("RGB", (sizes.width, sizes.row + lines * down + sizes.margin), "white")
    pen = ImageDraw.Draw(panel)
    title = "similar training crops beside the false positives in the background:"
    layout = fitting_layout(title, sizes.font, sizes.width - 2 * sizes.margin)
    draw_text(pen, (sizes.margin, 0.65 * sizes.row), layout, "black")
    for position, (number, wrong, crops) in enumerate(rows):
        x = sizes.margin + position % per_line * 5 * across
        y = sizes.row + position // per_line * down
        _paste(panel, (x, y), _crop(image, own.outcome.boxes[wrong.detection], sizes), f"{number}", WRONG, sizes)
        for column, crop in enumerate(crops, 1):
            try:
                tile = _crop(crop.read(), np.array(crop.box, dtype=np.float32), sizes)
            except InputError:  # the file was removed since
                continue
            name = drawable_name(explanation.class_names[crop.class_id], crop.class_id)
            at = x + column * across, y
            _paste(panel, at, tile, f"{name} {crop.similarity:.2f}", FOUND, sizes)
    return np.array(panel)


def _crop(image: ImageArray, box: Floats, sizes: _Sizes) -> ImageArray:
    """Return the part of an image around a box as a square [S, S, 3], where S is `sizes.crop`."""
    x1, y1, x2, y2 = box.tolist()
    half = max(x2 - x1, y2 - y1, 4.0) * 0.6
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    around = np.array([x - half, y - half, x + half, y + half], dtype=np.float32)
    left, top, right, bottom = clip(around, (image.shape[0], image.shape[1])).round().astype(int).tolist()
    part = Image.fromarray(image[top : max(bottom, top + 1), left : max(right, left + 1)])
    part = part.resize([max(1, round(side * sizes.crop / max(part.size))) for side in part.size])
    tile = Image.new("RGB", (sizes.crop, sizes.crop), "white")
    tile.paste(part, ((sizes.crop - part.width) // 2, (sizes.crop - part.height) // 2))
    return np.array(tile)


def _paste(
    panel: Image.Image, xy: tuple[int, int], tile: ImageArray, text: str, style: BoxStyle, sizes: _Sizes
) -> None:
    """Paste a crop with a frame in the color of a style, and a text below it, into a panel."""
    x, y = xy
    panel.paste(Image.fromarray(tile), xy)
    pen = ImageDraw.Draw(panel)
    pen.rectangle((x, y, x + sizes.crop - 1, y + sizes.crop - 1), outline=style.color, width=max(3, sizes.crop // 32))
    layout = fitting_layout(text, sizes.font - 3, sizes.crop)
    draw_text(pen, (x, y + sizes.crop + sizes.font), layout, "black")
