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

_FONT_SIZE, _ROW, _MARGIN = 17, 28, 12
"""Font size, height of a row and margin of the text below the image, in pixels."""

_MOST_ROWS = 40
"""Largest number of missed objects and false positives that are described below the image."""

_CROP_SIDE = 96
"""Side of a crop below the image, in pixels."""

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
    drawn = draw_styled_boxes(enlarged, boxes * np.float32(scale), captions, styles, font_size=_FONT_SIZE)
    described = _rows(explanation, own)
    shown = [row for rows in described[:_MOST_ROWS] for row in _joined(rows, drawn.shape[1])]
    if (more := len(described) - _MOST_ROWS) > 0:
        shown.append(_Row("", None, f"and {more} more; see explanation.json"))
    if explanation.prices.now is not None and any(own.settings):
        shown.append(_Row("", None, f"price of a setting: change per image; {explanation.prices.note}"))
    panel = _text_panel(drawn.shape[1], own, shown)
    crops = _crop_panel(drawn.shape[1], image, explanation, own)
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


def _joined(rows: Sequence[_Row], width: int) -> Sequence[_Row]:
    """Return rows as one row if their text fits into the width of the panel, else unchanged."""
    text = "; ".join(row.text for row in rows)
    fits = layout_text(text, _FONT_SIZE).size[0] <= _text_width(width)
    return [rows[0]._replace(text=text)] if fits else rows


def _text_width(width: int, x: float = _MARGIN) -> float:
    """Return the largest width of a text in a panel of this width, in a row that begins at `x`."""
    return width - x - _ROW - 2 * _MARGIN


def _text_panel(width: int, own: ImageExplanation, rows: Sequence[_Row]) -> ImageArray:
    """Return an image [H, width, 3] with the legend of the colors and rows of text."""
    panel = Image.new("RGB", (width, _ROW * (len(rows) + 1) + 2 * _MARGIN), "white")
    pen = ImageDraw.Draw(panel)
    x = float(_MARGIN)
    found, missed = int(own.outcome.matches.found.sum()), len(own.misses)
    legend = (
        (FOUND, f"{found} of {plural(own.object_count, 'object')} found"),
        (MISSED, f"{missed} missed"),
        (WRONG, plural(len(own.false_positives), "false positive")),
    )
    for style, text in legend:
        x = _write(pen, (x, _MARGIN), "", style, text, width) + 2 * _MARGIN
    for number, row in enumerate(rows, 1):
        _write(pen, (_MARGIN, _MARGIN + number * _ROW), row.label, row.style, row.text, width)
    return np.array(panel)


def _write(
    pen: ImageDraw.ImageDraw, xy: tuple[float, float], label: str, style: BoxStyle | None, text: str, width: int
) -> float:
    """Write a colored square with a label, and text beside it; return the x of the end of the text.

    Args:
        pen: pen of the panel.
        xy: top left corner of the row.
        label: text in the square.
        style: style of the box that the row is about; its color is that of the square. None: no square.
        text: the text, which is shortened if it does not fit.
        width: width of the panel.
    """
    x, y = xy
    side = _ROW - 6
    baseline = y + side - 5
    if style is not None:
        pen.rectangle((x, y, x + side + 8, y + side), fill=style.color)
    if style is not None and label:
        layout = fitting_layout(label, _FONT_SIZE - 2, side + 8)
        draw_text(pen, (x + (side + 8 - layout.size[0]) / 2, baseline), layout, ink(style.color))
    layout = fitting_layout(text, _FONT_SIZE, _text_width(width, x))
    draw_text(pen, (x + side + 16, baseline), layout, "black")
    return x + side + 16 + layout.size[0]


def _crop_panel(width: int, image: ImageArray, explanation: Explanation, own: ImageExplanation) -> ImageArray | None:
    """Return an image [H, width, 3] of false positives, each beside its most similar training crops; None if none."""
    rows = [
        (number, wrong, own.similar[wrong.detection])
        for number, wrong in enumerate(own.false_positives, len(own.misses) + 1)
        if own.similar.get(wrong.detection)
    ][:_MOST_CROPS]
    if not rows:
        return None
    step = _CROP_SIDE + _MARGIN + _ROW
    per_line = max(1, (width - _MARGIN) // (5 * (_CROP_SIDE + _MARGIN)))
    lines = -(-len(rows) // per_line)
    panel = Image.new("RGB", (width, _ROW + lines * step + _MARGIN), "white")
    pen = ImageDraw.Draw(panel)
    title = "similar training crops beside the false positives in the background:"
    draw_text(pen, (_MARGIN, _ROW - 10), fitting_layout(title, _FONT_SIZE, width - 2 * _MARGIN), "black")
    for position, (number, wrong, crops) in enumerate(rows):
        x = _MARGIN + position % per_line * 5 * (_CROP_SIDE + _MARGIN)
        y = _ROW + position // per_line * step
        _paste(panel, (x, y), _crop(image, own.outcome.boxes[wrong.detection]), f"{number}", WRONG)
        for column, crop in enumerate(crops, 1):
            try:
                tile = _crop(crop.read(), np.array(crop.box, dtype=np.float32))
            except InputError:  # the file was removed since
                continue
            name = drawable_name(explanation.class_names[crop.class_id], crop.class_id)
            at = x + column * (_CROP_SIDE + _MARGIN), y
            _paste(panel, at, tile, f"{name} {crop.similarity:.2f}", FOUND)
    return np.array(panel)


def _crop(image: ImageArray, box: Floats) -> ImageArray:
    """Return the part of an image around a box as a square [`_CROP_SIDE`, `_CROP_SIDE`, 3]."""
    x1, y1, x2, y2 = box.tolist()
    half = max(x2 - x1, y2 - y1, 4.0) * 0.6
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    around = np.array([x - half, y - half, x + half, y + half], dtype=np.float32)
    left, top, right, bottom = clip(around, (image.shape[0], image.shape[1])).round().astype(int).tolist()
    part = Image.fromarray(image[top : max(bottom, top + 1), left : max(right, left + 1)])
    part = part.resize([max(1, round(side * _CROP_SIDE / max(part.size))) for side in part.size])
    tile = Image.new("RGB", (_CROP_SIDE, _CROP_SIDE), "white")
    tile.paste(part, ((_CROP_SIDE - part.width) // 2, (_CROP_SIDE - part.height) // 2))
    return np.array(tile)


def _paste(panel: Image.Image, xy: tuple[int, int], tile: ImageArray, text: str, style: BoxStyle) -> None:
    """Paste a crop with a frame in the color of a style, and a text below it, into a panel."""
    x, y = xy
    panel.paste(Image.fromarray(tile), xy)
    pen = ImageDraw.Draw(panel)
    pen.rectangle((x, y, x + _CROP_SIDE - 1, y + _CROP_SIDE - 1), outline=style.color, width=3)
    layout = fitting_layout(text, _FONT_SIZE - 3, _CROP_SIDE)
    draw_text(pen, (x, y + _CROP_SIDE + _FONT_SIZE), layout, "black")
