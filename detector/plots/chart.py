"""Small charts: sparklines made of characters for the terminal; bar charts and line charts as images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detector.arrays import ImageArray

_BLOCKS = " ▁▂▃▄▅▆▇█"
_TEXT, _GRID, _BACKGROUND = (40, 40, 40), (225, 225, 225), (255, 255, 255)
_DATA, _MARK = (34, 102, 204), (204, 68, 34)


@dataclass(frozen=True)
class _LogScale:
    """A logarithmic axis: maps values to pixels.

    Attributes:
        low: exponent of the power of ten at the start of the axis.
        high: exponent of the power of ten at the end of the axis.
        start: pixel at which the axis starts.
        length: length of the axis in pixels.
    """

    low: int
    high: int
    start: float
    length: float

    @classmethod
    def fit(cls, values: Sequence[float], start: float, length: float) -> "_LogScale":
        """Return the axis that covers all positive, finite values.

        Args:
            values: the values to show.
            start: pixel at which the axis starts.
            length: length of the axis in pixels.
        """
        positive = [value for value in values if value > 0 and np.isfinite(value)] or [1.0]
        low, high = int(np.floor(np.log10(min(positive)))), int(np.ceil(np.log10(max(positive))))
        return cls(low, max(high, low + 1), start, length)

    @property
    def powers(self) -> range:
        """Exponents of the powers of ten on the axis."""
        return range(self.low, self.high + 1)

    def contains(self, value: float) -> bool:
        """Return whether a value lies on the axis."""
        return 10.0**self.low <= value <= 10.0**self.high

    def pixel(self, value: float) -> float:
        """Return the pixel coordinate of a positive value on the axis."""
        return self.start + self.length * float(np.log10(value) - self.low) / (self.high - self.low)


def sparkline(values: Sequence[float]) -> str:
    """Return a text with one bar character per value; the heights of the bars show the values on a logarithmic scale.

    >>> sparkline([1, 10, 100])
    '▁▅█'
    """
    logs = np.log10(np.maximum(values, 1e-12))
    low, high = float(logs.min()), float(logs.max())
    heights = np.zeros(len(logs)) if high == low else (logs - low) / (high - low)
    return "".join(_BLOCKS[1 + round(float(height) * 7)] for height in heights)


def bar_chart(title: str, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> ImageArray:
    """Return an image [H, W, 3] of a chart with horizontal bars on a logarithmic scale.

    Args:
        title: text above the chart.
        names: N texts, one per row of bars.
        series: label → N values. Each series is a panel of the chart, with one bar per name; the panels are side by
            side. A value that is not positive has no bar.
    """
    row_height, left, panel_width = 14, 210, 290
    top, bottom = 38, 38 + row_height * len(names)
    image = Image.new("RGB", (left + panel_width * len(series), bottom + 26), _BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    draw.text((8, 6), title, font=font, fill=_TEXT)
    for index, name in enumerate(names):
        draw.text((8, top + row_height * index), name, font=font, fill=_TEXT)
    for panel, (label, values) in enumerate(series.items()):
        scale = _LogScale.fit(values, start=left + panel_width * panel, length=panel_width - 30)
        draw.text((scale.start, 22), label, font=font, fill=_TEXT)
        for power in scale.powers:
            x = scale.pixel(10.0**power)
            draw.line((x, top, x, bottom), fill=_GRID)
            # On a long axis, every second power gets a label, so that the labels do not overlap.
            if len(scale.powers) <= 9 or (power - scale.low) % 2 == 0:
                draw.text((x - 8, bottom + 2), f"1e{power}", font=font, fill=_TEXT)
        for index, value in enumerate(values):
            if value > 0:
                y = top + 2 + row_height * index
                draw.rectangle((scale.start, y, max(scale.start + 1.0, scale.pixel(value)), y + 10), fill=_DATA)
    return np.array(image)


def line_chart(title: str, xs: Sequence[float], ys: Sequence[float], marks: Mapping[str, float]) -> ImageArray:
    """Return an image [H, W, 3] of a chart with one line over a logarithmic x axis.

    The y axis starts at 0 and ends at 1.3 times the 95th percentile of `ys`; larger values are clipped.

    Args:
        title: text above the chart.
        xs: N positive values, ascending.
        ys: N values.
        marks: name → x at which a vertical line with this name is drawn. Marks outside the axis are not drawn.
    """
    left, top, width, height = 60, 30, 620, 300
    image = Image.new("RGB", (left + width + 30, top + height + 60), _BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    scale, y_max = _LogScale.fit(xs, start=left, length=width), max(1e-9, float(np.quantile(ys, 0.95)) * 1.3)

    def y_pixel(value: float) -> float:
        return top + height * (1 - min(value, y_max) / y_max)

    draw.text((8, 8), title, font=font, fill=_TEXT)
    for power in scale.powers:
        x = scale.pixel(10.0**power)
        draw.line((x, top, x, top + height), fill=_GRID)
        draw.text((x - 10, top + height + 6), f"1e{power}", font=font, fill=_TEXT)
    for fraction in (0.0, 0.5, 1.0):
        y = y_pixel(fraction * y_max)
        draw.line((left, y, left + width, y), fill=_GRID)
        draw.text((8, y - 7), f"{fraction * y_max:.2g}", font=font, fill=_TEXT)
    draw.line([(scale.pixel(x), y_pixel(y)) for x, y in zip(xs, ys, strict=True)], fill=_DATA, width=2)
    for index, (name, value) in enumerate(marks.items()):
        if scale.contains(value):
            x = scale.pixel(value)
            draw.line((x, top, x, top + height), fill=_MARK, width=1)
            draw.text((x + 3, top + 4 + 16 * index), f"{name} {value:.2g}", font=font, fill=_MARK)
    return np.array(image)
