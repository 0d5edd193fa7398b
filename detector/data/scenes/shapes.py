"""The shapes of the objects in the built-in dataset, as polygons. The module `scenes` renders them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from detector.arrays import Doubles
from detector.geometry import rotation_matrix


@dataclass(frozen=True, eq=False)
class Shape:
    """The shape of one class of objects or of one kind of distractor, without rotation.

    The bounding box of the shape is centered on (0, 0), and its longer side is 1. The y axis points down.

    Attributes:
        name: class name of the objects, or name of the distractor.
        outlines: polygons [K, 2]; the area of the object is the union of these polygons.
        holes: polygons [K, 2] that are cut out of the object.
        details: (polygon [K, 2], color name) pairs, painted on the object in this order.
        max_rotation: largest random rotation in either direction, in degrees.
    """

    name: str
    outlines: tuple[Doubles, ...]
    holes: tuple[Doubles, ...]
    details: tuple[tuple[Doubles, str], ...]
    max_rotation: float


def polar(radii: npt.ArrayLike, degrees: npt.ArrayLike) -> Doubles:
    """Convert polar coordinates around (0, 0), radii [K] and angles [K] in degrees, to points [K, 2]."""
    angle = np.radians(degrees)
    return np.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.asarray(radii)[:, None])


def smooth(points: Sequence[tuple[float, float]] | Doubles) -> Doubles:
    """Return a polygon with rounded corners, by three rounds of corner cutting.

    Args:
        points: [K, 2], corners of the polygon.

    Returns:
        [8 K, 2], corners of the rounded polygon.

    Source: Chaikin, An algorithm for high speed curve generation, 1974.
    """
    polygon = np.array(points, dtype=np.float64)
    for _ in range(3):
        ahead = np.roll(polygon, -1, axis=0)
        polygon = np.stack([0.75 * polygon + 0.25 * ahead, 0.25 * polygon + 0.75 * ahead], axis=1).reshape(-1, 2)
    return polygon


def band(points: Sequence[tuple[float, float]] | Doubles, width: float) -> Doubles:
    """Return the outline [2 K, 2] of a band of constant width along an open line.

    Args:
        points: [K, 2], points of the line, which is the middle of the band.
        width: width of the band, in the unit of `points`.
    """
    line = np.array(points, dtype=np.float64)
    along = np.gradient(line, axis=0)
    across = along[:, ::-1] * (-1, 1) / np.linalg.norm(along, axis=1, keepdims=True) * width / 2
    return np.concatenate([line + across, (line - across)[::-1]])


def random_texture(rng: np.random.Generator) -> Doubles:
    """Return the polygons [N, K, 2] of stripes, dots or checks at a random angle.

    The polygons are distributed over at least the circle of radius 0.72 around (0, 0), which contains every shape.
    """
    kind, step = rng.integers(3), rng.uniform(0.06, 0.12)
    count = 1 + int(0.72 / step)  # every point of a shape is within sqrt(0.5) < 0.72 of its center
    steps = np.arange(-count, count + 1)
    cells = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    half = step / 2
    if kind == 0:
        polygon, cells = _rectangle(-0.9, -half, 0.9, half), cells[(cells[:, 0] == 0) & (cells[:, 1] % 2 == 0)]
    elif kind == 1:
        polygon, cells = _circle(0, 0, 1.2 * half, n=10), cells[(cells % 2 == 0).all(axis=1)]
    else:
        polygon, cells = _rectangle(-half, -half, half, half), cells[cells.sum(axis=1) % 2 == 0]
    return np.asarray((polygon + step * cells[:, None]) @ rotation_matrix(rng.uniform(0, 180)).T)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> Doubles:
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], dtype=np.float64)


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, n: int = 24) -> Doubles:
    angle = np.radians(np.linspace(start, stop, n))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _circle(x: float, y: float, r: float, n: int = 36) -> Doubles:
    return _arc(x, y, r, r, 0, 360, n + 1)[:-1]


def _shape(
    name: str,
    max_rotation: float,
    outlines: Sequence[Doubles],
    holes: Sequence[Doubles] = (),
    details: Sequence[tuple[Doubles, str]] = (),
) -> Shape:
    """Return a `Shape` from polygons in any coordinates, by moving and scaling them to the coordinates of `Shape`."""
    points = np.concatenate(outlines)
    low, high = points.min(axis=0), points.max(axis=0)

    def normalize(points: Doubles) -> Doubles:
        return np.asarray((points - (low + high) / 2) / (high - low).max())

    return Shape(
        name,
        tuple(normalize(points) for points in outlines),
        tuple(normalize(points) for points in holes),
        tuple((normalize(points), color_name) for points, color_name in details),
        max_rotation,
    )


# The shapes, each in its own coordinates of any size; the y axis points down.


def _star() -> Shape:
    tips = polar([50, 22] * 5, [36 * i - 90 for i in range(10)])
    facets = [(np.array([(0, 0), tips[i], tips[i + 1]]), "shade") for i in range(0, 10, 2)]
    return _shape("star", 180, [tips], details=facets)


def _heart() -> Shape:
    t = np.linspace(0, 2 * np.pi, 49)[:-1]
    y = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    outline = np.stack([16 * np.sin(t) ** 3, y], axis=1)
    highlight = _circle(0, 0, 1) * (2, 3.2) @ rotation_matrix(35).T + (-8.5, -6)
    return _shape("heart", 45, [outline], details=[(highlight, "light")])


def _arrow() -> Shape:
    outline = np.array([(0, 36), (52, 36), (52, 12), (100, 50), (52, 88), (52, 64), (0, 64), (10, 50)], dtype=float)
    fold = np.array([(10, 50), (100, 50), (52, 88), (52, 64), (0, 64)], dtype=float)
    return _shape("arrow", 180, [outline], details=[(fold, "shade")])


def _key() -> Shape:
    parts = [_circle(22, 50, 22), _rectangle(40, 44, 100, 55), _rectangle(72, 54, 80, 70), _rectangle(88, 54, 97, 75)]
    groove = (_rectangle(46, 48.5, 96, 50.5), "shade")
    return _shape("key", 180, parts, [_circle(19, 50, 9)], [(_circle(22, 50, 15), "shade"), groove])


def _gear() -> Shape:
    radii, degrees = [], []
    for tooth in range(8):
        radii += [37, 50, 50, 37]
        degrees += [45 * tooth + offset for offset in (-13, -9, 9, 13)]
    return _shape("gear", 180, [polar(radii, degrees)], [_circle(0, 0, 14)], [(_circle(0, 0, 25), "shade")])


def _mug() -> Shape:
    body = np.concatenate([_arc(38, 16, 30, 6, 180, 360), _arc(60, 84, 8, 8, 0, 90, 8), _arc(16, 84, 8, 8, 90, 180, 8)])
    handle = _arc(66, 48, 28, 26, -90, 90)
    band = np.concatenate([_arc(38, 52, 31, 6, 180, 0), _arc(38, 70, 31, 6, 0, 180)])
    opening = (_arc(38, 16, 26, 4, 0, 360), "dark")
    return _shape("mug", 30, [body, handle], [_arc(70, 48, 14, 14, -90, 90)], [(band, "accent"), opening])


def _house() -> Shape:
    roof = np.array([(2, 50), (50, 8), (98, 50)], dtype=float)
    chimney = _rectangle(70, 10, 82, 40)
    panes = [_rectangle(x, y, x + 7, y + 7) for x in (22, 30.5, 62.5, 71) for y in (58, 66.5)]
    details = [(roof, "accent"), (chimney, "shade"), (_rectangle(42, 62, 58, 100), "dark")]
    details += [(pane, "light") for pane in panes]
    return _shape("house", 25, [_rectangle(13, 48, 87, 94), roof, chimney], details=details)


def _fish() -> Shape:
    body = smooth([(0, 52), (12, 32), (38, 25), (64, 38), (84, 50), (64, 63), (38, 76), (12, 72)])
    tail = smooth([(72, 50), (88, 36), (104, 18), (100, 50), (104, 82), (88, 64)])
    fin = smooth([(22, 36), (30, 20), (54, 4), (70, 10), (60, 24), (64, 44)])
    flipper = smooth([(38, 54), (58, 50), (62, 66), (46, 66)])
    gill = band(_arc(18, 51, 10, 18, -60, 60), 2.5)
    dorsal = np.array([(0, 0), (104, 0), (104, 38), (64, 38), (38, 27.5), (12, 34), (0, 50)], dtype=float)
    details = [(dorsal, "accent"), (tail, "accent"), (flipper, "accent"), (gill, "shade")]
    eye = [(_circle(15, 45, 5.5), "light"), (_circle(14, 45, 2.8), "dark")]
    return _shape("fish", 45, [body, tail, fin], details=details + eye)


def _leaf() -> Shape:
    down = np.linspace(0, 1, 21)
    half = 31 * np.sin(np.pi * down**1.25) ** 0.85
    blade = np.concatenate([np.stack([50 + side * half, 80 * down], axis=1)[::side] for side in (1, -1)])
    stem = band([(50, 78), (51, 90), (56, 102)], 5)
    veins = [band([(50, 8), (50, 80)], 3)]
    for y, reach in ((34, 20), (50, 24), (66, 21)):
        veins += [band([(50, y), (50 + side * reach, y - 14)], 2) for side in (-1, 1)]
    return _shape("leaf", 180, [blade, stem], details=[(vein, "shade") for vein in veins])


def _umbrella() -> Shape:
    ribs = np.linspace(2, 98, 5)
    hem = [_arc((a + b) / 2, 52, (b - a) / 2, 7, 360, 180, 10) for a, b in pairwise(ribs)][::-1]
    canopy = np.concatenate([_arc(50, 52, 48, 44, 180, 360), *hem])
    stick = band(np.concatenate([[(50.0, 46.0), (50.0, 70.0)], _arc(58, 88, 8, 9, 180, 10, 10)]), 5)
    panels = []
    for start, stop in ((0, 1), (2, 3)):
        # A rib is part of an ellipse. It ends on the hem, at the point where two panels of the canopy meet.
        edges = [_arc(50, 52, ribs[i] - 50, 44, 0, -90, 12) for i in (start, stop)]
        panels.append(np.concatenate([edges[0], edges[1][::-1]]))
    details = [(stick, "dark"), *((panel, "accent") for panel in panels)]
    return _shape("umbrella", 50, [canopy, stick, _rectangle(48.5, 2, 51.5, 10)], details=details)


def _car() -> Shape:
    cabin = [(26, 45), (36, 22), (42, 22), (66, 22), (74, 24), (84, 46)]
    body = smooth([(0, 74), (0, 52), (10, 47), *cabin, (98, 50), (100, 56), (100, 74)])
    wheels = [_circle(24, 73, 11.5), _circle(77, 73, 11.5)]
    front = np.array([(34, 44), (41, 28), (53, 28), (53, 44)], dtype=float)
    rear = np.array([(57, 28), (69, 28), (77, 44), (57, 44)], dtype=float)
    details = [(front, "light"), (rear, "light"), (_rectangle(-5, 62, 105, 66), "shade")]
    details += [(wheel, "dark") for wheel in wheels] + [(_circle(x, 73, 5), "light") for x in (24, 77)]
    return _shape("car", 25, [body, *wheels], details=[*details, (_circle(3, 54, 3), "accent")])


def _tree() -> Shape:
    tiers, shades = [], []
    for width, top, bottom in ((34, 42, 86), (27, 22, 62), (19, 2, 38)):
        tiers.append(np.array([(50 - width, bottom), (50, top), (50 + width, bottom)], dtype=float))
        shades.append((np.array([(50, bottom), (50, top), (50 + width, bottom)], dtype=float), "shade"))
    trunk = _rectangle(44, 84, 56, 102)
    return _shape("tree", 25, [*tiers, trunk], details=[*shades, (trunk, "dark")])


OBJECTS = tuple(
    make() for make in (_star, _heart, _arrow, _key, _gear, _mug, _house, _fish, _leaf, _umbrella, _car, _tree)
)
"""Shapes of the classes, in the order of the class ids."""

DISTRACTORS = (
    _shape("triangle", 180, [polar([50] * 3, [-90, 30, 150])]),
    _shape("square", 180, [_rectangle(0, 0, 100, 100)]),
    _shape("hexagon", 180, [polar([50] * 6, range(0, 360, 60))]),
    _shape("cross", 180, [_rectangle(35, 0, 65, 100), _rectangle(0, 35, 100, 65)]),
    _shape("ring", 180, [_circle(0, 0, 50)], [_circle(0, 0, 30)]),
    _shape("disc", 180, [_circle(0, 0, 50)]),
    _shape("half disc", 180, [_arc(0, 0, 50, 50, 0, 180)]),
    _shape("squiggle", 180, [band([(x, 16 * np.sin(x / 10)) for x in range(0, 100, 3)], 10)]),
)
"""Shapes of the distractors, which look similar to objects but belong to no class."""
