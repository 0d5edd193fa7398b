"""The built-in dataset: scenes with simple objects, rendered on demand from a seed, without files or network.

The pixels and boxes of an image depend only on the split name and the index of the image. The layout of an image (which
objects, where, and in which order) is computed without rendering the pixels, so computing all annotations of a split
takes less time than rendering a few images.
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
from detector.errors import LabelError
from detector.geometry import rotation_matrix
from detector.sample import Sample

Color = tuple[float, float, float]
"""Red, green, blue, 0..255."""

CLASS_NAMES = tuple(shape.name for shape in shapes.OBJECTS)
SPLIT_SIZES = {"train": 800, "val": 120, "test": 120}
IMAGE_HW = (384, 480)

MIN_VISIBLE = 0.35
"""Every object is placed so that at least this fraction of its area is visible.

Visible means inside the image and not hidden by other objects.
"""

_SIZES = (26.0, 160.0)
"""Range of the size of an object: its longer side before rotation, in pixels."""

_BACKGROUND_FRACTION = 0.05
"""Fraction of images without objects."""

_SUPERSAMPLING = 2
"""Objects are drawn this many times larger and then scaled down, for smooth edges. cv2 scales fastest by 2."""

_SHIFT = 4
"""Coordinates are passed to cv2 as integers in units of 2**-_SHIFT pixels."""


@dataclass(frozen=True, eq=False)
class Placement:
    """An object or distractor: a shape with its position, size and rotation in an image.

    Attributes:
        shape: the shape.
        class_id: index in `CLASS_NAMES`; None for a distractor, which belongs to no class.
        matrix: [2, 3] affine transform from coordinates of the shape to pixels of the image.
        outline_radius: half the width of the line that is drawn along the outline, in pixels.
    """

    shape: Shape
    class_id: int | None
    matrix: Doubles
    outline_radius: float

    @property
    def size(self) -> float:
        """Longer side of the object before rotation, without the outline, in pixels."""
        return float(np.hypot(*self.matrix[:, 0]))

    def to_image(self, points: Doubles) -> Doubles:
        """Map points [..., 2] from shape coordinates to pixels of the image; the result is also [..., 2]."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2])

    def box(self) -> Floats:
        """Return the bounding box [4] (x1, y1, x2, y2) in pixels of the complete object, not clipped to the image."""
        points = self.to_image(np.concatenate(self.shape.outlines))
        radius = self.outline_radius
        return np.concatenate([points.min(axis=0) - radius, points.max(axis=0) + radius]).astype(np.float32)


def read_split(split: str) -> Split:
    """Return a split with the annotations of all images; `Split.read_image` renders an image when it is called.

    Args:
        split: "train", "val" or "test".

    Raises:
        LabelError: there is no split with this name.
    """
    annotations = []
    for index in range(_split_size(split)):
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
        from_files=False,
    )


def render(split: str, index: int) -> Sample:
    """Render one image and return it with the boxes and class ids of its objects.

    The same arguments always return the same bytes.

    Args:
        split: "train", "val" or "test".
        index: index of the image in the split, from 0.

    Raises:
        LabelError: there is no split with this name, or `index` is out of range.
    """
    placements = layout(split, index)
    rng = _rng(split, index, "pixels")
    image = _background(rng)
    angle = float(rng.uniform(0.1, 0.9)) * math.pi  # the light comes from above; y points down
    light = (math.cos(angle), math.sin(angle))
    for placement in placements:
        paint(image, placement, light, rng)
    boxes, class_ids = _objects(placements)
    return Sample(_add_camera_effects(image, rng), boxes, class_ids, np.zeros(len(boxes), dtype=np.bool_), index)


def layout(split: str, index: int) -> list[Placement]:
    """Return the objects and distractors of one image, ordered from back to front; nothing is rendered.

    Args:
        split: "train", "val" or "test".
        index: index of the image in the split, from 0.

    Raises:
        LabelError: as for `render`.
    """
    if not 0 <= index < _split_size(split):
        raise LabelError(f"scenes: expected an image index from 0 to {_split_size(split) - 1} in {split}, got {index}")
    rng = _rng(split, index, "layout")
    n_objects = 0 if rng.random() < _BACKGROUND_FRACTION else int(rng.integers(1, 11))
    is_object = rng.permutation(np.arange(n_objects + int(rng.integers(0, 4))) < n_objects)
    # Visible pixels are counted at half the resolution. The margin holds the parts of objects outside of the image.
    margin, scale = round(_SIZES[1]), 0.5
    hw = [round((side + 2 * margin) * scale) for side in IMAGE_HW]
    free = np.zeros(hw, dtype=np.uint8)
    edge = round(margin * scale)
    free[edge:-edge, edge:-edge] = 1
    placed = []
    # Shapes are placed from front to back, so that a shape never hides a shape that was placed before it.
    for next_is_object in is_object.tolist():
        placement = _random_placement(next_is_object, rng)
        mask = np.zeros(hw, dtype=np.uint8)
        for outline in placement.shape.outlines:
            _fill(mask, placement.to_image(outline) + margin, 1, scale)
        if np.count_nonzero(mask & free) >= MIN_VISIBLE * np.count_nonzero(mask):
            free[mask == 1] = 0
            placed.append(placement)
    return placed[::-1]


def paint(image: ImageArray, placement: Placement, light: tuple[float, float], rng: np.random.Generator) -> None:
    """Draw an object and its shadow on `image`, in place.

    Args:
        image: [H, W, 3] RGB; its pixels are changed.
        placement: the object or distractor.
        light: unit vector (x, y) in the direction of the light. The shadow is shifted in this direction.
        rng: random generator for colors and texture.
    """
    size, box = placement.size, placement.box()
    margin = 0.12 * size + 4
    left, top = np.floor(box[:2] - margin).astype(int)
    right, bottom = np.ceil(box[2:] + margin).astype(int)
    patch_wh = (int(right - left), int(bottom - top))
    color, alpha = _draw_patch(placement, (left, top), patch_wh, rng)
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.03 * size + 0.5)
    # The gradient of the blurred mask gives the shading: edges that face the light become brighter, the edges on the
    # opposite side darker.
    slope = light[0] * cv2.Sobel(soft, -1, 1, 0) + light[1] * cv2.Sobel(soft, -1, 0, 1)
    color *= _to_rgb(1 + np.clip(0.004 * size * slope, -0.22, 0.22))
    offset = 0.04 * size + 1.5
    shadow = cv2.warpAffine(soft, np.array([[1, 0, light[0] * offset], [0, 1, light[1] * offset]]), patch_wh)

    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, image.shape[1]), min(bottom, image.shape[0])
    view = image[y1:y2, x1:x2]
    visible = slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)
    shaded = view * _to_rgb(1 - 0.38 * shadow[visible])
    shaded += _to_rgb(alpha[visible]) * (color[visible] - shaded)
    view[:] = cv2.convertScaleAbs(shaded)  # rounds and saturates


def _draw_patch(
    placement: Placement, origin_xy: tuple[int, int], patch_wh: tuple[int, int], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw an object with random colors on an empty patch, and return the color and the opacity of each pixel.

    Args:
        placement: the object or distractor.
        origin_xy: top left corner of the patch, in pixels of the image.
        patch_wh: (width, height) of the patch in pixels.
        rng: random generator for colors and texture.

    Returns:
        Colors [h, w, 3] RGB, 0..255, and opacities [h, w], 0..1.
    """
    shape, colors = placement.shape, _random_colors(rng)
    large_wh = (patch_wh[0] * _SUPERSAMPLING, patch_wh[1] * _SUPERSAMPLING)
    gradient = np.array([[colors["top"]], [colors["bottom"]]], dtype=np.uint8)
    body = np.asarray(cv2.resize(gradient, large_wh), dtype=np.uint8)
    # `inside` is the object without the line along its outline, `silhouette` the object with this line.
    inside, silhouette = np.zeros(body.shape[:2], dtype=np.uint8), np.zeros(body.shape[:2], dtype=np.uint8)
    # Antialiasing in cv2 adds about one pixel on each side of a line.
    thickness = round(2 * placement.outline_radius * _SUPERSAMPLING) - 2

    def to_patch(points: Doubles) -> Doubles:
        return placement.to_image(points) - origin_xy

    def downsample(large: ImageArray) -> Floats:
        return np.asarray(cv2.resize(large, patch_wh, interpolation=cv2.INTER_AREA), dtype=np.float32)

    for polygons, level in ((shape.outlines, 255), (shape.holes, 0)):
        for polygon in polygons:
            _fill(inside, to_patch(polygon), level, _SUPERSAMPLING)
            _fill(silhouette, to_patch(polygon), level, _SUPERSAMPLING)
        lines = [_to_fixed_point(to_patch(polygon), _SUPERSAMPLING) for polygon in polygons]
        cv2.polylines(silhouette, lines, True, (255,), thickness, cv2.LINE_AA, _SHIFT)
    if rng.random() < 0.5:
        _fill(body, to_patch(shapes.random_texture(rng)), colors["texture"], _SUPERSAMPLING)
    for polygon, color_name in shape.details:
        _fill(body, to_patch(polygon), colors[color_name], _SUPERSAMPLING)
    color = downsample(body)
    color += _to_rgb(1 - downsample(inside) / 255) * (np.array(colors["outline"], dtype=np.float32) - color)
    return color, np.asarray(downsample(silhouette) / 255, dtype=np.float32)


def _split_size(split: str) -> int:
    if split not in SPLIT_SIZES:
        raise LabelError(f"scenes: unknown split {split!r}; known: " + ", ".join(SPLIT_SIZES))
    return SPLIT_SIZES[split]


def _rng(split: str, index: int, part: str) -> np.random.Generator:
    return np.random.default_rng([list(SPLIT_SIZES).index(split), index, ("layout", "pixels").index(part)])


def _read_image(split: str, annotation: Annotation) -> ImageArray:
    return render(split, annotation.image_id).image


def _objects(placements: list[Placement]) -> tuple[Floats, Ints]:
    """Return the clipped boxes [N, 4] and the class ids [N] of the N objects; distractors are left out.

    Args:
        placements: objects and distractors of an image.
    """
    objects = [(placement.box(), placement.class_id) for placement in placements if placement.class_id is not None]
    boxes = np.array([box for box, _ in objects], dtype=np.float32).reshape(-1, 4)
    return clip(boxes, IMAGE_HW), np.array([class_id for _, class_id in objects], dtype=np.int64)


def _random_placement(is_object: bool, rng: np.random.Generator) -> Placement:
    choices = shapes.OBJECTS if is_object else shapes.DISTRACTORS
    index = int(rng.integers(len(choices)))
    size = math.exp(rng.uniform(math.log(_SIZES[0]), math.log(_SIZES[1])))
    linear = size * rotation_matrix(rng.uniform(-1, 1) * choices[index].max_rotation)
    if rng.random() < 0.5:
        linear[:, 0] *= -1
    center = rng.uniform(-0.02, 1.02, size=2) * IMAGE_HW[::-1]
    outline_radius = max(1.0, size * rng.uniform(0.01, 0.03))
    matrix = np.column_stack([linear, center])
    return Placement(choices[index], index if is_object else None, matrix, outline_radius)


def _random_colors(rng: np.random.Generator) -> dict[str, Color]:
    """Return name → random color for one object; the hues of most colors are close to one random hue.

    The body of the object has a color gradient from "top" to "bottom".
    """
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
    """Return a random background image [H, W, 3] RGB: smooth colors, perhaps a floor or a pattern, and clutter."""
    height, width = IMAGE_HW
    hue, spread, value = rng.random(), rng.uniform(0.01, 0.08), rng.uniform(0.45, 0.95)

    def muted() -> Color:
        return _hsv(hue + rng.normal(0, spread), rng.uniform(0.05, 0.4), value + rng.normal(0, 0.08))

    # Three grids of random colors, from coarse to fine. Each grid is the enlarged previous grid plus noise.
    coarse = _upsample(np.array([[muted() for _ in range(3)] for _ in range(2)]), (10, 12))
    medium = _upsample(coarse + rng.normal(0, 3, size=(10, 12, 1)), (64, 80)) + rng.normal(0, 2.5, size=(64, 80, 1))
    smooth = _upsample(medium, IMAGE_HW)
    pixels = np.clip(smooth, 0, 255, out=smooth).astype(np.uint8)

    if rng.random() < 0.4:  # a floor
        left, right = height * (rng.uniform(0.35, 0.85) + rng.uniform(-0.1, 0.1, size=2))
        floor = np.array([(0, left), (width, right), (width, height), (0, height)])
        pixels = _overlay(pixels, [(floor, muted())], rng.uniform(0.4, 0.8))
    if rng.random() < 0.4:
        # The square that the texture fills covers the image at any rotation.
        pattern = shapes.random_texture(rng) * width * rng.uniform(1.2, 2) + width / 2
        pixels = _overlay(pixels, [(pattern, muted())], rng.uniform(0.08, 0.3))
    clutter = [(_clutter_polygon(rng), muted()) for _ in range(rng.integers(0, 14))]
    return _overlay(pixels, clutter, rng.uniform(0.3, 0.8))


def _clutter_polygon(rng: np.random.Generator) -> Doubles:
    """Return one random polygon [K, 2] of clutter: a long line, a polygon with corners, or a rounded polygon."""
    center = rng.uniform(0, 1, size=2) * IMAGE_HW[::-1]
    kind, n = rng.integers(3), int(rng.integers(3, 8))
    if kind == 0:
        half = rng.normal(0, 200, size=2)
        return shapes.band(np.array([center - half, center + half]), rng.uniform(1.5, 6))
    angles = np.sort(rng.uniform(0, 360, size=n))
    corners = center + shapes.polar(rng.uniform(15, 70, size=n), angles)
    return corners if kind == 1 else shapes.smooth(corners)


def _overlay(image: ImageArray, polygons: list[tuple[Doubles, Color]], opacity: float) -> ImageArray:
    """Draw polygons on a copy of an image and return the copy.

    Args:
        image: [H, W, 3] RGB.
        polygons: (points, color) of each polygon; points as for `_fill`.
        opacity: opacity of all polygons, 0..1.
    """
    painted = image.copy()
    for points, color in polygons:
        _fill(painted, points, color)
    return np.asarray(cv2.addWeighted(painted, opacity, image, 1 - opacity, 0), dtype=np.uint8)


def _add_camera_effects(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Return a copy of an image [H, W, 3] with uneven light, lens blur and sensor noise."""
    light = _upsample(rng.uniform(0.82, 1.1, size=(2, 2, 1)) + rng.normal(0, 0.015, size=(2, 2, 3)), IMAGE_HW)
    amplitude = int(rng.integers(1, 9))
    noise = rng.integers(-amplitude, amplitude, size=image.shape, dtype=np.int8, endpoint=True)
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    # Computed in place, because allocating an array of this size takes longer than the arithmetic.
    light *= blurred
    light += noise
    return np.clip(light, 0, 255, out=light).astype(np.uint8)


def _upsample(grid: npt.NDArray[np.floating[Any]], hw: tuple[int, int]) -> Floats:
    """Enlarge a coarse grid [rows, columns, 3] of colors by cubic interpolation and return an image [h, w, 3]."""
    return np.asarray(cv2.resize(grid.astype(np.float32), hw[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _hsv(hue: float, saturation: float, value: float) -> Color:
    """Convert an HSV color to RGB, 0..255. The hue has period 1; saturation and value are clipped to 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return red * 255, green * 255, blue * 255


def _fill(image: ImageArray, polygons: Doubles, value: float | Color, scale: float = 1) -> None:
    """Fill one or more polygons on `image`, in place.

    Args:
        image: [H, W] or [H, W, 3]; its pixels are changed.
        polygons: one polygon [K, 2], or N polygons [N, K, 2] that do not overlap; continuous coordinates.
        value: gray level for an image [H, W], color for an image [H, W, 3].
        scale: number of image pixels per unit of the polygon coordinates.
    """
    fixed = list(_to_fixed_point(polygons, scale).reshape(-1, *polygons.shape[-2:]))
    cv2.fillPoly(image, fixed, value if isinstance(value, tuple) else (value,), cv2.LINE_AA, _SHIFT)


def _to_fixed_point(points: Doubles, scale: float) -> npt.NDArray[np.int32]:
    # In cv2, whole numbers are pixel centers, and coordinates are passed as integers in units of 1/16 pixel.
    return np.asarray(np.rint((points * scale - 0.5) * 2**_SHIFT), dtype=np.int32)


def _to_rgb(plane: npt.NDArray[np.floating[Any]]) -> Floats:
    """Return an array [H, W, 3] whose three channels are all `plane` [H, W].

    Faster than NumPy, which is slow at broadcasting along such a short axis.
    """
    return np.asarray(cv2.merge((plane, plane, plane)))
