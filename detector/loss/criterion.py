"""The loss: quality focal loss for class scores, GIoU and L1 loss for boxes, or the variants in `LossConfig`.

`assign_targets`, `compute_loss` and `has_positive` select the loss that belongs to the head: the loss for grid points,
which is in this module, or the loss of the first YOLO in `loss/yolo_v1.py`. No other module makes this selection.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detector.arrays import Bools, Floats
from detector.config import Config, LossConfig
from detector.loader.batch import Batch
from detector.loss.assigner import AssignedTargets, assign, has_candidate
from detector.loss.terms import LossTerms
from detector.loss.yolo_v1 import CellTargets, assign_cells, yolo_v1_loss
from detector.model.grid import Grid, GridPredictions, decode
from detector.model.predictions import Predictions
from detector.model.yolo_v1 import CellPredictions
from detector.ops.iou import elementwise_giou

Targets = AssignedTargets | CellTargets


def _alone(value: Tensor) -> Tensor:
    """Return the sum of a value over all processes that compute a batch together: here, only this one."""
    return value


def detection_loss(
    predictions: Predictions,
    batch: Batch,
    config: LossConfig,
    min_quality: float = 0.0,
    add: Callable[[Tensor], Tensor] = _alone,
    class_weights: Tensor | None = None,
) -> LossTerms:
    """Assign the objects of a batch to grid points or cells, and return the terms of the loss.

    Args:
        predictions: predictions for the images of the batch.
        batch: the objects; a batch without objects is allowed.
        config: settings of the assignment and of the loss terms.
        min_quality: lower bound of the target scores; see `assign`.
        add: as for `compute_loss`.
        class_weights: as for `compute_loss`.
    """
    targets = assign_targets(predictions, batch, config, min_quality)
    return compute_loss(predictions, batch, targets, config, add, class_weights)


def assign_targets(predictions: Predictions, batch: Batch, config: LossConfig, min_quality: float = 0.0) -> Targets:
    """Assign the objects of a batch to grid points or cells, and return the targets, which have no gradient.

    Args:
        predictions: predictions for the images of the batch.
        batch: the objects; a batch without objects is allowed.
        config: settings of the assignment.
        min_quality: lower bound of the target scores; see `assign`. The first YOLO does not use it.
    """
    if isinstance(predictions, CellPredictions):
        return assign_cells(predictions, batch)
    assert isinstance(predictions, GridPredictions)
    return assign(predictions, batch, config, min_quality)


def compute_loss(
    predictions: Predictions,
    batch: Batch,
    targets: Targets,
    config: LossConfig,
    add: Callable[[Tensor], Tensor] = _alone,
    class_weights: Tensor | None = None,
) -> LossTerms:
    """Return the terms of the loss for given targets.

    Args:
        predictions: predictions for the images of the batch.
        batch: the objects.
        targets: result of `assign_targets` for predictions of the same kind.
        config: weights and exponents of the loss terms.
        add: returns the sum of a scalar over all processes that compute a part of the batch. The terms of this part,
            added over all processes, are those of the whole batch. Default: the batch has one part.
        class_weights: [C] factor on the loss of the class scores where an object of the class is assigned; background
            has the factor 1. None: all factors are 1.
    """
    if isinstance(predictions, CellPredictions):
        assert isinstance(targets, CellTargets)
        return yolo_v1_loss(predictions, batch, targets, config, add, class_weights)
    assert isinstance(predictions, GridPredictions)
    assert isinstance(targets, AssignedTargets)
    return _grid_loss(predictions, batch, targets, config, add, class_weights)


def has_positive(boxes: Floats, config: Config) -> Bools:
    """Return a mask [N]: True where an object can be assigned to at least one grid point or cell.

    Args:
        boxes: [N, 4] boxes of the objects as (x1, y1, x2, y2), in input pixels. Their centers must lie in the input.
        config: settings of the head and of the assignment.
    """
    if config.head == "yolo_v1":  # the center of every object lies in a cell
        return np.ones(len(boxes), dtype=np.bool_)
    return has_candidate(boxes, config.assign_radius)


def _grid_loss(
    predictions: GridPredictions,
    batch: Batch,
    targets: AssignedTargets,
    config: LossConfig,
    add: Callable[[Tensor], Tensor],
    class_weights: Tensor | None,
) -> LossTerms:
    """Return the terms of the loss for grid points, each divided by the sum of the target scores (at least 1)."""
    at_positives = (targets.image_index, targets.point_index)
    norm = add(targets.quality.sum()).clamp(min=1.0)

    target_scores = torch.zeros_like(predictions.class_logits)
    target_scores[(*at_positives, targets.class_ids)] = targets.quality
    class_loss = _class_loss(predictions, target_scores, config, _labeled_scores(predictions, batch, targets))
    if batch.is_crowd.any():
        class_loss = class_loss * _outside_crowds(predictions.grid, batch, targets)
    if class_weights is not None:
        factors = torch.ones_like(class_loss)
        factors[at_positives] = class_weights[targets.class_ids].to(factors.dtype)
        class_loss = class_loss * factors

    points, strides = predictions.grid.points[targets.point_index], predictions.grid.strides[targets.point_index]
    distances = predictions.distances[at_positives]
    target_distances = torch.cat([points - targets.boxes[:, :2], targets.boxes[:, 2:] - points], dim=1)
    target_distances = (target_distances / strides[:, None]).clamp(min=0)

    def mean(error: Tensor) -> Tensor:
        return (error * targets.quality).sum() / norm

    giou = elementwise_giou(decode(points, strides, distances), targets.boxes)
    parts = {
        "classes": config.class_weight * class_loss.sum() / norm,
        "iou": config.iou_weight * mean(1 - giou),
        "l1": config.l1_weight * mean((distances - target_distances).abs().mean(dim=1)),
    }
    if config.squared_error_weight:
        parts["square"] = config.squared_error_weight * mean(squared_error(distances, target_distances))
    return LossTerms(parts, positives=len(targets.quality))


def _class_loss(predictions: GridPredictions, targets: Tensor, config: LossConfig, labeled: Tensor | None) -> Tensor:
    """Return the class loss [B, P] of each point.

    Args:
        predictions: predictions for B images at P points.
        targets: [B, P, C] target scores, 0..1.
        config: `class_loss` and `focal_power`.
        labeled: [B, P, C] False for scores that have no loss; None: all have one. None with a softmax.
    """
    logits = predictions.class_logits
    if config.class_loss == "softmax":
        return softmax_loss(logits, targets)
    power = config.focal_power if config.class_loss == "quality_focal" else 0.0
    losses = quality_focal_loss(logits, targets, power)
    if labeled is not None:
        losses = losses * labeled
    return losses.sum(dim=-1)


def _labeled_scores(predictions: GridPredictions, batch: Batch, targets: AssignedTargets) -> Tensor | None:
    """Return a mask [B, P, C]: False at a score of a class that is not labeled where the point lies.

    There, the class may be present or not, so the score has no target. The scores of assigned objects have one. None if
    all classes are labeled in all images.
    """
    if batch.unlabeled is None:
        return None
    inside = _points_inside(predictions.grid, batch.unlabeled.boxes)
    unlabeled = torch.einsum("brp,brc->bpc", inside.float(), batch.unlabeled.classes.float())
    labeled = unlabeled == 0
    labeled[targets.image_index, targets.point_index, targets.class_ids] = True
    return labeled


def quality_focal_loss(logits: Tensor, targets: Tensor, power: float) -> Tensor:
    """Return the quality focal loss of each score, in the shape of `logits`.

    Args:
        logits: logits of the scores, of any shape.
        targets: target scores, 0..1, of the same shape.
        power: exponent beta of the error. 0: the loss is the binary cross-entropy.

    Source: Li et al., Generalized Focal Loss, 2020, equation 3.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if not power:
        return cross_entropy
    error = (targets - logits.sigmoid()).abs()
    # With a power below 1, the slope of error ** power is infinite at an error of 0.
    return (error.clamp(min=1e-12) if power < 1 else error) ** power * cross_entropy


def softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy [...] of a softmax over C classes and a background class with the logit 0.

    Args:
        logits: [..., C] logits of the classes, without the background.
        targets: [..., C] target probabilities of the classes. Their sum is at most 1; the target probability of the
            background is 1 minus this sum.
    """
    return torch.logsumexp(F.pad(logits, (1, 0)), dim=-1) - (logits * targets).sum(dim=-1)


def squared_error(distances: Tensor, target_distances: Tensor) -> Tensor:
    """Return the squared error [K] of each box: of its center, and of the square roots of its width and height.

    Args:
        distances: [K, 4] predicted distances to the left, top, right and bottom side, in strides.
        target_distances: [K, 4] target distances to the same sides, in strides.

    Source: Redmon et al., You Only Look Once, 2016, equation 3, its first two terms.
    """

    def center_and_roots(sides: Tensor) -> Tensor:
        before, after = sides[:, :2], sides[:, 2:]
        # The slope of the square root is infinite at 0: sides are at least 1e-4 strides long.
        return torch.cat([(after - before) / 2, (after + before).clamp(min=1e-4).sqrt()], dim=1)

    return ((center_and_roots(distances) - center_and_roots(target_distances)) ** 2).sum(dim=1)


def _outside_crowds(grid: Grid, batch: Batch, targets: AssignedTargets) -> Tensor:
    """Return the weight [B, P] of each point in the class loss: 0 at negatives in crowd regions, 1 at all others."""
    inside = _points_inside(grid, batch.boxes) & batch.is_crowd[..., None]
    counts = ~inside.any(dim=1)
    counts[targets.image_index, targets.point_index] = True
    return counts.float()


def _points_inside(grid: Grid, boxes: Tensor) -> Tensor:
    """Return a mask [B, M, P]: True where a point of the grid lies in a box of boxes [B, M, 4]."""
    x, y = grid.points[:, 0], grid.points[:, 1]
    x1, y1, x2, y2 = (side[..., None] for side in boxes.unbind(-1))
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)
