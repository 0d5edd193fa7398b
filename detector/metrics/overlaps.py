"""IoU of each detection with each object of its image, whatever their classes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from detector.arrays import Doubles, Ints
from detector.metrics.matches import Matches


class ImageOverlaps(NamedTuple):
    """Detections and objects of one image.

    Attributes:
        image: index of the image in `Matches.image_ids`.
        found: [N] indices of the detections in `Matches`.
        objects: [M] indices of the objects in `Matches`; crowd regions are left out.
        iou: [N, M] IoU of each detection with each object.
    """

    image: int
    found: Ints
    objects: Ints
    iou: Doubles


def image_overlaps(
    matches: Matches, ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[ImageOverlaps]:
    """Yield the overlaps of each image that has a detection or an object.

    Args:
        matches: the matches of `rows` with `ground_truth`.
        ground_truth: COCO dictionary.
        rows: detections in COCO's results format.
    """
    annotations = ground_truth["annotations"]
    found_boxes = box_array([rows[row]["bbox"] for row in matches.row])
    object_boxes = box_array([annotations[row]["bbox"] for row in matches.object_row])
    counted = np.flatnonzero(~matches.object_ignored[0])
    order = np.argsort(matches.image, kind="stable")
    object_order = counted[np.argsort(matches.object_image[counted], kind="stable")]
    indices = np.arange(len(matches.image_ids) + 1)
    found_ends = np.searchsorted(matches.image[order], indices)
    object_ends = np.searchsorted(matches.object_image[object_order], indices)
    for image in range(len(matches.image_ids)):
        found = order[found_ends[image] : found_ends[image + 1]]
        objects = object_order[object_ends[image] : object_ends[image + 1]]
        if len(found) or len(objects):
            yield ImageOverlaps(image, found, objects, pairwise_iou(found_boxes[found], object_boxes[objects]))


def box_array(boxes: Sequence[Sequence[float]]) -> Doubles:
    """Return boxes (x, y, width, height) as an array [N, 4], also for N = 0."""
    return np.array(boxes, np.float64).reshape(-1, 4)


def pairwise_iou(first: Doubles, second: Doubles) -> Doubles:
    """Return [N, M] the IoU of boxes [N, 4] and [M, 4] (x, y, width, height); 0 where both have no area."""
    a, b = first[:, None], second[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(0).prod(axis=-1)
    union = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0))
