"""Detections drawn on a picture: a colour per class, lines and letters as large as the picture asks for."""

import colorsys
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.detections import Detections
from detector.images import Pixels

_LARGE = 1000
"""Short side in pixels from which on the objects decide about lines and letters too."""


def class_colour(class_id: int) -> tuple[int, int, int]:
    """Return an RGB colour for a class: hues a golden angle apart, so that neighbours in the list differ most."""
    hue = (0.58 + class_id * 0.381966) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if class_id % 2 == 0 else 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: Pixels, found: Detections, with_scores: bool = True) -> Pixels:
    """Return a copy of the picture [H, W, 3] with every detection drawn, the best on top; `#7` is the id of a track."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    size = min(canvas.size)
    if len(found) and size > _LARGE:
        # Such a picture is not looked at as a whole: letters as large as it asks for would hide small objects.
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1)
        size = min(size, max(_LARGE, round(8 * float(np.median(sides)))))
    line = max(1, round(size / 240))
    font = _font(max(10, round(size / 32)))
    for index in reversed(range(len(found))):
        class_id = int(found.class_ids[index])
        colour = class_colour(class_id)
        x1, y1, x2, y2 = (float(value) for value in np.round(found.boxes[index]))
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        track_id = -1 if found.track_ids is None else found.track_ids[index]
        text = (f"#{track_id} " if track_id >= 0 else "") + found.class_names[class_id]
        text += f" {found.scores[index]:.2f}" if with_scores else ""
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * line + 2, bottom - top + 2 * line + 2
        # Above the box, else below it, else inside; never over an edge of the picture.
        tag_x = max(0, min(x1, canvas.width - width))
        tag_y = y1 - height if y1 >= height else y2 if y2 + height <= canvas.height else y1
        pen.rectangle((tag_x, tag_y, tag_x + width, tag_y + height), fill=colour)
        luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        ink = "black" if luminance > 140 else "white"
        pen.text((tag_x + line + 1 - left, tag_y + line + 1 - top), text, font=font, fill=ink)
    return np.array(canvas)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
