"""Sheets of images: tiles of equal size with lines of text below them, in a grid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from detector.arrays import Floats, ImageArray
from detector.fonts import draw_text, layout_text
from detector.letterbox import FILL, Letterbox, letterbox_image

TILE_SIDE = 160
"""Side of the square image of a tile, in pixels."""

_LINE_HEIGHT, _FONT_SIZE = 13, 11
"""Height of a line of text below a tile, and size of its font, in pixels."""

PER_SHEET = 24
"""Largest number of tiles of a sheet."""

COLUMNS = 6
"""Largest number of tiles in a row of a sheet."""


def crop_tile(image: ImageArray, boxes: Floats) -> tuple[ImageArray, Floats]:
    """Return a square tile that shows boxes of an image with their surroundings, and the boxes in pixels of the tile.

    Args:
        image: [H, W, 3] RGB.
        boxes: [N, 4] with N at least 1, in pixels of the image.
    """
    around = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    center, margin = (around[:2] + around[2:]) / 2, max(16.0, 0.8 * float((around[2:] - around[:2]).max()))
    left, top = np.maximum(center - margin, 0).astype(int)
    right, bottom = np.ceil(center + margin).astype(int)
    letterbox: Letterbox
    letterbox, tile = letterbox_image(image[top:bottom, left:right], (TILE_SIDE, TILE_SIDE))
    return tile, letterbox.to_input(boxes - np.array([left, top] * 2, dtype=np.float32))


def short_name(path: Path, width: int) -> str:
    """Return the end of a file name that fits below a tile of this width in pixels."""
    most = max(8, width // 6)
    return path.name if len(path.name) <= most else "…" + path.name[1 - most :]


def with_text(image: ImageArray, lines: Sequence[str]) -> ImageArray:
    """Return an image [H, W, 3] with lines of text below it."""
    strip = Image.new("RGB", (image.shape[1], _LINE_HEIGHT * len(lines)), "white")
    pen = ImageDraw.Draw(strip)
    for index, line in enumerate(lines):
        draw_text(pen, (2, index * _LINE_HEIGHT + _FONT_SIZE), layout_text(line, _FONT_SIZE), "black")
    return np.concatenate([image, np.array(strip)], axis=0)


def empty_tile(lines: int) -> ImageArray:
    """Return a gray tile with the height of a tile that has this number of lines of text."""
    return np.full((TILE_SIDE + lines * _LINE_HEIGHT, TILE_SIDE, 3), FILL, dtype=np.uint8)


def arrange_in_grid(tiles: Sequence[ImageArray], columns: int) -> ImageArray:
    """Return one image that shows tiles of equal size in a grid, row by row; unused places of the last row are gray."""
    missing = -len(tiles) % columns
    filled = [*tiles, *[np.full_like(tiles[0], FILL)] * missing]
    rows = [np.concatenate(filled[i : i + columns], axis=1) for i in range(0, len(filled), columns)]
    return np.concatenate(rows, axis=0)
