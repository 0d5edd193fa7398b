"""The assigner: which grid points are positives, and for which object.

Task-aligned assignment: the points that predict an object best, by score and IoU, are assigned to it. Objects smaller
than the grid get candidate points too.

It works on a list of (object, candidate point) pairs, not on a dense table: an image may hold 500 objects, and each has
a few dozen candidates among thousands of points.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detector.arrays import Bools, Floats
from detector.config import LossConfig
from detector.loader.batch import Batch
from detector.model.grid import STRIDES, Grid, GridPredictions, decode
from detector.ops.iou import elementwise_iou


@dataclass(frozen=True, eq=False)
class AssignedTargets:
    """The targets of K positives: grid points that are assigned to an object. No (image, point) occurs twice.

    Attributes:
        image_index: [K] index of the image in the batch.
        point_index: [K] index of the point in the grid.
        boxes: [K, 4] box of the assigned object as (x1, y1, x2, y2), in input pixels.
        class_ids: [K] class of the assigned object.
        quality: [K] target score, 0..1: how well this point predicts the object, relative to the object's best point.
    """

    image_index: Tensor
    point_index: Tensor
    boxes: Tensor
    class_ids: Tensor
    quality: Tensor


@torch.no_grad()
def assign(predictions: GridPredictions, batch: Batch, config: LossConfig, min_quality: float = 0.0) -> AssignedTargets:
    """Assign points to objects by how well they already predict them.

    A point is a candidate for an object if it lies in its box or within `assign_radius` strides of its center. So
    objects smaller than the grid have candidates too. For each object, the `assign_top_k` candidates with the highest
    score^a * IoU^b become positives. A point that several objects select is assigned to the object with which its
    predicted box has the highest IoU.

    Args:
        predictions: current predictions for the images of the batch.
        batch: the objects.
        config: exponents, k and radius.
        min_quality: lower bound of `quality`, for the first steps of training, in which every predicted box is wrong.

    Source: Feng et al., TOOD: Task-aligned One-stage Object Detection, 2021, section 3.2.1.
    """
    image_index, row = batch.is_object.nonzero(as_tuple=True)
    boxes, class_ids = batch.boxes[image_index, row], batch.class_ids[image_index, row]
    obj, point = candidates(boxes, predictions.grid, config.assign_radius).nonzero(as_tuple=True)

    image = image_index[obj]
    grid = predictions.grid
    predicted = decode(grid.points[point], grid.strides[point], predictions.distances[image, point])
    iou = elementwise_iou(predicted, boxes[obj])
    score = _scores_at(predictions, image, point, class_ids[obj])
    metric = score**config.assign_score_power * iou**config.assign_iou_power

    chosen = _top_k_of_each(obj, metric, config.assign_top_k)
    chosen = chosen[_best_of_each(image[chosen] * len(grid.strides) + point[chosen], iou[chosen])]
    obj, point, iou, metric = obj[chosen], point[chosen], iou[chosen], metric[chosen]

    # The target score of an object's best point is the best IoU among its points. Those of its other points are in
    # proportion to their metric.
    best_metric = metric.new_zeros(len(boxes)).scatter_reduce(0, obj, metric, "amax")
    best_iou = iou.new_zeros(len(boxes)).scatter_reduce(0, obj, iou, "amax")
    quality = metric / best_metric[obj].clamp(min=1e-9) * best_iou[obj]
    return AssignedTargets(
        image_index=image_index[obj],
        point_index=point,
        boxes=boxes[obj],
        class_ids=class_ids[obj],
        quality=quality.clamp(min=min_quality),
    )


def _scores_at(predictions: GridPredictions, image: Tensor, point: Tensor, class_ids: Tensor) -> Tensor:
    """Return the scores [K] of K (image, point, class) triples."""
    if predictions.exclusive:
        return predictions.scores()[image, point, class_ids]
    return predictions.class_logits[image, point, class_ids].sigmoid()


def candidates(boxes: Tensor, grid: Grid, radius: float) -> Tensor:
    """Find the grid points that can be assigned to each object.

    Args:
        boxes: [N, 4] as (x1, y1, x2, y2), in input pixels.
        grid: P points.
        radius: points within this many strides of the center of a box are candidates even outside of the box.

    Returns:
        A mask [N, P]: True where the point is a candidate for the box.
    """
    x, y = grid.points.unbind(1)
    x1, y1, x2, y2 = (side[:, None] for side in boxes.unbind(1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    near = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs()) < radius * grid.strides
    return inside | near


def has_candidate(boxes: Floats, radius: float) -> Bools:
    """Find the objects for which `candidates` finds at least one point, without constructing the grid.

    Args:
        boxes: [N, 4] as (x1, y1, x2, y2), in input pixels; their centers lie inside the input.
        radius: as for `candidates`.

    Returns:
        A mask [N]: True where the box has a candidate in a grid that covers the input.
    """
    found = np.zeros(len(boxes), dtype=np.bool_)
    for stride in STRIDES:
        corners = boxes.astype(np.float64) / stride
        centers = (corners[:, :2] + corners[:, 2:]) / 2
        found |= (np.abs(centers % 1 - 0.5) < radius).all(axis=1)
        first_point = np.floor(corners[:, :2] - 0.5) + 1.5  # the first point right of and below the top left corner
        found |= (first_point < corners[:, 2:]).all(axis=1)
    return found


def _top_k_of_each(group: Tensor, value: Tensor, k: int) -> Tensor:
    """Return the indices of the k highest values of each group. Of equal values the first one counts as higher.

    Args:
        group: [K] group of each value, sorted.
        value: [K].
        k: largest number of values per group.
    """
    by_value = torch.argsort(value, descending=True, stable=True)
    order = by_value[torch.argsort(group[by_value], stable=True)]
    sizes = torch.bincount(group)
    first = torch.cumsum(sizes, 0) - sizes
    rank = torch.arange(len(order), device=order.device) - first[group[order]]
    return order[rank < k]


def _best_of_each(group: Tensor, value: Tensor) -> Tensor:
    """Return the index of the highest value of each group, in order of the groups. Of equal values the first one wins.

    Args:
        group: [K] group of each value, in any order.
        value: [K].
    """
    by_value = torch.argsort(value, descending=True, stable=True)
    order = by_value[torch.argsort(group[by_value], stable=True)]
    groups = group[order]
    is_first = torch.ones_like(groups, dtype=torch.bool)
    is_first[1:] = groups[1:] != groups[:-1]
    return order[is_first]
