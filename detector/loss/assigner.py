"""The assigner: chooses the grid points that learn to predict each object (the positives of the object).

Task-aligned assignment: each object is assigned to the points that already predict this object best, by score and IoU.
Objects smaller than the grid have candidate points too.

The code works on a list of (object, candidate point) pairs, not on a dense table: an image may contain 500 objects, and
each object has a few dozen candidates among thousands of points.
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
    """The targets of the K positives of a batch. A positive is a grid point to which an object is assigned.

    At most one object is assigned to each point of each image.

    Attributes:
        image_index: [K] index of the image in the batch.
        point_index: [K] index of the point in the grid.
        boxes: [K, 4] box of the assigned object as (x1, y1, x2, y2), in input pixels.
        class_ids: [K] class of the assigned object.
        quality: [K] target score, 0..1: how well the point predicts the object, relative to the best point of the
            object.
    """

    image_index: Tensor
    point_index: Tensor
    boxes: Tensor
    class_ids: Tensor
    quality: Tensor


@torch.no_grad()
def assign(predictions: GridPredictions, batch: Batch, config: LossConfig, min_quality: float = 0.0) -> AssignedTargets:
    """Assign each object to the grid points that predict the object best, and return the targets of these points.

    A point is a candidate for an object if the point lies in the box of the object, or within `assign_radius` strides
    of the center of the box. So objects smaller than the grid have candidates too. For each object, the `assign_top_k`
    candidates with the highest score^a * IoU^b become positives. If several objects select the same point, the object
    whose box has the highest IoU with the predicted box of the point is assigned to the point.

    Args:
        predictions: current predictions for the images of the batch.
        batch: the objects.
        config: exponents a and b (`assign_score_power`, `assign_iou_power`), `assign_top_k` and `assign_radius`.
        min_quality: lower bound of `quality`. It is above 0 in the first steps of training, in which every predicted
            box is wrong.

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

    chosen = _top_k_per_group(obj, metric, config.assign_top_k)
    chosen = chosen[_best_per_group(image[chosen] * len(grid.strides) + point[chosen], iou[chosen])]
    obj, point, iou, metric = obj[chosen], point[chosen], iou[chosen], metric[chosen]

    # The target score of the best point of an object is the best IoU among the points of the object. The target scores
    # of the other points are proportional to their metric.
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
    """Return the predicted scores [K] of K classes, each at one point of one image.

    Args:
        predictions: predictions for the images of the batch.
        image: [K] index of the image in the batch.
        point: [K] index of the point in the grid.
        class_ids: [K] id of the class.
    """
    if predictions.exclusive:
        return predictions.scores()[image, point, class_ids]
    return predictions.class_logits[image, point, class_ids].sigmoid()


def candidates(boxes: Tensor, grid: Grid, radius: float) -> Tensor:
    """Return a mask [N, P]: True where a grid point is a candidate for an object.

    Candidates are the points in the box of the object, and the points within `radius` strides of the box center.

    Args:
        boxes: [N, 4] boxes of the objects as (x1, y1, x2, y2), in input pixels.
        grid: P points.
        radius: largest horizontal and vertical distance between a box center and a candidate outside of the box, in
            strides.
    """
    x, y = grid.points.unbind(1)
    x1, y1, x2, y2 = (side[:, None] for side in boxes.unbind(1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    near = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs()) < radius * grid.strides
    return inside | near


def has_candidate(boxes: Floats, radius: float) -> Bools:
    """Return a mask [N]: True where an object has at least one candidate point in a grid that covers the input.

    The result is that of `candidates`, but no grid is created.

    Args:
        boxes: [N, 4] boxes of the objects as (x1, y1, x2, y2), in input pixels. Their centers must lie in the input.
        radius: see `candidates`.
    """
    found = np.zeros(len(boxes), dtype=np.bool_)
    for stride in STRIDES:
        corners = boxes.astype(np.float64) / stride
        centers = (corners[:, :2] + corners[:, 2:]) / 2
        found |= (np.abs(centers % 1 - 0.5) < radius).all(axis=1)
        first_point = np.floor(corners[:, :2] - 0.5) + 1.5  # the first point right of and below the top left corner
        found |= (first_point < corners[:, 2:]).all(axis=1)
    return found


def _top_k_per_group(group: Tensor, value: Tensor, k: int) -> Tensor:
    """Return the indices of the k highest values of each group, sorted by group.

    If values are equal, the value with the lower index counts as higher.

    Args:
        group: [K] group number of each value, in ascending order.
        value: [K] values.
        k: largest number of indices per group.
    """
    by_value = torch.argsort(value, descending=True, stable=True)
    order = by_value[torch.argsort(group[by_value], stable=True)]
    sizes = torch.bincount(group)
    first = torch.cumsum(sizes, 0) - sizes
    rank = torch.arange(len(order), device=order.device) - first[group[order]]
    return order[rank < k]


def _best_per_group(group: Tensor, value: Tensor) -> Tensor:
    """Return the index of the highest value of each group, sorted by group.

    If values are equal, the value with the lower index counts as higher.

    Args:
        group: [K] group number of each value, in any order.
        value: [K] values.
    """
    by_value = torch.argsort(value, descending=True, stable=True)
    order = by_value[torch.argsort(group[by_value], stable=True)]
    groups = group[order]
    is_first = torch.ones_like(groups, dtype=torch.bool)
    is_first[1:] = groups[1:] != groups[:-1]
    return order[is_first]
