"""Which points shall find which object: task-aligned assignment, with a floor for small objects.

Works on the list of (object, candidate point) pairs instead of a dense table: an image may hold 500 objects, and each
has a few dozen candidates among thousands of points.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detector.arrays import Bools, Floats
from detector.config import Config
from detector.loader.batch import Batch
from detector.model.grid import STRIDES, Grid, GridPredictions, decode
from detector.ops.iou import elementwise_iou


@dataclass(frozen=True, eq=False)
class AssignedTargets:
    """K points that answer for an object, each (image, point) at most once.

    Attributes:
        image_index: [K] position of the image in the batch.
        point_index: [K] position in the grid.
        boxes: [K, 4] of the object, in canvas pixels.
        class_ids: [K].
        quality: [K] score to aim at, 0..1: how well this point does compared with the object's best.
    """

    image_index: Tensor
    point_index: Tensor
    boxes: Tensor
    class_ids: Tensor
    quality: Tensor


@torch.no_grad()
def assign(predictions: GridPredictions, batch: Batch, config: Config, min_quality: float = 0.0) -> AssignedTargets:
    """Assign points to objects by how well they already find them.

    A point is a candidate for an object if it lies in its box, or within `assign_radius` strides of its center: so an
    object smaller than the grid has candidates too. Of these the `assign_top_k` with the highest score^a * IoU^b are
    positive; a point wanted by several objects goes to the one it overlaps most.

    Args:
        predictions: what the network says now.
        batch: the objects.
        config: exponents, k and reach.
        min_quality: floor of `quality`, for the first steps, when every box is wrong.

    Source: Feng et al., TOOD: Task-aligned One-stage Object Detection, 2021, section 3.2.1.
    """
    image_index, row = batch.is_object.nonzero(as_tuple=True)
    boxes, class_ids = batch.boxes[image_index, row], batch.class_ids[image_index, row]
    obj, point = candidates(boxes, predictions.grid, config.assign_radius).nonzero(as_tuple=True)

    image = image_index[obj]
    grid = predictions.grid
    predicted = decode(grid.points[point], grid.strides[point], predictions.distances[image, point])
    iou = elementwise_iou(predicted, boxes[obj])
    score = _scores(predictions, image, point, class_ids[obj])
    metric = score**config.assign_score_power * iou**config.assign_iou_power

    chosen = _top_k_of_each(obj, metric, config.assign_top_k)
    chosen = chosen[_best_of_each(image[chosen] * len(grid.strides) + point[chosen], iou[chosen])]
    obj, point, iou, metric = obj[chosen], point[chosen], iou[chosen], metric[chosen]

    # The best point of an object aims at the best IoU it reached, the others at their share of that.
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


def _scores(predictions: GridPredictions, image: Tensor, point: Tensor, class_ids: Tensor) -> Tensor:
    """Return the scores [K] of single points and classes."""
    if predictions.exclusive:
        return predictions.scores()[image, point, class_ids]
    return predictions.class_logits[image, point, class_ids].sigmoid()


def candidates(boxes: Tensor, grid: Grid, reach: float) -> Tensor:
    """Return [N, P] bool: which points may answer for which of the boxes [N, 4]."""
    x, y = grid.points.unbind(1)
    x1, y1, x2, y2 = (side[:, None] for side in boxes.unbind(1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    near = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs()) < reach * grid.strides
    return inside | near


def has_candidate(boxes: Floats, radius: float) -> Bools:
    """Return which boxes [N, 4], in canvas pixels with their centers on the canvas, have a candidate point.

    As `loss.assigner.candidates`, for grids that cover the canvas.
    """
    found = np.zeros(len(boxes), dtype=np.bool_)
    for stride in STRIDES:
        corners = boxes.astype(np.float64) / stride
        centers = (corners[:, :2] + corners[:, 2:]) / 2
        found |= (np.abs(centers % 1 - 0.5) < radius).all(axis=1)
        first_point = np.floor(corners[:, :2] - 0.5) + 1.5  # the first one right of and below the top left corner
        found |= (first_point < corners[:, 2:]).all(axis=1)
    return found


def _top_k_of_each(group: Tensor, value: Tensor, k: int) -> Tensor:
    """Return the indices of the k highest values of each group; `group` [K] is sorted. Ties: the first one."""
    by_value = torch.argsort(value, descending=True, stable=True)
    order = by_value[torch.argsort(group[by_value], stable=True)]
    sizes = torch.bincount(group)
    first = torch.cumsum(sizes, 0) - sizes
    rank = torch.arange(len(order), device=order.device) - first[group[order]]
    return order[rank < k]


def _best_of_each(group: Tensor, value: Tensor) -> Tensor:
    """Return the index of the highest value of each group, in order of the groups. Ties: the first one."""
    by_value = torch.argsort(value, descending=True, stable=True)
    order = by_value[torch.argsort(group[by_value], stable=True)]
    groups = group[order]
    is_first = torch.ones_like(groups, dtype=torch.bool)
    is_first[1:] = groups[1:] != groups[:-1]
    return order[is_first]
