"""The built-in data set: drawn scenes of everyday things, made on demand from a seed; no file and no network.

An image is a pure function of its split and index. Its layout (which objects, where, which in front) is drawn apart
from its pixels, so that all annotations of a split cost less than a few images.
"""

import colorsys
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from detector.annotation import Annotation
from detector.arrays import Doubles, Floats, ImageArray, Ints
from detector.boxes import area, clip
from detector.data.ledger import Ledger
from detector.data.scenes import shapes
from detector.data.scenes.shapes import Shape
from detector.data.split import Split
from detector.errors import InputError
from detector.geometry import rotation_matrix
from detector.sample import Sample

Color = tuple[float, float, float]
"""Red, green, blue, 0..255."""

CLASS_NAMES = tuple(shape.name for shape in shapes.OBJECTS)
SPLIT_SIZES = {"train": 800, "val": 120, "test": 120}
IMAGE_HW = (384, 480)

MIN_VISIBLE = 0.35
"""Least share of an object that must be in view, not hidden and not cut off."""

_SIZES = (26.0, 160.0)
_BACKGROUND_FRACTION = 0.05
_SAMPLING = 2
"""Objects are drawn this many times larger and averaged down, for fine edges; cv2 averages by two fastest."""
_SHIFT = 4
"""cv2 takes coordinates as integers, in units of 2**-shift pixels."""


@dataclass(frozen=True, eq=False)
class Placement:
    """An object on the image.

    Attributes:
        shape: what is drawn.
        class_id: its position in the class names; None for a distractor.
        matrix: [2, 3], units of the shape → pixels of the image.
        pen: radius of the pen that goes round the outline, in pixels.
    """

    shape: Shape
    class_id: int | None
    matrix: Doubles
    pen: float

    @property
    def size(self) -> float:
        """Longer side of the upright object in pixels."""
        return float(np.hypot(*self.matrix[:, 0]))

    def on_image(self, points: Doubles) -> Doubles:
        """Return points [..., 2] of the shape in pixels of the image."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2])

    def box(self) -> Floats:
        """Return the bounds [4] of the whole silhouette in pixels; they may reach out of the image."""
        corners = self.on_image(np.concatenate(self.shape.outlines))
        return np.concatenate([corners.min(axis=0) - self.pen, corners.max(axis=0) + self.pen]).astype(np.float32)


def read_split(split: str) -> Split:
    """Return the annotations of a split; its images are drawn when they are read.

    Raises:
        InputError: no such split.
    """
    annotations = []
    for index in range(_size(split)):
        boxes, class_ids = _objects(layout(split, index))
        path = Path("scenes") / split / f"{index:06d}.png"
        is_crowd = np.zeros(len(boxes), dtype=np.bool_)
        annotations.append(Annotation(index, path, IMAGE_HW, boxes, class_ids, is_crowd, area(boxes)))
    used, background = sum(len(a.boxes) for a in annotations), sum(len(a.boxes) == 0 for a in annotations)
    return Split(
        name=split,
        class_names=CLASS_NAMES,
        category_ids=tuple(range(len(CLASS_NAMES))),
        annotations=tuple(annotations),
        ledger=Ledger(used=used, background=background),
        read_image=partial(_read_image, split),
    )


def render(split: str, index: int) -> Sample:
    """Draw one image with its objects; the same bytes for the same arguments.

    Raises:
        InputError: no such split, or no image of that index in it.
    """
    placements = layout(split, index)
    rng = _rng(split, index, "pixels")
    image = _background(rng)
    angle = float(rng.uniform(0.1, 0.9)) * math.pi  # from above: y points down
    light = (math.cos(angle), math.sin(angle))
    for placement in placements:
        paint(image, placement, light, rng)
    boxes, class_ids = _objects(placements)
    return Sample(_develop(image, rng), boxes, class_ids, np.zeros(len(boxes), dtype=np.bool_), index)


def layout(split: str, index: int) -> list[Placement]:
    """Return what is in an image, distractors included, from the back to the front.

    Raises:
        InputError: as `render`.
    """
    if not 0 <= index < _size(split):
        raise InputError(f"scenes: the split {split!r} has the images 0 to {_size(split) - 1}, not {index}")
    rng = _rng(split, index, "layout")
    n_objects = 0 if rng.random() < _BACKGROUND_FRACTION else int(rng.integers(1, 11))
    is_object = rng.permutation(np.arange(n_objects + int(rng.integers(0, 4))) < n_objects)
    # Half the resolution is enough to count; the margin holds what is cut off.
    margin, scale = round(_SIZES[1]), 0.5
    hw = [round((side + 2 * margin) * scale) for side in IMAGE_HW]
    free = np.zeros(hw, dtype=np.uint8)
    edge = round(margin * scale)
    free[edge:-edge, edge:-edge] = 1
    placed = []
    # From the front to the back: whoever is placed can no longer be hidden by whoever comes after.
    for object_next in is_object.tolist():
        placement = _place(object_next, rng)
        mask = np.zeros(hw, dtype=np.uint8)
        for outline in placement.shape.outlines:
            _fill(mask, placement.on_image(outline) + margin, 1, scale)
        if np.count_nonzero(mask & free) >= MIN_VISIBLE * np.count_nonzero(mask):
            free[mask == 1] = 0
            placed.append(placement)
    return placed[::-1]


def paint(image: ImageArray, placement: Placement, light: tuple[float, float], rng: np.random.Generator) -> None:
    """Paint an object and its shadow onto an image, in place.

    Args:
        image: [H, W, 3] RGB.
        placement: where.
        light: unit vector (x, y), the way the light falls; the shadow lies that way.
        rng: source of its colors and texture.
    """
    size, box = placement.size, placement.box()
    margin = 0.12 * size + 4
    left, top = np.floor(box[:2] - margin).astype(int)
    right, bottom = np.ceil(box[2:] + margin).astype(int)
    patch_wh = (int(right - left), int(bottom - top))
    color, alpha = _draw(placement, (left, top), patch_wh, rng)
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.03 * size + 0.5)
    # The blurred silhouette as a relief: edges that face the light brighten, those that turn away darken.
    slope = light[0] * cv2.Sobel(soft, -1, 1, 0) + light[1] * cv2.Sobel(soft, -1, 0, 1)
    color *= _spread(1 + np.clip(0.004 * size * slope, -0.22, 0.22))
    reach = 0.04 * size + 1.5
    shadow = cv2.warpAffine(soft, np.array([[1, 0, light[0] * reach], [0, 1, light[1] * reach]]), patch_wh)

    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, image.shape[1]), min(bottom, image.shape[0])
    view = image[y1:y2, x1:x2]
    part = slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)
    shaded = view * _spread(1 - 0.38 * shadow[part])
    shaded += _spread(alpha[part]) * (color[part] - shaded)
    view[:] = cv2.convertScaleAbs(shaded)  # rounds and saturates


def _draw(
    placement: Placement, origin_xy: tuple[int, int], patch_wh: tuple[int, int], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return an object's color [h, w, 3], 0..255, and coverage [h, w], 0..1, on a patch of the image."""
    shape, tones = placement.shape, _random_tones(rng)
    large_wh = (patch_wh[0] * _SAMPLING, patch_wh[1] * _SAMPLING)
    gradient = np.array([[tones["top"]], [tones["bottom"]]], dtype=np.uint8)
    body = np.asarray(cv2.resize(gradient, large_wh), dtype=np.uint8)
    inside, silhouette = np.zeros(body.shape[:2], dtype=np.uint8), np.zeros(body.shape[:2], dtype=np.uint8)
    thickness = round(2 * placement.pen * _SAMPLING) - 2  # cv2's even edges add about a pixel on either side

    def local(points: Doubles) -> Doubles:
        return placement.on_image(points) - origin_xy

    def sampled(large: ImageArray) -> Floats:
        return np.asarray(cv2.resize(large, patch_wh, interpolation=cv2.INTER_AREA), dtype=np.float32)

    for polygons, level in ((shape.outlines, 255), (shape.holes, 0)):
        for polygon in polygons:
            _fill(inside, local(polygon), level, _SAMPLING)
            _fill(silhouette, local(polygon), level, _SAMPLING)
        ends = [_fixed(local(polygon), _SAMPLING) for polygon in polygons]
        cv2.polylines(silhouette, ends, True, (255,), thickness, cv2.LINE_AA, _SHIFT)
    if rng.random() < 0.5:
        _fill(body, local(shapes.random_texture(rng)), tones["texture"], _SAMPLING)
    for polygon, tone in shape.details:
        _fill(body, local(polygon), tones[tone], _SAMPLING)
    color = sampled(body)
    color += _spread(1 - sampled(inside) / 255) * (np.array(tones["outline"], dtype=np.float32) - color)
    return color, np.asarray(sampled(silhouette) / 255, dtype=np.float32)


def _size(split: str) -> int:
    if split not in SPLIT_SIZES:
        raise InputError(f"scenes: no split {split!r}; known: " + ", ".join(SPLIT_SIZES))
    return SPLIT_SIZES[split]


def _rng(split: str, index: int, part: str) -> np.random.Generator:
    return np.random.default_rng([list(SPLIT_SIZES).index(split), index, ("layout", "pixels").index(part)])


def _read_image(split: str, annotation: Annotation) -> ImageArray:
    return render(split, annotation.image_id).image


def _objects(placements: list[Placement]) -> tuple[Floats, Ints]:
    objects = [(placement.box(), placement.class_id) for placement in placements if placement.class_id is not None]
    boxes = np.array([box for box, _ in objects], dtype=np.float32).reshape(-1, 4)
    return clip(boxes, IMAGE_HW), np.array([class_id for _, class_id in objects], dtype=np.int64)


def _place(is_object: bool, rng: np.random.Generator) -> Placement:
    kinds = shapes.OBJECTS if is_object else shapes.DISTRACTORS
    kind = int(rng.integers(len(kinds)))
    size = math.exp(rng.uniform(math.log(_SIZES[0]), math.log(_SIZES[1])))
    turned = size * rotation_matrix(rng.uniform(-1, 1) * kinds[kind].turn)
    if rng.random() < 0.5:
        turned[:, 0] *= -1
    center = rng.uniform(-0.02, 1.02, size=2) * IMAGE_HW[::-1]
    pen = max(1.0, size * rng.uniform(0.01, 0.03))
    return Placement(kinds[kind], kind if is_object else None, np.column_stack([turned, center]), pen)


def _random_tones(rng: np.random.Generator) -> dict[str, Color]:
    """Draw colors that go together, by name; "top" and "bottom" are the ends of the body's gradient."""
    hue, saturation, value = rng.random(), rng.uniform(0.45, 0.9), rng.uniform(0.6, 1.0)
    body = _hsv(hue, saturation, value)
    accent_hue = hue + (0.08, -0.08, 0.42, 0.5, 0.58)[rng.integers(5)]
    outline = (body, _hsv(hue, saturation, value * 0.4), (252.0, 250.0, 246.0))[rng.integers(3)]
    drift = rng.uniform(-0.06, 0.06)
    return {
        "top": _hsv(hue - drift, saturation * 0.9, value * 1.08),
        "bottom": _hsv(hue + drift, saturation * 1.1, value * 0.85),
        "texture": _hsv(hue + 2 * drift, saturation * rng.uniform(0.4, 0.8), value * (0.8, 1.25)[rng.integers(2)]),
        "accent": _hsv(accent_hue, rng.uniform(0.45, 0.85), rng.uniform(0.7, 0.98)),
        "shade": _hsv(hue, saturation * 1.05, value * 0.78),
        "dark": _hsv(hue, saturation * 0.6, value * 0.32),
        "light": _hsv(hue, 0.1, 0.98),
        "outline": outline,
    }


def _background(rng: np.random.Generator) -> ImageArray:
    """Draw what lies behind the objects [H, W, 3]: soft colors, a pattern, clutter."""
    height, width = IMAGE_HW
    hue, spread, value = rng.random(), rng.uniform(0.01, 0.08), rng.uniform(0.45, 0.95)

    def muted() -> Color:
        return _hsv(hue + rng.normal(0, spread), rng.uniform(0.05, 0.4), value + rng.normal(0, 0.08))

    # Each step smooths what the one before has drawn: colors, clouds, mottle.
    clouds = _stretch(np.array([[muted() for _ in range(3)] for _ in range(2)]), (10, 12))
    mottle = _stretch(clouds + rng.normal(0, 3, size=(10, 12, 1)), (64, 80)) + rng.normal(0, 2.5, size=(64, 80, 1))
    smooth = _stretch(mottle, IMAGE_HW)
    pixels = np.clip(smooth, 0, 255, out=smooth).astype(np.uint8)

    if rng.random() < 0.4:  # a floor
        left, right = height * (rng.uniform(0.35, 0.85) + rng.uniform(-0.1, 0.1, size=2))
        floor = np.array([(0, left), (width, right), (width, height), (0, height)])
        pixels = _overlay(pixels, [(floor, muted())], rng.uniform(0.4, 0.8))
    if rng.random() < 0.4:
        # The texture's square reaches over the image, however it is turned.
        pattern = shapes.random_texture(rng) * width * rng.uniform(1.2, 2) + width / 2
        pixels = _overlay(pixels, [(pattern, muted())], rng.uniform(0.08, 0.3))
    scraps = [(_scrap(rng), muted()) for _ in range(rng.integers(0, 14))]
    return _overlay(pixels, scraps, rng.uniform(0.3, 0.8))


def _scrap(rng: np.random.Generator) -> Doubles:
    """Draw one piece of clutter [K, 2]: a long line, a polygon or a blob."""
    place = rng.uniform(0, 1, size=2) * IMAGE_HW[::-1]
    kind, n = rng.integers(3), int(rng.integers(3, 8))
    if kind == 0:
        reach = rng.normal(0, 200, size=2)
        return shapes.ribbon(np.array([place - reach, place + reach]), rng.uniform(1.5, 6))
    around = np.sort(rng.uniform(0, 360, size=n))
    corners = place + shapes.polar(rng.uniform(15, 70, size=n), around)
    return corners if kind == 1 else shapes.smooth(corners)


def _overlay(image: ImageArray, polygons: list[tuple[Doubles, Color]], opacity: float) -> ImageArray:
    veil = image.copy()
    for points, color in polygons:
        _fill(veil, points, color)
    return np.asarray(cv2.addWeighted(veil, opacity, image, 1 - opacity, 0), dtype=np.uint8)


def _develop(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Return the finished image: uneven light, a lens's blur, a sensor's noise."""
    light = _stretch(rng.uniform(0.82, 1.1, size=(2, 2, 1)) + rng.normal(0, 0.015, size=(2, 2, 3)), IMAGE_HW)
    amplitude = int(rng.integers(1, 9))
    noise = rng.integers(-amplitude, amplitude, size=image.shape, dtype=np.int8, endpoint=True)
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    # In place: a fresh array of this size costs more than the arithmetic.
    light *= blurred
    light += noise
    return np.clip(light, 0, 255, out=light).astype(np.uint8)


def _stretch(grid: npt.NDArray[np.floating[Any]], hw: tuple[int, int]) -> Floats:
    """Return the colors [h, w, 3] of a coarse grid spread smoothly over `hw` pixels."""
    return np.asarray(cv2.resize(grid.astype(np.float32), hw[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _hsv(hue: float, saturation: float, value: float) -> Color:
    """Return an RGB color 0..255; hue goes round at 1, the others are cut to 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return red * 255, green * 255, blue * 255


def _fill(image: ImageArray, polygons: Doubles, value: float | Color, scale: float = 1) -> None:
    """Fill one polygon [K, 2], or several [N, K, 2] that do not overlap, onto an image, in place.

    Args:
        image: [H, W] or [H, W, 3].
        polygons: in continuous pixels of the image before scaling.
        value: a level or a color, as the image has it.
        scale: pixels of the image per unit of the polygons.
    """
    figures = list(_fixed(polygons, scale).reshape(-1, *polygons.shape[-2:]))
    cv2.fillPoly(image, figures, value if isinstance(value, tuple) else (value,), cv2.LINE_AA, _SHIFT)


def _fixed(points: Doubles, scale: float) -> npt.NDArray[np.int32]:
    # cv2 names pixel centers, and takes 1/16 pixels as integers.
    return np.asarray(np.rint((points * scale - 0.5) * 2**_SHIFT), dtype=np.int32)


def _spread(plane: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return a plane [H, W] as three equal channels [H, W, 3]; NumPy is slow at broadcasting over so short an axis."""
    return np.asarray(cv2.merge((plane, plane, plane)))
