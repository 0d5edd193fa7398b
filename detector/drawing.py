"""Detections drawn on a picture: a colour per class, lines and letters as large as the picture asks for."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.arrays import Floats, ImageArray
from detector.detections import Detections

_LARGE = 1000
"""Short side in pixels from which on the objects decide about lines and letters too."""


def class_colour(class_id: int) -> tuple[int, int, int]:
    """Return an RGB colour for a class: hues a golden angle apart, so that neighbours in the list differ most."""
    hue = (0.58 + class_id * 0.381966) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if class_id % 2 == 0 else 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: ImageArray, found: Detections, with_scores: bool = True) -> ImageArray:
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
    boxes, texts = np.round(found.boxes).astype(float), _texts(found, with_scores)
    inks = [pen.textbbox((0, 0), text, font=font) for text in texts]
    sizes = [(right - left + 2 * line + 2, bottom - top + 2 * line + 2) for left, top, right, bottom in inks]
    places = _places(boxes, sizes, canvas.size)
    worst_first = range(len(found))[::-1]
    colours = [class_colour(int(class_id)) for class_id in found.class_ids]
    for index in worst_first:
        x1, y1, x2, y2 = boxes[index]
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colours[index], width=line)
    for index in worst_first:  # no line runs through a name
        (tag_x, tag_y), (width, height) = places[index], sizes[index]
        pen.rectangle((tag_x, tag_y, tag_x + width, tag_y + height), fill=colours[index])
        red, green, blue = colours[index]
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
        left, top, _, _ = inks[index]
        pen.text((tag_x + line + 1 - left, tag_y + line + 1 - top), texts[index], font=font, fill=ink)
    return np.array(canvas)


def _texts(found: Detections, with_scores: bool) -> list[str]:
    """Return what stands at each box."""
    tracks = found.track_ids if found.track_ids is not None else np.full(len(found), -1)
    return [
        (f"#{track_id} " if track_id >= 0 else "") + name + (f" {score:.2f}" if with_scores else "")
        for track_id, (name, score, _) in zip(tracks, found, strict=True)
    ]


def _places(
    boxes: Floats, sizes: Sequence[tuple[float, float]], image_wh: tuple[int, int]
) -> list[tuple[float, float]]:
    """Return where each tag stands, best first: where it covers the least of better ones' tags.

    Above the box, else inside of it, if it does not hide the object, below, or at its foot; never over an edge of the
    picture.
    """
    taken = np.zeros((len(boxes), 4))
    for index, ((x1, y1, x2, y2), (width, height)) in enumerate(zip(boxes, sizes, strict=True)):
        left = max(0, min(x1, image_wh[0] - width))
        right = max(0, min(x2, image_wh[0]) - width)
        above, inside, below, foot = y1 - height, y1, y2, y2 - height
        hides = y2 - y1 < 2 * height or x2 - x1 < width
        wanted = (above, below, inside, foot) if hides else (above, inside, below, foot)
        tops = [top for top in wanted if 0 <= top <= image_wh[1] - height] or [0]
        tags = np.array([(x, top, x + width, top + height) for top in tops for x in (left, right)])
        corners = np.minimum(tags[:, None, 2:], taken[:index, 2:]) - np.maximum(tags[:, None, :2], taken[:index, :2])
        taken[index] = tags[corners.clip(0).prod(axis=2).sum(axis=1).argmin()]
    return [(x, y) for x, y, _, _ in taken.tolist()]


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
