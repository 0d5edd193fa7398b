"""Draw boxes with captions on an image: one color per class; line width and font size depend on the image size."""

import colorsys
import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from PIL import Image, ImageDraw

from detector.arrays import Floats, ImageArray, Ints
from detector.fonts import TextLayout, draw_text, layout_text, split_runs

log = logging.getLogger(__name__)

_LARGE = 1000
"""Short side in pixels above which line width and font size also depend on the size of the objects."""

_LARGEST_COVER = 0.4
"""Largest fraction of the area of an image that captions may cover before a legend replaces them."""

_LEGEND_TEXT_WIDTH = 30
"""Largest width of a name in a legend, as a multiple of the font size; longer names are shortened."""

_JOINERS = "\u200c\u200d"
"""Invisible characters that letters of some scripts need: zero width non-joiner and joiner."""


def class_color(class_id: int) -> tuple[int, int, int]:
    """Return the RGB color of a class as three levels, 0..255.

    The hues of consecutive classes differ by the golden angle, so that their colors are easy to tell apart.
    """
    hue = (0.58 + class_id * 0.381966) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if class_id % 2 == 0 else 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True)
class BoxStyle:
    """How a box is drawn.

    Attributes:
        color: RGB levels, 0..255, of the lines and of the background of the caption.
        dashed: whether the lines are dashed.
    """

    color: tuple[int, int, int]
    dashed: bool = False


def draw_boxes(
    image: ImageArray, boxes: Floats, captions: Sequence[str], class_ids: Ints, line_width: int | None = None
) -> ImageArray:
    """Draw boxes and captions on a copy of an image, and return the copy [H, W, 3].

    A caption that is wider than the image is shortened. A caption is never outside the image.

    Args:
        image: [H, W, 3] RGB.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of the image, the most important box first. The first box is on top.
        captions: N texts, one per box; "": no caption.
        class_ids: [N]; a class id determines the color of its box.
        line_width: width of the lines in pixels; None: chosen from the size of the image.
    """
    styles = [BoxStyle(class_color(int(class_id))) for class_id in class_ids]
    return draw_styled_boxes(image, boxes, captions, styles, line_width)


def draw_styled_boxes(
    image: ImageArray,
    boxes: Floats,
    captions: Sequence[str],
    styles: Sequence[BoxStyle],
    line_width: int | None = None,
    font_size: int | None = None,
) -> ImageArray:
    """Draw boxes and captions as `draw_boxes` does, each box in a style of its own, and return the copy [H, W, 3].

    Args:
        image: as for `draw_boxes`.
        boxes: as for `draw_boxes`.
        captions: as for `draw_boxes`.
        styles: N styles, one per box.
        line_width: as for `draw_boxes`.
        font_size: font size of the captions in pixels; None: chosen from the size of the image.
    """
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    size = _reference_size(drawn.size, boxes)
    line = line_width or _line_width(size)
    pad = _line_width(size) + 1
    rounded = np.round(boxes).astype(float)
    worst_first = range(len(boxes))[::-1]
    for index in worst_first:
        x1, y1, x2, y2 = rounded[index]
        _draw_outline(pen, (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), styles[index], line)
    captioned = [index for index, caption in enumerate(captions) if caption]
    font_size = font_size or _font_size(size)
    texts = [fitting_layout(captions[index], font_size, drawn.width - 2 * pad) for index in captioned]
    sizes = [(width + 2 * pad, height + 2 * pad) for width, height in (text.size for text in texts)]
    positions = _caption_positions(rounded[captioned], sizes, drawn.size)
    # After all boxes, so that no line crosses a caption.
    for index, text, (x, y), (width, height) in reversed(list(zip(captioned, texts, positions, sizes, strict=True))):
        color = styles[index].color
        pen.rectangle((x, y, x + width, y + height), fill=color)
        draw_text(pen, (x + pad, y + pad - text.box[1]), text, ink(color))
    return np.array(drawn)


def _draw_outline(
    pen: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], style: BoxStyle, line: int
) -> None:
    """Draw the four sides of a box; `line` is the width of the lines, which are inside the box."""
    if not style.dashed:
        pen.rectangle(corners, outline=style.color, width=line)
        return
    x1, y1, x2, y2 = corners
    dash = 4 * line + 2
    for x in np.arange(x1, x2 + 1, 2 * dash).tolist():
        for top in (y1, max(y1, y2 - line + 1)):
            pen.rectangle((x, top, min(x + dash, x2), min(top + line - 1, y2)), fill=style.color)
    for y in np.arange(y1, y2 + 1, 2 * dash).tolist():
        for left in (x1, max(x1, x2 - line + 1)):
            pen.rectangle((left, y, min(left + line - 1, x2), min(y + dash, y2)), fill=style.color)


def captions_cover(image_hw: tuple[int, int], boxes: Floats, captions: Sequence[str]) -> bool:
    """Return True if the captions would cover the image: two fifths of its area, or one of them more than its width.

    Args:
        image_hw: height and width of the image.
        boxes: [N, 4] in pixels of the image.
        captions: N texts, one per box.
    """
    height, width = image_hw
    size = _reference_size((width, height), boxes)
    pad = _line_width(size) + 1
    sizes = [layout_text(caption, _font_size(size)).size for caption in captions]
    area = sum((text_width + 2 * pad) * (text_height + 2 * pad) for text_width, text_height in sizes)
    return area > _LARGEST_COVER * height * width or any(text_width + 2 * pad > width for text_width, _ in sizes)


def add_legend(image: ImageArray, names: Mapping[int, str]) -> ImageArray:
    """Return a copy of an image with a legend of the classes below it; the image itself is at the top left.

    The result is wider than the image if the image is too narrow for the names.

    Args:
        image: [H, W, 3] RGB.
        names: class id → name of the class; each is one entry of the legend.
    """
    height, width = image.shape[:2]
    font_size = _font_size(min(height, width))
    texts = [fitting_layout(name, font_size, _LEGEND_TEXT_WIDTH * font_size) for name in names.values()]
    gap = max(2, font_size // 3)
    row = font_size + 2 * gap
    # Each entry: a gap, a square in the color of the class, a gap, the name.
    column = 2 * gap + font_size + max((round(text.size[0]) for text in texts), default=0) + gap
    columns = max(1, min(len(texts), width // column))
    rows = ceil(len(texts) / columns)
    panel = Image.new("RGB", (max(width, column), height + rows * row + gap), "white")
    panel.paste(Image.fromarray(image))
    pen = ImageDraw.Draw(panel)
    for index, (class_id, text) in enumerate(zip(names, texts, strict=True)):
        x, y = index // rows * column + gap, height + index % rows * row + gap
        pen.rectangle((x, y, x + font_size, y + font_size), fill=class_color(class_id))
        draw_text(pen, (x + font_size + gap, y + round(0.85 * font_size)), text, "black")
    return np.array(panel)


def drawable_name(name: str, class_id: int) -> str:
    """Return the name of a class as it is drawn: on one line, or "class 3" if no font on this machine has its letters.

    The first name without a font is also logged as a warning.
    """
    name = " ".join("".join(char if char.isprintable() or char in _JOINERS else " " for char in name).split())
    if name and split_runs(name) is not None:
        return name
    if name:
        _warn_without_font(name)
    return f"class {class_id}"


@lru_cache(maxsize=1)
def _warned() -> list[str]:
    """Return the list of names for which a warning was logged; at most one."""
    return []


def _warn_without_font(name: str) -> None:
    """Log a warning that no font has the letters of a class name; only once in a process."""
    if not _warned():
        _warned().append(name)
        log.warning(
            "no font on this machine has all letters of the class name %r: such names are drawn as class ids; install "
            "a font with these letters, such as Noto Sans",
            name,
        )


def fitting_layout(text: str, size: int, width: float) -> TextLayout:
    """Return the layout of a text at a font size, shortened at the end ("Erythro...") if it is wider than `width`."""
    layout = layout_text(text, size)
    if layout.size[0] <= width:
        return layout
    # The largest number of letters that fit; at least one, however narrow the image is.
    count = bisect_right(range(1, len(text)), width, key=lambda n: layout_text(f"{text[:n]}...", size).size[0])
    return layout_text(f"{text[: max(1, count)].rstrip()}...", size)


def _reference_size(image_wh: tuple[int, int], boxes: Floats) -> int:
    """Return the size in pixels to which line width and font size are proportional."""
    size = min(image_wh)
    if len(boxes) and size > _LARGE:
        # A large image is viewed in parts: a font size in proportion to the whole image would hide small objects.
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        size = min(size, max(_LARGE, round(8 * float(np.median(sides)))))
    return size


def _line_width(size: int) -> int:
    """Return the line width in pixels for a reference size."""
    return max(1, round(size / 240))


def _font_size(size: int) -> int:
    """Return the font size in pixels for a reference size."""
    return max(10, round(size / 32))


def ink(color: tuple[int, int, int]) -> str:
    """Return the color of text that is readable on a background of this RGB color: black or white."""
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _caption_positions(
    boxes: Floats, sizes: Sequence[tuple[float, float]], image_wh: tuple[int, int]
) -> list[tuple[float, float]]:
    """Return the top left corner (x, y) of the caption of each box.

    Each caption is placed where it covers least of the captions placed before. If several places are equal, the order
    is: above the box, at the top inside the box, below the box, at the bottom inside the box. If the caption would hide
    the object, the place below comes before the place at the top inside. A caption is never outside the image.
    """
    taken = np.zeros((len(boxes), 4))
    for index, ((x1, y1, x2, y2), (width, height)) in enumerate(zip(boxes, sizes, strict=True)):
        left = max(0, min(x1, image_wh[0] - width))
        right = max(0, min(x2, image_wh[0]) - width)
        above, inside, below, bottom = y1 - height, y1, y2, y2 - height
        hides = y2 - y1 < 2 * height or x2 - x1 < width
        preferred = (above, below, inside, bottom) if hides else (above, inside, below, bottom)
        tops = [top for top in preferred if 0 <= top <= image_wh[1] - height] or [0]
        options = np.array([(x, top, x + width, top + height) for top in tops for x in (left, right)])
        overlap = np.minimum(options[:, None, 2:], taken[:index, 2:]) - np.maximum(
            options[:, None, :2], taken[:index, :2]
        )
        taken[index] = options[overlap.clip(0).prod(axis=2).sum(axis=1).argmin()]
    return [(x, y) for x, y, _, _ in taken.tolist()]
