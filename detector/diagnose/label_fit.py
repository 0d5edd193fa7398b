"""A finding about the position of boxes: do boxes fit their own image better than the boxes of other images?

A box fits an image if the colors inside differ from those around the box. How well the boxes of an image fit depends on
the objects. So each image is its own control: the boxes of other images, and its own boxes after typical mistakes such
as swapped coordinates, are placed in the same image.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from detector.annotation import Annotation
from detector.arrays import Doubles, ImageArray, Ints
from detector.boxes import pairwise_iou
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding
from detector.diagnose.objects import first_few, sample_with_objects
from detector.errors import InputError
from detector.mirror import read_threads

_LONG_SIDE = 480
"""Every image is scaled so that its longer side has this many pixels."""

_MAX_IMAGES = 120
"""Largest number of images that are decoded."""

_MAX_PIXELS = 4e8
"""Largest number of pixels that are decoded, in all images together."""

_MAX_BOXES = 60
"""Largest number of boxes of an image that are compared."""

_OTHERS = 4
"""Number of other images whose boxes are placed in each image."""

_MIN_SIDE = 3.0
"""Shortest side of a box that is compared, in pixels of the scaled image."""

_MIN_IMAGES, _MIN_OBJECTS = 10, 30
"""Smallest number of images and objects for a comparison."""

_MIN_IMAGES_NO_FIT, _MIN_OBJECTS_NO_FIT = 20, 80
"""Smallest number of images and objects for the verdict that boxes fit no better than those of other images."""

_MIN_IMAGES_OF_CLASS, _MIN_OBJECTS_OF_CLASS = 15, 40
"""Smallest number of images and objects for the same verdict about a single class."""

_FITS, _NO_FIT, _CERTAIN = 3.0, 2.0, 4.5
"""Limits of the mean difference of two fits over images, divided by its standard error.

Boxes certainly fit above `_FITS`, and do not measurably fit below `_NO_FIT`. A changed box is certainly better above
`_CERTAIN`.
"""

_MUCH_BETTER = 1.6
"""If the own boxes fit too, changed boxes are only reported if they fit more than this many times as well.

Measured: correct boxes of touching cells fit 1.4 times as well with half of their size.
"""

_AT_OBJECTS = 4.0
"""From this certainty on, the inner halves of the boxes fit better than those of the boxes of other images.

So the boxes are at objects, even if their sides do not lie on clear edges: a box around a hand that ends at the wrist.
Measured: at least 4.5 for correct boxes of 10 real datasets; at most 1.1 for random boxes and boxes of other images.
"""

_MIN_FIT_OF_HALF = 1.1
"""If boxes with half of their size fit best, this is only reported if they fit at least as well as this.

Measured: up to 0.98 inside correct boxes, 2.0 inside boxes of twice the size.
"""

_MAX_RATIO_OF_CLASS = 1.25
"""The boxes of a class may be wrong if they fit their own image less than this many times as well as other images.

Measured: 0.96 to 1.17 for random boxes of one class (certainty -0.4 to 1.8); at least 1.18 for correct boxes, with a
certainty of at least 3.
"""

_EXPECTED = "boxes fit their own image better than the boxes of other images"


def _shifted(dx: float, dy: float) -> Callable[[Doubles], Doubles]:
    """Return a function that shifts boxes by a fraction of the image, and continues at the opposite side."""

    def shift(boxes: Doubles) -> Doubles:
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.asarray(boxes + np.tile((center + np.array([dx, dy])) % 1 - center, 2), dtype=np.float64)

    return shift


def _scaled(factor: float) -> Callable[[Doubles], Doubles]:
    """Return a function that scales boxes around their centers."""

    def scale(boxes: Doubles) -> Doubles:
        center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
        return np.concatenate([center - half, center + half], axis=1)

    return scale


_CHANGES: dict[str, Callable[[Doubles], Doubles]] = {
    "flipped horizontally": lambda b: np.stack([1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]], axis=1),
    "flipped vertically": lambda b: np.stack([b[:, 0], 1 - b[:, 3], b[:, 2], 1 - b[:, 1]], axis=1),
    "rotated by 180 degrees": lambda b: 1 - b[:, [2, 3, 0, 1]],
    "with x and y swapped": lambda b: b[:, [1, 0, 3, 2]],
    "rotated by 90 degrees": lambda b: np.stack([1 - b[:, 3], b[:, 0], 1 - b[:, 1], b[:, 2]], axis=1),
    "rotated by 270 degrees": lambda b: np.stack([b[:, 1], 1 - b[:, 2], b[:, 3], 1 - b[:, 0]], axis=1),
    "shifted by half of the image width": _shifted(0.5, 0),
    "shifted by half of the image height": _shifted(0, 0.5),
    "shifted by half of the image width and height": _shifted(0.5, 0.5),
    "shifted right and down by half of their size": lambda b: b + np.tile((b[:, 2:] - b[:, :2]) / 2, 2),
    "shifted left and up by half of their size": lambda b: b - np.tile((b[:, 2:] - b[:, :2]) / 2, 2),
}
"""Description of a change → function that changes boxes [N, 4] in fractions of the image size."""

_HALF = "with half of their size"

_SIZES: dict[str, Callable[[Doubles], Doubles]] = {
    _HALF: _scaled(0.5),
    "with twice their size": _scaled(2.0),
}
"""As `_CHANGES`, for changes of the size."""


_PLACE_OF_HALF = [*_CHANGES, *_SIZES].index(_HALF)


class _Fits(NamedTuple):
    """How well boxes fit one image; NaN where a box cannot be compared.

    Attributes:
        own: [N] fit of the boxes of the image.
        class_ids: [N] classes of these boxes.
        control: [M] fit of the boxes of other images.
        control_ids: [M] classes of these boxes.
        control_half: [M] fit of these boxes with half of their size.
        changed: [changes, N] fit of the changed boxes, in the order of `_CHANGES` and then `_SIZES`.
    """

    own: Doubles
    class_ids: Ints
    control: Doubles
    control_ids: Ints
    control_half: Doubles
    changed: Doubles

    @property
    def half(self) -> Doubles:
        """[N] fit of the boxes of the image with half of their size."""
        return np.asarray(self.changed[_PLACE_OF_HALF])


@dataclass(frozen=True)
class _Difference:
    """Mean difference of two fits over images.

    Attributes:
        ratio: mean of the first fit divided by the mean of the second.
        certainty: mean difference divided by its standard error.
        images: number of images.
    """

    ratio: float
    certainty: float
    images: int


def diagnose_label_fit(split: Split) -> Finding:
    """Check that boxes fit their own image better than the boxes of other images, and return a finding."""
    check = "data: label positions"
    fits = _measure_fits(split)
    objects = sum(int(np.isfinite(image.own).sum()) for image in fits)
    if len(fits) < _MIN_IMAGES or objects < _MIN_OBJECTS:
        return Finding(check, "ok", "not measured: there are too few images or objects", _EXPECTED)
    own = np.array([np.nanmean(image.own) for image in fits])
    others = np.array([image.control.mean() for image in fits])
    fit = _compare(own, others)
    measured = f"boxes fit their own image {fit.ratio:.2f} times as well as the boxes of other images"
    measured += f" ({len(fits)} images, certainty {fit.certainty:.1f})"
    name, ratio = _best_change(fits, own, others)
    at_objects = _are_at_objects((f.half, f.control_half) for f in fits)
    halves = [float(np.nanmean(f.half)) for f in fits if np.isfinite(f.half).any()]
    if name == _HALF and at_objects and np.mean(halves) < _MIN_FIT_OF_HALF:
        name, ratio = "", 1.0
    if name in _CHANGES and fit.certainty < _FITS:
        advice = (
            f"Boxes {name} fit {ratio:.2f} times as well: change the labels in this way, and compare drawn examples."
        )
        return Finding(check, "stop", measured, _EXPECTED, advice)
    if ratio > _MUCH_BETTER:
        advice = f"Boxes {name} fit {ratio:.2f} times as well: compare the drawn examples."
        return Finding(check, "look", measured, _EXPECTED, advice)
    has_enough = len(fits) >= _MIN_IMAGES_NO_FIT and objects >= _MIN_OBJECTS_NO_FIT
    if fit.certainty < _NO_FIT and has_enough and not at_objects:
        advice = (
            "Possible causes: labels of other images, random labels, or objects that look like their surroundings. "
            "Check the drawn examples."
        )
        return Finding(check, "look", measured, _EXPECTED, advice)
    wrong = _classes_without_fit(fits) if fit.certainty >= _FITS else []
    if wrong:
        names = first_few(split.class_names[class_id] for class_id in wrong)
        advice = f"The boxes of {names} fit no better than those of other images: check the drawn examples."
        return Finding(check, "look", measured, _EXPECTED, advice)
    return Finding(check, "ok", measured, _EXPECTED)


def _best_change(fits: Sequence[_Fits], own: Doubles, others: Doubles) -> tuple[str, float]:
    """Return the name of the change whose boxes certainly fit better and fit best, and how many times as well they fit.

    The name is empty and the number is 1 if no changed boxes certainly fit better than the own boxes and those of other
    images.

    Args:
        fits: fits of each image.
        own: [images] mean fit of the own boxes.
        others: [images] mean fit of the boxes of other images.
    """
    best, best_ratio = "", 1.0
    for place, name in enumerate((*_CHANGES, *_SIZES)):
        usable = np.array([bool(np.isfinite(image.changed[place]).any()) for image in fits])
        if usable.sum() < _MIN_IMAGES:
            continue
        changed = np.array([np.nanmean(fits[i].changed[place]) for i in np.flatnonzero(usable).tolist()])
        better = _compare(changed, own[usable])
        if min(better.certainty, _compare(changed, others[usable]).certainty) > _CERTAIN and better.ratio > best_ratio:
            best, best_ratio = name, better.ratio
    return best, best_ratio


def _compare(a: Doubles, b: Doubles) -> _Difference:
    """Compare two fits [images] of the same images."""
    difference = a - b
    error = float(np.std(difference, ddof=1)) / len(difference) ** 0.5
    return _Difference(float(a.mean() / max(b.mean(), 1e-9)), float(difference.mean()) / max(error, 1e-9), len(a))


def _are_at_objects(pairs: Iterable[tuple[Doubles, Doubles]]) -> bool:
    """Return whether the inner halves of the boxes certainly fit better than those of other boxes.

    Args:
        pairs: for each image, the fits of its boxes and of other boxes, both with half of their size.
    """
    means = [(np.nanmean(a), np.nanmean(b)) for a, b in pairs if np.isfinite(a).any() and np.isfinite(b).any()]
    if len(means) < _MIN_IMAGES:
        return False
    return _compare(*np.array(means, dtype=np.float64).T).certainty >= _AT_OBJECTS


def _classes_without_fit(fits: Sequence[_Fits]) -> list[int]:
    """Return the ids of the classes whose boxes fit no better than boxes of the same class of other images.

    Classes with too few objects are not compared.
    """
    wrong = []
    for class_id in sorted({int(class_id) for image in fits for class_id in image.class_ids}):
        pairs, objects = [], 0
        for image in fits:
            own = image.own[(image.class_ids == class_id) & np.isfinite(image.own)]
            control = image.control[image.control_ids == class_id]
            if len(own) and len(control):
                pairs.append((float(own.mean()), float(control.mean())))
                objects += len(own)
        if objects < _MIN_OBJECTS_OF_CLASS or len(pairs) < _MIN_IMAGES_OF_CLASS:
            continue
        fit = _compare(*np.array(pairs).T)
        halves = ((f.half[f.class_ids == class_id], f.control_half[f.control_ids == class_id]) for f in fits)
        if fit.certainty < _NO_FIT and fit.ratio < _MAX_RATIO_OF_CLASS and not _are_at_objects(halves):
            wrong.append(class_id)
    return wrong


def _measure_fits(split: Split) -> list[_Fits]:
    """Return the fits of up to `_MAX_IMAGES` images with objects that can be compared."""
    chosen = sample_with_objects(split, _MAX_IMAGES, _MAX_PIXELS)
    rng = np.random.default_rng(0)
    # Neighbors in the list are often similar: frames of a video, augmentations of one image.
    others = [[chosen[int(j)] for j in rng.choice(len(chosen), _OTHERS)] for _ in chosen]
    with ThreadPoolExecutor(max_workers=read_threads()) as pool:
        found = list(pool.map(partial(_fit_image, split), chosen, others))
    return [fits for fits in found if fits is not None]


def _fit_image(split: Split, annotation: Annotation, others: Sequence[Annotation]) -> _Fits | None:
    """Return the fits of the boxes in an image; None if the image cannot be decoded or no box can be compared."""
    try:
        image = split.read_image(annotation)
    except InputError:
        return None
    scale = _LONG_SIDE / max(image.shape[:2])
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    wh = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    regions = _Regions(np.asarray(cv2.resize(image, wh, interpolation=mode), dtype=np.uint8))
    boxes, class_ids = _relative_boxes(annotation)
    placed = [_away_from(*_relative_boxes(other), boxes) for other in others if other is not annotation]
    control = np.concatenate([np.zeros(0), *(regions.fit(other_boxes) for other_boxes, _ in placed)])
    control_ids = np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in placed)])
    halved = _SIZES[_HALF]
    control_half = np.concatenate([np.zeros(0), *(regions.fit(halved(other_boxes)) for other_boxes, _ in placed)])
    usable = np.isfinite(control)
    own = regions.fit(boxes)
    if not usable.any() or not np.isfinite(own).any():
        return None
    changed = np.stack([regions.fit(change(boxes)) for change in (*_CHANGES.values(), *_SIZES.values())])
    return _Fits(own, class_ids, control[usable], control_ids[usable], control_half[usable], changed)


def _relative_boxes(annotation: Annotation) -> tuple[Doubles, Ints]:
    """Return up to `_MAX_BOXES` boxes [N, 4] of an image, in fractions of its size, and their classes [N]."""
    rows = evenly_spaced(np.flatnonzero(~annotation.is_crowd).tolist(), _MAX_BOXES)
    height, width = annotation.image_hw
    return annotation.boxes[rows].astype(np.float64) / ([width, height] * 2), annotation.class_ids[rows]


def _away_from(boxes: Doubles, class_ids: Ints, own: Doubles) -> tuple[Doubles, Ints]:
    """Return the boxes [N, 4] that hardly overlap the own boxes, and their classes [N].

    Objects may be at the same place in all images.
    """
    overlap = pairwise_iou(boxes.astype(np.float32), own.astype(np.float32)).max(axis=1, initial=0)
    return boxes[overlap <= 0.3], class_ids[overlap <= 0.3]


class _Regions:
    """Mean color and contrast of regions of an image.

    Args:
        image: [H, W, 3] uint8.
    """

    def __init__(self, image: ImageArray) -> None:
        self._hw = image.shape[:2]
        self._sums, self._squares = cv2.integral2(image)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        padded = cv2.copyMakeBorder(gray, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        across = np.abs(padded[1:-1, 2:] - padded[1:-1, :-2]), np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1])
        self._across = [cv2.integral(direction) for direction in across]
        self._spread = float(np.sqrt(np.mean(np.var(image.reshape(-1, 3).astype(np.float32), axis=0)))) + 5

    def fit(self, boxes: Doubles) -> Doubles:
        """Return how much the inside of boxes [N, 4] differs from their surroundings, as an array [N].

        The surroundings extend by half of the box size at each side. The fit is the difference of the mean colors, in
        units of the standard deviation of the image, plus the difference of the logarithms of the standard deviations,
        plus the logarithm of the strength of the image edges along the box sides relative to the surroundings. It is
        NaN for a box that is too small or whose surroundings are outside of the image.

        Args:
            boxes: boxes in fractions of the image size.
        """
        height, width = self._hw
        pixels = boxes * ([width, height] * 2)
        wh = pixels[:, 2:] - pixels[:, :2]
        inner = self._clip(pixels)
        outer = self._clip(np.concatenate([pixels[:, :2] - wh / 2, pixels[:, 2:] + wh / 2], axis=1))
        area, sums, squares = self._totals(inner)
        outer_area, outer_sums, outer_squares = self._totals(outer)
        ring = outer_area - area
        usable = (np.min(inner[:, 2:] - inner[:, :2], axis=1, initial=1e9) >= _MIN_SIDE) & (ring > 0.5 * area)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, around = sums / area[:, None], (outer_sums - sums) / ring[:, None]
            std = np.sqrt(np.maximum(squares / area[:, None] - mean**2, 0).mean(axis=1))
            std_around = np.sqrt(np.maximum((outer_squares - squares) / ring[:, None] - around**2, 0).mean(axis=1))
            color = np.sqrt(((mean - around) ** 2).mean(axis=1)) / self._spread
            fit = color + 0.5 * np.abs(np.log((std + 3) / (std_around + 3))) + self._edges(inner, outer)
        return np.where(usable, fit, np.nan)

    def _edges(self, boxes: Ints, outer: Ints) -> Doubles:
        """Return how strong the image edges along the sides of boxes are, relative to the surroundings, as [N].

        Args:
            boxes: [N, 4] in whole pixels.
            outer: [N, 4] the boxes with their surroundings.
        """
        height, width = self._hw
        ratios = []
        for table, axis, size in zip(self._across, (0, 1), (width, height), strict=True):
            total, area = np.zeros(len(boxes)), np.zeros(len(boxes))
            for side in (axis, axis + 2):
                band = boxes.copy()
                band[:, axis], band[:, axis + 2] = boxes[:, side] - 1, boxes[:, side] + 1
                # At the border of the image there is no edge to compare.
                inside = (boxes[:, side] > 1) & (boxes[:, side] < size - 1)
                band = np.clip(band, 0, (width, height, width, height))
                total += np.where(inside, _sum_in(table, band), 0)
                area += np.where(inside, (band[:, 2] - band[:, 0]) * (band[:, 3] - band[:, 1]), 0)
            outer_area = (outer[:, 2] - outer[:, 0]) * (outer[:, 3] - outer[:, 1])
            around = _sum_in(table, outer) / np.maximum(outer_area, 1)
            ratios.append(np.where(area > 0, np.log((total / np.maximum(area, 1) + 1) / (around + 1)), 0))
        return np.asarray(np.mean(ratios, axis=0), dtype=np.float64)

    def _clip(self, boxes: Doubles) -> Ints:
        """Return boxes [N, 4] as whole pixels inside the image."""
        height, width = self._hw
        return np.clip(np.rint(boxes), 0, (width, height, width, height)).astype(np.int64)

    def _totals(self, boxes: Ints) -> tuple[Doubles, Doubles, Doubles]:
        """Return the area [N], the sums of the levels [N, 3] and the sums of their squares [N, 3] in boxes [N, 4]."""
        x1, y1, x2, y2 = boxes.T
        area = ((x2 - x1) * (y2 - y1)).astype(np.float64)
        sums, squares = (_sum_in(table, boxes) for table in (self._sums, self._squares))
        return area, sums, squares


def _sum_in(table: npt.NDArray[Any], boxes: Ints) -> Doubles:
    """Return the sums [N] or [N, channels] of an image in boxes [N, 4], from its integral image."""
    x1, y1, x2, y2 = boxes.T
    return np.asarray(table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1], dtype=np.float64)
