"""Draw boxes with captions on an image: one color per class; line width and font size depend on the image size."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.arrays import Floats, ImageArray, Ints

_LARGE = 1000
"""Short side in pixels above which line width and font size also depend on the size of the objects."""


def class_color(class_id: int) -> tuple[int, int, int]:
    """Return the RGB color of a class as three levels, 0..255.

    The hues of consecutive classes differ by the golden angle, so that their colors are easy to tell apart.
    """
    hue = (0.58 + class_id * 0.381966) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if class_id % 2 == 0 else 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(image: ImageArray, boxes: Floats, captions: Sequence[str], class_ids: Ints) -> ImageArray:
    """Draw boxes and captions on a copy of an image, and return the copy [H, W, 3].

    Args:
        image: [H, W, 3] RGB.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of the image, the most important box first. The first box is on top.
        captions: N texts, one per box.
        class_ids: [N]; a class id determines the color of its box.
    """
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    size = min(drawn.size)
    if len(boxes) and size > _LARGE:
        # A large image is viewed in parts: a font size in proportion to the whole image would hide small objects.
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        size = min(size, max(_LARGE, round(8 * float(np.median(sides)))))
    line = max(1, round(size / 240))
    font = _font(max(10, round(size / 32)))
    rounded = np.round(boxes).astype(float)
    inks = [pen.textbbox((0, 0), caption, font=font) for caption in captions]
    sizes = [(right - left + 2 * line + 2, bottom - top + 2 * line + 2) for left, top, right, bottom in inks]
    positions = _caption_positions(rounded, sizes, drawn.size)
    worst_first = range(len(boxes))[::-1]
    colors = [class_color(int(class_id)) for class_id in class_ids]
    for index in worst_first:
        x1, y1, x2, y2 = rounded[index]
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colors[index], width=line)
    for index in worst_first:  # after all boxes, so that no line crosses a caption
        (x, y), (width, height) = positions[index], sizes[index]
        pen.rectangle((x, y, x + width, y + height), fill=colors[index])
        red, green, blue = colors[index]
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
        left, top, _, _ = inks[index]
        pen.text((x + line + 1 - left, y + line + 1 - top), captions[index], font=font, fill=ink)
    return np.array(drawn)


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


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font for captions, with a size in pixels."""
    return ImageFont.load_default(size)
