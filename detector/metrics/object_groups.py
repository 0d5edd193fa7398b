"""Recall by size, aspect ratio, crowding and position of the objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from detector.arrays import Bools, Doubles
from detector.metrics.matches import Matches
from detector.metrics.overlaps import box_array, pairwise_iou

_SIZES = (16, 32, 64, 96, 192)
"""Limits of the groups by size: square root of the area of the box, in pixels."""

_ASPECTS = (1 / 3, 2 / 3, 3 / 2, 3)
"""Limits of the groups by aspect ratio: width divided by height."""

_CROWDING = (1e-9, 0.1, 0.3)
"""Limits of the groups by crowding: largest IoU with another object of the image."""

_EDGE = 1.0
"""An object touches the edge of the image if its box is at most so many pixels away from it."""

_CENTER = 0.5
"""An object is in the center if the center of its box is in this central fraction of width and height."""


@dataclass(frozen=True)
class ObjectGroup:
    """Objects with a property in common.

    Attributes:
        name: the property, such as "16 to 32 px".
        objects: number of objects.
        found: number of these objects that a detection matches.
    """

    name: str
    objects: int
    found: int


def object_groups(
    matches: Matches, ground_truth: Mapping[str, Any], score_threshold: float
) -> Mapping[str, Sequence[ObjectGroup]]:
    """Return groups of objects by "size", "aspect ratio", "crowding" and "position"; groups without objects too.

    An object is found if a detection with at least the score matches it at the lowest IoU threshold of the matches.
    Groups by position need the width and the height of each image; without them, they are left out.

    Args:
        matches: the matches.
        ground_truth: COCO dictionary.
        score_threshold: lowest score of a detection that counts.
    """
    counted = np.flatnonzero(~matches.object_ignored[0])
    boxes = box_array([ground_truth["annotations"][row]["bbox"] for row in matches.object_row[counted]])
    hits = matches.true_positive[0, 0] & (matches.scores >= score_threshold)
    hit = np.zeros(len(matches.object_row), np.bool_)
    hit[matches.matched_object[0, hits]] = True
    found = hit[counted]
    sides = np.sqrt(boxes[:, 2] * boxes[:, 3])
    aspect = np.divide(boxes[:, 2], boxes[:, 3], out=np.ones(len(boxes)), where=boxes[:, 3] > 0)
    groups = {
        "size": _between(sides, _SIZES, [f"below {_SIZES[0]} px", *_ranges(_SIZES), f"from {_SIZES[-1]} px"], found),
        "aspect ratio": _between(
            aspect, _ASPECTS, ["below 1:3", "1:3 to 2:3", "2:3 to 3:2", "3:2 to 3:1", "from 3:1"], found
        ),
        "crowding": _between(
            _largest_iou(boxes, matches.object_image[counted]),
            _CROWDING,
            ["no overlap", "IoU below 0.1", "IoU 0.1 to 0.3", "IoU from 0.3"],
            found,
        ),
    }
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in ground_truth["images"]}
    own = [sizes[image_id] for image_id in matches.image_ids[matches.object_image[counted]].tolist()]
    if not all(width and height for width, height in own):
        return groups
    return groups | {"position": _by_position(boxes, np.array(own, np.float64).reshape(-1, 2), found)}


def _ranges(limits: Sequence[int]) -> list[str]:
    """Return the names of the groups between limits in pixels."""
    return [f"{low} to {high} px" for low, high in pairwise(limits)]


def _between(values: Doubles, limits: Sequence[float], names: Sequence[str], found: Bools) -> list[ObjectGroup]:
    """Return the groups of values between limits; a group contains its lower limit."""
    index = np.searchsorted(limits, values, side="right")
    return [_group(name, index == position, found) for position, name in enumerate(names)]


def _group(name: str, own: Bools, found: Bools) -> ObjectGroup:
    """Return the group of the objects for which `own` is True."""
    return ObjectGroup(name, int(own.sum()), int((own & found).sum()))


def _largest_iou(boxes: Doubles, image: Any) -> Doubles:
    """Return [N] the largest IoU of each box [N, 4] with another box of the same image [N]; 0 without another."""
    largest = np.zeros(len(boxes))
    for index in np.unique(image):
        own = np.flatnonzero(image == index)
        iou = pairwise_iou(boxes[own], boxes[own])
        np.fill_diagonal(iou, 0)
        largest[own] = iou.max(axis=1)
    return largest


def _by_position(boxes: Doubles, sizes: Doubles, found: Bools) -> list[ObjectGroup]:
    """Return the groups by position.

    Args:
        boxes: [N, 4] x, y, width, height in pixels.
        sizes: [N, 2] width and height of the image of each box.
        found: [N] whether each object was found.
    """
    margins = np.minimum(boxes[:, :2], sizes - boxes[:, :2] - boxes[:, 2:])
    at_edge: Bools = np.asarray(margins.min(axis=1) <= _EDGE)
    offset = np.abs((boxes[:, :2] + boxes[:, 2:] / 2) / sizes - 0.5)
    center: Bools = np.asarray((offset.max(axis=1) <= _CENTER / 2) & ~at_edge)
    return [
        _group("touches the edge", at_edge, found),
        _group("outer part", ~at_edge & ~center, found),
        _group("center", center, found),
    ]
