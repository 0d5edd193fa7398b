"""Charts as SVG: line charts and horizontal bar charts that follow the light or dark style of the reader.

Each chart is text of an `<svg>` element with a title and a description for screen readers. Inside of a web page, the
page needs `STYLE` once. `standalone` makes it the content of a file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_html

from detector.escaping import columns, escape_line

COLORS = 6
"""Number of different line colors; more lines are dashed in the same colors."""

STYLE = """
.chart { --ink: #1c2126; --soft: #5a636d; --grid: #dfe3e8; --paper: #fff;
  --s0: #0072b2; --s1: #c94f00; --s2: #007a5a; --s3: #a8457e; --s4: #8a6100; --s5: #555d66; }
@media (prefers-color-scheme: dark) { .chart { --ink: #e8eaed; --soft: #a4adb8; --grid: #39414a; --paper: #15191d;
  --s0: #56b4e9; --s1: #ff9047; --s2: #3ccf9f; --s3: #e79cc8; --s4: #e6b450; --s5: #bcc4cc; } }
@media print { .chart { --ink: #1c2126; --soft: #5a636d; --grid: #dfe3e8; --paper: #fff;
  --s0: #0072b2; --s1: #c94f00; --s2: #007a5a; --s3: #a8457e; --s4: #8a6100; --s5: #555d66; } }
.chart text { font: 13px system-ui, sans-serif; fill: var(--ink); unicode-bidi: isolate; }
.chart .soft { fill: var(--soft); font-size: 12px; }
.chart .grid { stroke: var(--grid); stroke-width: 1; fill: none; }
.chart .ideal { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 4; fill: none; }
.chart .mark { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 5 3; }
.chart .line { stroke-width: 2; fill: none; stroke-linejoin: round; }
.chart .interval { stroke: var(--ink); stroke-width: 1.5; }
"""
"""Style of all charts, as CSS."""

WIDTH = 480
"""Width of a chart in its own units; text is 13 units high, so that it is readable on a phone too."""

_LEFT, _RIGHT, _TOP, _PLOT_HEIGHT = 44, 14, 26, 230
_ROW, _LABEL, _VALUE = 26, 132, 118
_CHARACTER = 7.3
"""Approximate width of a character."""

_DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: text for the legend.
        points: (x, y) of each point, in the units of the axes.
        dots: whether to draw a dot at each point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        label: what the axis shows.
        low: value at its start.
        high: value at its end, above `low`.
    """

    label: str
    low: float = 0.0
    high: float = 1.0

    def place(self, value: float) -> float:
        """Return the place of a value, 0 (start) to 1 (end); values outside are moved to the ends."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return three to six round values, evenly spaced, with their texts.

        >>> [text for _, text in Axis("step", 0, 1300).ticks()]
        ['0', '500', '1,000']
        """
        step = _round_up((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = next(number for number in range(20) if math.isclose(round(step, number), step))
        return [(step * number, f"{step * number:,.{digits}f}") for number in range(first, last + 1)]


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5, times a power of ten, that is at least a value above 0."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * (1 - 1e-9))


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        name: text at the left.
        value: length of the bar, in the units of the axis; None: no bar.
        text: text at the right.
        interval: ends of the interval of the value; None: it is not drawn.
    """

    name: str
    value: float | None
    text: str
    interval: tuple[float, float] | None = None


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    axes: tuple[Axis, Axis],
    *,
    mark: tuple[float, str] | None = None,
    diagonal: bool = False,
) -> str:
    """Return a chart of lines over two linear axes.

    Args:
        title: what the chart shows, in a few words.
        description: what a reader sees in the chart, for those who cannot see it.
        lines: the lines; those without points are only in the legend.
        axes: x axis and y axis.
        mark: x and text of a vertical line; None: there is none.
        diagonal: whether to draw a line from the start to the end of both axes.
    """
    x_axis, y_axis = axes
    right, bottom = WIDTH - _RIGHT, _TOP + _PLOT_HEIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in the chart."""
        return _LEFT + (right - _LEFT) * x_axis.place(x), bottom - _PLOT_HEIGHT * y_axis.place(y)

    parts = []
    for value, text in y_axis.ticks():
        y = at(x_axis.low, value)[1]
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>{_text(_LEFT - 6, y + 4, text, "end", "soft")}')
    for value, text in x_axis.ticks():
        x = at(value, y_axis.low)[0]
        parts.append(
            f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>{_text(x, bottom + 16, text, "middle", "soft")}'
        )
    if diagonal:
        parts.append(f'<path class="ideal" d="M{_LEFT} {bottom}L{right} {_TOP}"/>')
    for index, line in enumerate(lines):
        places = [at(x, y) for x, y in line.points]
        if places:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="line" {_stroke(index)} d="M{path}"/>')
        if line.dots:
            color = f"var(--s{index % COLORS})"
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places]
    if mark is not None:
        x = at(mark[0], 0)[0]
        side, offset = ("end", -5) if x > WIDTH / 2 else ("start", 5)
        parts.append(f'<path class="mark" d="M{x:.1f} {_TOP}V{bottom}"/>{_text(x + offset, bottom - 8, mark[1], side)}')
    parts.append(_text((_LEFT + right) / 2, bottom + 34, x_axis.label, "middle", "soft"))
    parts.append(_text(4, 13, y_axis.label, kind="soft"))
    legend, height = _legend(lines, bottom + 56)
    return _svg(title, description, height, [*parts, *legend])


def _legend(lines: Sequence[Line], top: float) -> tuple[list[str], float]:
    """Return the elements of the legend, in rows, and the height of the chart with it."""
    if len(lines) < 2:
        return [], top - 14
    parts: list[str] = []
    x = float(_LEFT)
    for index, line in enumerate(lines):
        name = shorten(line.name, 24)
        width = 42 + _CHARACTER * columns(name)
        if x + width > WIDTH and x > _LEFT:
            x, top = float(_LEFT), top + 20
        parts.append(f'<path class="line" {_stroke(index)} d="M{x:.0f} {top - 4:.0f}h20"/>{_text(x + 25, top, name)}')
        x += width
    return parts, top + 10


def bar_chart(title: str, description: str, bars: Sequence[Bar], *, high: float = 1.0) -> str:
    """Return a chart of horizontal bars that start at 0.

    Args:
        title: what the chart shows, in a few words.
        description: what a reader sees in the chart, for those who cannot see it.
        bars: the rows.
        high: value at the end of the axis.
    """
    room = max([_VALUE, *(16 + _CHARACTER * columns(bar.text) for bar in bars)])
    axis, length = Axis("", 0, high), WIDTH - _LABEL - room
    parts = []
    for row, bar in enumerate(bars):
        top = 4 + _ROW * row
        parts.append(_text(_LABEL - 8, top + 16, shorten(bar.name, 18), "end"))
        parts.append(
            f'<rect x="{_LABEL}" y="{top + 3}" width="{length:.1f}" height="16" fill="var(--grid)" opacity=".5"/>'
        )
        if bar.value is not None:
            width = length * axis.place(bar.value)
            parts.append(f'<rect x="{_LABEL}" y="{top + 3}" width="{width:.1f}" height="16" fill="var(--s0)"/>')
        if bar.interval is not None:
            start, end = (_LABEL + length * axis.place(value) for value in bar.interval)
            parts.append(f'<path class="interval" d="M{start:.1f} {top + 11}H{end:.1f}M{start:.1f} {top + 6}v10M'
                         f'{end:.1f} {top + 6}v10"/>')  # fmt: skip
        parts.append(_text(WIDTH - room + 8, top + 16, bar.text))
    return _svg(title, description, 8 + _ROW * len(bars), parts)


def standalone(chart: str) -> str:
    """Return a chart as the content of an SVG file: with its style, and without other files."""
    start, rest = chart.split(">", 1)
    return (
        f'{start} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}.chart {{ background: var(--paper); }}</style>{rest}'
    )


def shorten(text: str, longest: int) -> str:
    """Return text on one line, without invisible characters, and shortened to so many characters.

    >>> shorten("Erythrocyte", 6)
    'Eryth…'
    """
    line = escape_line(text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    """Return the element `<svg>` with its title, its description and its content."""
    alt = escape_html(escape_line(f"{title}. {description}"))
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    return f'<svg class="chart" role="img" aria-label="{alt}" {size}>{"".join(parts)}</svg>'


def _stroke(index: int) -> str:
    """Return the attributes of the line with this index: its color and its dashes."""
    dashes = _DASHES[index // COLORS % len(_DASHES)]
    return f'stroke="var(--s{index % COLORS})"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    """Return an element `<text>`; `text` may contain any characters."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape_html(escape_line(text))}</text>'
