"""Views of an image (the whole image, its tiles, and flipped views for TTA), and merging of the detections of views.

Boxes are in pixels of the image, unless stated otherwise: then in pixels of the part of the image that a view shows.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from detector.arrays import Bools, Floats, ImageArray, Ints
from detector.detections import Detections
from detector.errors import ConfigError
from detector.graph.metadata import warn_once
from detector.letterbox import Letterbox, letterbox_image
from detector.ops.suppression import weighted
from detector.options import DetectOptions

_MAX_TILES = 10_000
"""Largest number of tiles per image: about a minute on a fast machine, and 500 megapixels in tiles of 320 pixels."""

_EDGE = 0.015
"""A box counts as cut off by an edge of its tile if it ends nearer to the edge than this fraction of the long side of
the tile."""

_COVERED = 0.7
"""A box that is cut off by an edge of its tile is a part of a larger box if at least this fraction of its area is
inside the larger box. Chosen on the val split of `bccd` (docs/results.md), as is `_PART_SCORE`."""

_PART_SCORE = 0.5
"""The larger box must have at least this fraction of the score of a part that an edge cuts off. So a false positive
with a low score does not remove a good box. Of a part that ends inside the tile, it must have at least the score."""

_SMALL = 0.1
"""A box of the whole image is not used if a tile shows it completely and it is smaller than this fraction of the long
side of the image: the tile shows it larger, and in the whole image such small boxes are often several objects."""

_CHUNK = 256
"""Number of boxes that are compared with all boxes at once; limits the memory."""


@dataclass(frozen=True)
class View:
    """A rectangular part of an image, flipped or not, in which objects are detected.

    Attributes:
        sides: left, top, right and bottom of the part, in whole pixels of the image.
        flipped: whether the part is flipped left-right.
    """

    sides: tuple[int, int, int, int]
    flipped: bool = False

    def letterbox(self, image: ImageArray, input_hw: tuple[int, int]) -> tuple[Letterbox, ImageArray]:
        """Letterbox a part of an image [H, W, 3], and return letterbox and pixels [input height, input width, 3].

        The part is the part that this view shows; it is flipped if the view is flipped.
        """
        left, top, right, bottom = self.sides
        letterbox, pixels = letterbox_image(image[top:bottom, left:right], input_hw)
        if not self.flipped:
            return letterbox, pixels
        # The network input is flipped instead of the image, which may be large.
        x, y = letterbox.offset_xy
        x = input_hw[1] - letterbox.scaled_hw[1] - x
        return replace(letterbox, offset_xy=(x, y)), np.ascontiguousarray(pixels[:, ::-1])

    def to_image(self, boxes: Floats) -> Floats:
        """Map boxes [N, 4] from pixels of this view to pixels of the image, and return the mapped boxes [N, 4]."""
        left, top, right, _ = self.sides
        if self.flipped:
            x1, y1, x2, y2 = boxes.T
            boxes = np.stack([right - left - x2, y1, right - left - x1, y2], axis=1)
        return boxes + np.array([left, top, left, top], dtype=np.float32)


def views_of(
    image_hw: tuple[int, int], input_hw: tuple[int, int], options: DetectOptions, max_tiles: int = _MAX_TILES
) -> list[View]:
    """Return the views of an image: the whole image, its tiles row by row, then (with TTA) all of these flipped.

    A tile has the aspect ratio of the network input, so that it fills the input: at the same scale, fewer tiles are
    needed than with square tiles.

    Args:
        image_hw: height and width of the image.
        input_hw: height and width of the network input.
        options: tile size, overlap and TTA.
        max_tiles: largest number of tiles.

    Raises:
        ConfigError: the image would need more tiles.
    """
    height, width = image_hw
    views = [View((0, 0, width, height))]
    if options.tile is not None:
        views += _tiles(min(options.tile, sys.maxsize), options.tile_overlap, image_hw, input_hw, max_tiles)
    return views + [replace(view, flipped=True) for view in views] if options.tta else views


def _tiles(
    long_side: int, overlap: float, image_hw: tuple[int, int], input_hw: tuple[int, int], max_tiles: int
) -> list[View]:
    """Return the tiles of an image, row by row; an empty list if one tile would show the whole image.

    Args:
        long_side: long side of a tile in image pixels.
        overlap: smallest overlap of neighboring tiles, as a fraction of a tile.
        image_hw: height and width of the image.
        input_hw: height and width of the network input.
        max_tiles: as for `views_of`.
    """
    scale = long_side / max(input_hw)
    height, width = (
        min(side, max(1, round(scale * input_side))) for side, input_side in zip(image_hw, input_hw, strict=True)
    )
    tops, lefts = _starts(image_hw[0], height, overlap), _starts(image_hw[1], width, overlap)
    if (count := len(tops) * len(lefts)) == 1:
        return []
    if count > max_tiles:
        raise ConfigError(
            f"tile: an image of {image_hw[1]} x {image_hw[0]} pixels would need {count} tiles of {width} x {height}, "
            f"more than {max_tiles}: use larger tiles or a smaller overlap"
        )
    return [View((left, top, left + width, top + height)) for top in tops for left in lefts]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return the first pixel of each tile along one axis. The tiles are inside the image and evenly spaced.

    Args:
        length: length of the image in pixels.
        side: length of a tile in pixels.
        overlap: smallest overlap of neighboring tiles, as a fraction of a tile.

    >>> _starts(25, 10, 0.2), _starts(10, 10, 0.2)
    ([0, 8, 15], [0])
    """
    steps = ceil((length - side) / max(1, int(side * (1 - overlap))))
    return [round((length - side) * k / max(1, steps)) for k in range(steps + 1)]


def merge_views(views: Sequence[View], found: Sequence[Detections], options: DetectOptions) -> Detections:
    """Merge the detections of several views of an image, and return the detections in the image.

    Boxes of the whole image that are small and completely inside a tile are removed, since the tile shows them larger.
    A box that ends at an inner edge of its tile may cover only a part of an object. The box is removed if another tile
    contains it completely, because this tile also shows the part of the object that the edge cut off. If no other tile
    contains the box, the object is larger than the overlap: the box is removed if a larger box of its class covers 70 %
    of it, with at least half its score. That larger box comes from the whole image or from a tile that shows more of
    the object. Else the box of the part is kept. A box that ends inside its tile is removed as a part only if the tile
    cuts off the larger box, and the larger box has at least its score. So a small object inside a larger one stays
    where a tile shows both. Then boxes that overlap are merged into one box, with the best score and the mean
    coordinates.

    If more than `max_detections` boxes remain, the best are kept, and a warning is logged once per process.

    Args:
        views: the views from `views_of`; the first view is the whole image.
        found: detections in each view, in pixels of the view.
        options: `iou_threshold`, `max_detections` and `class_agnostic`.
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
    keep = np.concatenate([~_is_small_and_in_a_tile(b, view, views) for b, view in zip(in_image, views, strict=True)])
    keep[parts[times_shown > 1]] = False  # once in the tile in which the box was detected
    groups = np.zeros_like(class_ids) if options.class_agnostic else class_ids
    keep &= ~_is_part_of_larger(views, in_image, at_edge, scores, groups, keep)
    boxes, scores, class_ids = boxes[keep], scores[keep], class_ids[keep]
    one_more = replace(options, max_detections=options.max_detections + 1)
    kept = weighted(boxes, scores, None if options.class_agnostic else class_ids, one_more)
    if len(kept.scores) > options.max_detections and len(views) > 2:
        warn_once(
            f"the tiles of an image contain more than {options.max_detections} objects, and only the best "
            f"{options.max_detections} are kept: increase max_detections (--max-det)"
        )
    merged = Detections(kept.boxes, kept.scores, class_ids[kept.indices], found[0].class_names)
    return merged[: options.max_detections]


def _is_small_and_in_a_tile(boxes: Floats, view: View, views: Sequence[View]) -> Bools:
    """Return a mask [N]: True where a box of the whole image is small, and a tile shows it completely.

    Args:
        boxes: [N, 4] in pixels of the image.
        view: the view in which the boxes were detected; if it is not the whole image, the mask is False.
        views: all views; the first is the whole image.
    """
    mask = np.zeros(len(boxes), dtype=np.bool_)
    whole = views[0]
    if view.sides == whole.sides:
        for tile in views:
            if tile.sides != whole.sides and not tile.flipped:
                mask |= _is_inside(boxes, tile.sides) & ~_ends_at_inner_edge(boxes, tile, whole)
        mask &= np.max(boxes[:, 2:] - boxes[:, :2], axis=1, initial=0) < _SMALL * max(whole.sides)
    return mask


def _is_part_of_larger(
    views: Sequence[View],
    in_image: Sequence[Floats],
    at_edge: Sequence[Bools],
    scores: Floats,
    class_ids: Ints,
    keep: Bools,
) -> Bools:
    """Return a mask [N]: True where a box covers only a part of an object that its tile cuts off.

    That is: a larger box of the same class covers most of the box, with a score that is high enough; and the tile cuts
    off the box or the larger box. In the second case, the box may end anywhere: a part of a large object may look like
    a small object, such as the nucleus of a cell.

    Args:
        views: V views; the first is the whole image.
        in_image: boxes of each view, [N_v, 4] in pixels of the image; N boxes in all.
        at_edge: masks [N_v] of the boxes that an inner edge of the view cuts off.
        scores: [N].
        class_ids: [N].
        keep: [N]; boxes that are False here are no parts, and no larger boxes.
    """
    boxes = np.concatenate(in_image)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    is_part = np.zeros(len(boxes), dtype=np.bool_)
    ends = np.cumsum([len(own) for own in in_image])
    for view, edge, end in list(zip(views, at_edge, ends, strict=True))[1:]:
        own = np.arange(end - len(edge), end)
        left, top, right, bottom = view.sides
        others = np.flatnonzero(
            keep & (boxes[:, 0] < right) & (boxes[:, 1] < bottom) & (boxes[:, 2] > left) & (boxes[:, 3] > top)
        )
        is_cut = ~_is_inside(boxes[others], view.sides)
        for start in range(0, len(own), _CHUNK):
            chunk = own[start : start + _CHUNK]
            covers = _intersections(boxes[chunk], boxes[others]) >= _COVERED * areas[chunk, None]
            covers &= (areas[others] > areas[chunk, None]) & (class_ids[others] == class_ids[chunk, None])
            at_least = np.where(edge[start : start + _CHUNK], _PART_SCORE, 1) * scores[chunk]
            covers &= (edge[start : start + _CHUNK, None] | is_cut) & (scores[others] >= at_least[:, None])
            is_part[chunk] = covers.any(axis=1)
    return is_part & keep


def _intersections(a: Floats, b: Floats) -> Floats:
    """Return the intersection areas [N, M] of boxes `a` [N, 4] and `b` [M, 4]."""
    x1, y1, x2, y2 = a.T[:, :, None]
    width = np.minimum(x2, b[:, 2]) - np.maximum(x1, b[:, 0])
    height = np.minimum(y2, b[:, 3]) - np.maximum(y1, b[:, 1])
    return width.clip(0) * height.clip(0)  # type: ignore[no-any-return]


def _ends_at_inner_edge(boxes: Floats, view: View, whole: View) -> Bools:
    """Return a mask [N]: True where a box in `boxes` [N, 4] ends at an edge of its view that is inside the image.

    Args:
        boxes: [N, 4] in pixels of the image.
        view: the view in which the boxes were detected.
        whole: the view that shows the whole image.
    """
    left, top, right, bottom = view.sides
    near = np.abs(boxes - np.array(view.sides, dtype=np.float32)) < _EDGE * max(right - left, bottom - top)
    return np.any(near & np.not_equal(view.sides, whole.sides), axis=1)  # type: ignore[no-any-return]


def _is_inside(boxes: Floats, sides: tuple[int, int, int, int]) -> Bools:
    """Return a mask [N]: True where a box in `boxes` [N, 4] is completely inside `sides` (left, top, right, bottom)."""
    inside = (boxes[:, :2] >= sides[:2]) & (boxes[:, 2:] <= sides[2:])
    return np.all(inside, axis=1)  # type: ignore[no-any-return]
