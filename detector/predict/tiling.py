"""Several views of one image: the whole, tiles of it, each of them mirrored; and what was found in them, made one.

Boxes here are in pixels of the image or, where that is said, of the part of it that a view shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from detector.arrays import Bools, Floats, ImageArray
from detector.detections import Detections
from detector.errors import InputError
from detector.letterbox import Letterbox, letterbox_image
from detector.ops.suppression import weighted
from detector.options import TILE_OVERLAP

_MOST_TILES = 10_000
"""Of one image: a minute or so of a fast machine, and 500 megapixels in tiles of 320."""

_EDGE = 0.015
"""A box that ends so near to the edge of a tile, as a share of its long side, ends because the tile does."""


@dataclass(frozen=True)
class View:
    """A part of an image, as it stands or mirrored.

    Attributes:
        sides: left, top, right and bottom of the part in whole pixels of the image.
        mirrored: whether left and right are exchanged.
    """

    sides: tuple[int, int, int, int]
    flipped: bool = False

    def cut(self, image: ImageArray, input_hw: tuple[int, int]) -> tuple[Letterbox, ImageArray]:
        """Return how this part of an image [H, W, 3] comes onto an input, and the canvas."""
        left, top, right, bottom = self.sides
        letterbox, letterboxed = letterbox_image(image[top:bottom, left:right], input_hw)
        if not self.flipped:
            return letterbox, letterboxed
        # The canvas is mirrored and not the image, which may be large.
        x, y = letterbox.offset_xy
        x = input_hw[1] - letterbox.scaled_hw[1] - x
        return replace(letterbox, offset_xy=(x, y)), np.ascontiguousarray(letterboxed[:, ::-1])

    def to_image(self, boxes: Floats) -> Floats:
        """Map boxes [N, 4] from pixels of this part, as it is seen, to pixels of the image."""
        left, top, right, _ = self.sides
        if self.flipped:
            x1, y1, x2, y2 = boxes.T
            boxes = np.stack([right - left - x2, y1, right - left - x1, y2], axis=1)
        return boxes + np.array([left, top, left, top], dtype=np.float32)


@dataclass(frozen=True)
class ViewPlan:
    """Which views of an image are looked at, and how many at a time.

    A tile has the canvas's aspect, so that it fills the canvas: at one scale fewer tiles do than with square ones.

    Attributes:
        batch: most views that are computed together.
        tile: long side of the tiles in pixels of the image; None: no tiles.
        overlap: least share of a tile that the next one shows too, below 1.
        mirror: whether every view is also looked at mirrored.

    Raises:
        InputError: a number that makes no sense.
    """

    batch: int
    tile: int | None = None
    overlap: float = TILE_OVERLAP
    flip: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch: expected at least 1, got {self.batch}")
        if self.tile is not None and self.tile < 1:
            raise InputError(f"tile: expected its long side in pixels, at least 1, got {self.tile}")
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap: expected a share of a tile from 0 to below 1, got {self.overlap}")

    def views(self, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> list[View]:
        """Return the views of an image: the whole, its tiles row by row, then all of these mirrored.

        Raises:
            InputError: there would be too many tiles.
        """
        height, width = image_hw
        views = [View((0, 0, width, height))]
        if self.tile is not None:
            views += self._tiles(self.tile, image_hw, input_hw)
        return views + [replace(view, flipped=True) for view in views] if self.flip else views

    def _tiles(self, long_side: int, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> list[View]:
        scale = long_side / max(input_hw)
        height, width = (
            min(side, max(1, round(scale * of_input))) for side, of_input in zip(image_hw, input_hw, strict=True)
        )
        tops, lefts = _starts(image_hw[0], height, self.overlap), _starts(image_hw[1], width, self.overlap)
        if (count := len(tops) * len(lefts)) == 1:
            return []  # The image is no larger than a tile.
        if count > _MOST_TILES:
            raise InputError(
                f"tile: an image of {image_hw[1]} x {image_hw[0]} would need {count} tiles of {width} x {height}, "
                f"and {_MOST_TILES} are the most: take larger tiles, or less overlap"
            )
        return [View((left, top, left + width, top + height)) for top in tops for left in lefts]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where along a length tiles of a side begin; all lie in it, evenly spread, and overlap by at least a share.

    >>> _starts(25, 10, 0.2), _starts(10, 10, 0.2)
    ([0, 8, 15], [0])
    """
    steps = ceil((length - side) / max(1, int(side * (1 - overlap))))
    return [round((length - side) * k / max(1, steps)) for k in range(steps + 1)]


def merge(
    views: Sequence[View],
    found: Sequence[Detections],
    iou_threshold: float,
    max_detections: int,
    class_agnostic: bool,
) -> Detections:
    """Make what was found in several views of an image one answer in pixels of the image.

    A box that ends at an inner edge of its tile may hold a part of an object only. It goes if another tile shows all of
    it, hence also what the edge cut off; if none does, the object is larger than the overlap, and a part is better than
    nothing. What then overlaps becomes one: the best score, and the mean of the boxes.

    Args:
        views: as of `ViewPlan.views`, the whole first.
        found: in each of them, in pixels of the part it shows.
        iou_threshold: overlap above which two boxes are one object, 0..1.
        max_detections: most detections that stay.
        class_agnostic: whether boxes of different classes may be one object too.
    """
    if len(views) == 1:
        return found[0]
    in_image = [view.to_image(of_view.boxes) for view, of_view in zip(views, found, strict=True)]
    at_edge = [_ends_at_inner_edge(some, view, views[0]) for some, view in zip(in_image, views, strict=True)]
    boxes, scores = np.concatenate(in_image), np.concatenate([of_view.scores for of_view in found])
    class_ids = np.concatenate([of_view.class_ids for of_view in found])

    parts = np.flatnonzero(np.concatenate(at_edge))
    times_shown = np.zeros(len(parts), dtype=np.int64)
    for sides in {view.sides for view in views} - {views[0].sides}:
        times_shown += _lies_in(boxes[parts], sides)
    stays = np.ones(len(boxes), dtype=np.bool_)
    stays[parts[times_shown > 1]] = False  # once by the tile it was found in
    boxes, scores, class_ids = boxes[stays], scores[stays], class_ids[stays]
    kept = weighted(boxes, scores, None if class_agnostic else class_ids, iou_threshold, max_detections, 0.0)
    return Detections(kept.boxes, kept.scores, class_ids[kept.indices], found[0].class_names)


def _ends_at_inner_edge(boxes: Floats, view: View, whole: View) -> Bools:
    """Return whether boxes [N, 4] end, but for a small margin, where their view does and the image goes on."""
    left, top, right, bottom = view.sides
    near = np.abs(boxes - np.array(view.sides, dtype=np.float32)) < _EDGE * max(right - left, bottom - top)
    return np.any(near & np.not_equal(view.sides, whole.sides), axis=1)  # type: ignore[no-any-return]


def _lies_in(boxes: Floats, sides: tuple[int, int, int, int]) -> Bools:
    """Return whether boxes [N, 4] lie wholly inside these sides."""
    inside = (boxes[:, :2] >= sides[:2]) & (boxes[:, 2:] <= sides[2:])
    return np.all(inside, axis=1)  # type: ignore[no-any-return]
