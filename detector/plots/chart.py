"""Small charts: bars of characters for the terminal, lines and bars as images."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.arrays import ImageArray

_BLOCKS = " ▁▂▃▄▅▆▇█"
_INK, _GRID, _PAPER, _LINE, _MARK = (40, 40, 40), (225, 225, 225), (255, 255, 255), (34, 102, 204), (204, 68, 34)


def sparkline(values: Sequence[float]) -> str:
    """Return one character per value, as high as its logarithm between the smallest and the largest.

    >>> sparkline([1, 10, 100])
    '▁▅█'
    """
    logs = np.log10(np.maximum(values, 1e-12))
    low, high = float(logs.min()), float(logs.max())
    heights = np.zeros(len(logs)) if high == low else (logs - low) / (high - low)
    return "".join(_BLOCKS[1 + round(float(height) * 7)] for height in heights)


def bar_chart(title: str, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> ImageArray:
    """Draw each series as a panel of bars, one per name, on a logarithmic scale."""
    row, left, width, panel = 14, 210, 260, 290
    height = 40 + row * len(names) + 24
    paper = Image.new("RGB", (left + panel * len(series), height), _PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(11)
    pen.text((8, 6), title, font=font, fill=_INK)
    for index, name in enumerate(names):
        pen.text((8, 38 + row * index), name, font=font, fill=_INK)
    for number, (label, values) in enumerate(series.items()):
        x0 = left + panel * number
        low, high = _decades(values)
        pen.text((x0, 22), label, font=font, fill=_INK)
        for decade in range(low, high + 1):
            x = x0 + width * (decade - low) / (high - low)
            pen.line((x, 38, x, 38 + row * len(names)), fill=_GRID)
            if (high - low) <= 8 or (decade - low) % 2 == 0:
                pen.text((x - 8, 40 + row * len(names)), f"1e{decade}", font=font, fill=_INK)
        for index, value in enumerate(values):
            if value > 0:
                length = width * (np.log10(value) - low) / (high - low)
                pen.rectangle((x0, 40 + row * index, x0 + max(1.0, length), 50 + row * index), fill=_LINE)
    return np.array(paper)


def line_chart(title: str, xs: Sequence[float], ys: Sequence[float], marks: Mapping[str, float]) -> ImageArray:
    """Draw one line over a logarithmic axis, with named marks on that axis."""
    left, top, width, height = 60, 30, 620, 300
    paper = Image.new("RGB", (left + width + 30, top + height + 60), _PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(12)
    pen.text((8, 8), title, font=font, fill=_INK)
    low, high = _decades(xs)
    bottom, ceiling = 0.0, max(1e-9, float(np.quantile(ys, 0.95)) * 1.3)

    def x_of(value: float) -> float:
        return left + width * float(np.log10(value) - low) / (high - low)

    def y_of(value: float) -> float:
        return top + height * (1 - (min(value, ceiling) - bottom) / (ceiling - bottom))

    for decade in range(low, high + 1):
        pen.line((x_of(10.0**decade), top, x_of(10.0**decade), top + height), fill=_GRID)
        pen.text((x_of(10.0**decade) - 10, top + height + 6), f"1e{decade}", font=font, fill=_INK)
    for fraction in (0.0, 0.5, 1.0):
        value = bottom + fraction * (ceiling - bottom)
        pen.line((left, y_of(value), left + width, y_of(value)), fill=_GRID)
        pen.text((8, y_of(value) - 7), f"{value:.2g}", font=font, fill=_INK)
    pen.line([(x_of(x), y_of(y)) for x, y in zip(xs, ys, strict=True)], fill=_LINE, width=2)
    for index, (name, x) in enumerate(marks.items()):
        if 10.0**low <= x <= 10.0**high:
            pen.line((x_of(x), top, x_of(x), top + height), fill=_MARK, width=1)
            pen.text((x_of(x) + 3, top + 4 + 16 * index), f"{name} {x:.2g}", font=font, fill=_MARK)
    return np.array(paper)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten around positive values."""
    positive = [value for value in values if value > 0 and np.isfinite(value)] or [1.0]
    low, high = int(np.floor(np.log10(min(positive)))), int(np.ceil(np.log10(max(positive))))
    return low, max(high, low + 1)
