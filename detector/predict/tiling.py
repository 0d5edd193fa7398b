"""Views of an image: the whole image, tiles of it, and each of them flipped (TTA); and merging their detections.

Boxes are in pixels of the image, or, where stated, in pixels of the part of it that a view shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from detector.arrays import Bools, Floats, ImageArray
from detector.detections import Detections
from detector.errors import ConfigError
from detector.letterbox import Letterbox, letterbox_image
from detector.ops.suppression import weighted
from detector.options import DetectOptions

_MAX_TILES = 10_000
"""Per image: about a minute on a fast machine, and 500 megapixels in tiles of 320."""

_EDGE = 0.015
"""A box that ends within this fraction of the tile's long side from an edge of the tile was cut off by that edge."""


@dataclass(frozen=True)
class View:
    """A part of an image, flipped or not.

    Attributes:
        sides: left, top, right and bottom of the part, whole pixels of the image.
        flipped: whether left and right are exchanged.
    """

    sides: tuple[int, int, int, int]
    flipped: bool = False

    def letterbox(self, image: ImageArray, input_hw: tuple[int, int]) -> tuple[Letterbox, ImageArray]:
        """Return the letterbox of this part of an image [H, W, 3], and the letterboxed part."""
        left, top, right, bottom = self.sides
        letterbox, pixels = letterbox_image(image[top:bottom, left:right], input_hw)
        if not self.flipped:
            return letterbox, pixels
        # The network input is flipped and not the image, which may be large.
        x, y = letterbox.offset_xy
        x = input_hw[1] - letterbox.scaled_hw[1] - x
        return replace(letterbox, offset_xy=(x, y)), np.ascontiguousarray(pixels[:, ::-1])

    def to_image(self, boxes: Floats) -> Floats:
        """Map boxes [N, 4] from pixels of this part, flipped if the view is, to pixels of the image."""
        left, top, right, _ = self.sides
        if self.flipped:
            x1, y1, x2, y2 = boxes.T
            boxes = np.stack([right - left - x2, y1, right - left - x1, y2], axis=1)
        return boxes + np.array([left, top, left, top], dtype=np.float32)


def views_of(image_hw: tuple[int, int], input_hw: tuple[int, int], options: DetectOptions) -> list[View]:
    """Return the views of an image: the whole image, its tiles row by row, then all of these flipped.

    A tile has the aspect of the network input and so fills it: at the same scale fewer tiles are needed than with
    square ones.

    Args:
        image_hw: height and width of the image.
        input_hw: height and width of the network input.
        options: tile size, overlap and TTA.

    Raises:
        ConfigError: the image would need too many tiles.
    """
    height, width = image_hw
    views = [View((0, 0, width, height))]
    if options.tile is not None:
        views += _tiles(options.tile, options.tile_overlap, image_hw, input_hw)
    return views + [replace(view, flipped=True) for view in views] if options.tta else views


def _tiles(long_side: int, overlap: float, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> list[View]:
    scale = long_side / max(input_hw)
    height, width = (
        min(side, max(1, round(scale * input_side))) for side, input_side in zip(image_hw, input_hw, strict=True)
    )
    tops, lefts = _starts(image_hw[0], height, overlap), _starts(image_hw[1], width, overlap)
    if (count := len(tops) * len(lefts)) == 1:
        return []  # the image is not larger than a tile
    if count > _MAX_TILES:
        raise ConfigError(
            f"tile: an image of {image_hw[1]} x {image_hw[0]} pixels would need {count} tiles of {width} x {height}, "
            f"more than {_MAX_TILES}: use larger tiles, or less overlap"
        )
    return [View((left, top, left + width, top + height)) for top in tops for left in lefts]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return the first pixel of each tile along one axis: all tiles inside, evenly spaced, with at least this overlap.

    >>> _starts(25, 10, 0.2), _starts(10, 10, 0.2)
    ([0, 8, 15], [0])
    """
    steps = ceil((length - side) / max(1, int(side * (1 - overlap))))
    return [round((length - side) * k / max(1, steps)) for k in range(steps + 1)]


def merge_views(views: Sequence[View], found: Sequence[Detections], options: DetectOptions) -> Detections:
    """Merge the detections of several views of an image.

    A box that ends at an inner edge of its tile may cover only a part of an object. It is removed if another tile
    contains the box completely, and so also shows what the edge cut off. If no other tile does, the object is larger
    than the overlap, and a part is better than nothing. Of the remaining boxes, those that overlap become one: the best
    score, and the mean of the boxes.

    Args:
        views: as returned by `views_of`, the whole image first.
        found: detections in each of them, in pixels of the part it shows.
        options: IoU threshold, largest number of detections, class-agnostic or not.
    """
    if len(views) == 1:
        return found[0]
    in_image = [view.to_image(detections.boxes) for view, detections in zip(views, found, strict=True)]
    at_edge = [_ends_at_inner_edge(boxes, view, views[0]) for boxes, view in zip(in_image, views, strict=True)]
    boxes, scores = np.concatenate(in_image), np.concatenate([detections.scores for detections in found])
    class_ids = np.concatenate([detections.class_ids for detections in found])

    parts = np.flatnonzero(np.concatenate(at_edge))
    times_shown = np.zeros(len(parts), dtype=np.int64)
    for sides in {view.sides for view in views} - {views[0].sides}:
        times_shown += _is_inside(boxes[parts], sides)
    keep = np.ones(len(boxes), dtype=np.bool_)
    keep[parts[times_shown > 1]] = False  # one of them is the tile in which the box was found
    boxes, scores, class_ids = boxes[keep], scores[keep], class_ids[keep]
    kept = weighted(boxes, scores, None if options.class_agnostic else class_ids, options)
    return Detections(kept.boxes, kept.scores, class_ids[kept.indices], found[0].class_names)


def _ends_at_inner_edge(boxes: Floats, view: View, whole: View) -> Bools:
    """Return a mask [N]: True where a box of [N, 4] ends, within a small margin, at an edge inside the image."""
    left, top, right, bottom = view.sides
    near = np.abs(boxes - np.array(view.sides, dtype=np.float32)) < _EDGE * max(right - left, bottom - top)
    return np.any(near & np.not_equal(view.sides, whole.sides), axis=1)  # type: ignore[no-any-return]


def _is_inside(boxes: Floats, sides: tuple[int, int, int, int]) -> Bools:
    """Return a mask [N]: True where a box of [N, 4] is completely inside (left, top, right, bottom)."""
    inside = (boxes[:, :2] >= sides[:2]) & (boxes[:, 2:] <= sides[2:])
    return np.all(inside, axis=1)  # type: ignore[no-any-return]
