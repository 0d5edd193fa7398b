"""The loss: quality focal loss for class scores, GIoU and L1 for boxes, or the variants that the settings select.

`assign_targets`, `compute_loss` and `has_positive` select the loss of the head, here and nowhere else: that of the grid
points, which follows below, or that of the first YOLO in `loss/yolo_v1.py`.
"""

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


def detection_loss(predictions: Predictions, batch: Batch, config: LossConfig, min_quality: float = 0.0) -> LossTerms:
    """Assign the objects of a batch to grid points or cells, and compute the loss.

    Args:
        predictions: for the images of the batch.
        batch: the objects; there may be none.
        config: weights and exponents.
        min_quality: see `assign`.
    """
    targets = assign_targets(predictions, batch, config, min_quality)
    return compute_loss(predictions, batch, targets, config)


def assign_targets(predictions: Predictions, batch: Batch, config: LossConfig, min_quality: float = 0.0) -> Targets:
    """Assign the objects of a batch to grid points or cells. No gradient flows through the targets."""
    if isinstance(predictions, CellPredictions):
        return assign_cells(predictions, batch)
    assert isinstance(predictions, GridPredictions)
    return assign(predictions, batch, config, min_quality)


def compute_loss(predictions: Predictions, batch: Batch, targets: Targets, config: LossConfig) -> LossTerms:
    """Compute the loss for given targets.

    Args:
        predictions: for the images of the batch.
        batch: the objects.
        targets: from `assign_targets`, for predictions of the same kind.
        config: weights and exponents.
    """
    if isinstance(predictions, CellPredictions):
        assert isinstance(targets, CellTargets)
        return yolo_v1_loss(predictions, batch, targets, config)
    assert isinstance(predictions, GridPredictions)
    assert isinstance(targets, AssignedTargets)
    return _grid_loss(predictions, batch, targets, config)


def has_positive(boxes: Floats, config: Config) -> Bools:
    """Find the objects that can get a positive: to which at least one grid point or cell can be assigned.

    Args:
        boxes: [N, 4] as (x1, y1, x2, y2), in input pixels; their centers lie inside the input.
        config: head and assigner.

    Returns:
        A mask [N]: True where the object can be assigned.
    """
    if config.head == "yolo_v1":  # the center of every object lies in a cell
        return np.ones(len(boxes), dtype=np.bool_)
    return has_candidate(boxes, config.assign_radius)


def _grid_loss(predictions: GridPredictions, batch: Batch, targets: AssignedTargets, config: LossConfig) -> LossTerms:
    """Compute the loss at the grid points. All terms are divided by the sum of the target qualities."""
    at_positives = (targets.image_index, targets.point_index)
    norm = targets.quality.sum().clamp(min=1.0)

    target_scores = torch.zeros_like(predictions.class_logits)
    target_scores[(*at_positives, targets.class_ids)] = targets.quality
    class_loss = _class_loss(predictions, target_scores, config)
    if batch.is_crowd.any():
        class_loss = class_loss * _outside_crowds(predictions.grid, batch, targets)

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


def _class_loss(predictions: GridPredictions, targets: Tensor, config: LossConfig) -> Tensor:
    """Return the loss of the class scores at each point.

    Args:
        predictions: of B images at P points.
        targets: [B, P, C] target scores, 0..1.
        config: `class_loss` and `focal_power`.

    Returns:
        [B, P].
    """
    logits = predictions.class_logits
    if config.class_loss == "softmax":
        return softmax_loss(logits, targets)
    power = config.focal_power if config.class_loss == "quality_focal" else 0.0
    return quality_focal_loss(logits, targets, power).sum(dim=-1)


def quality_focal_loss(logits: Tensor, targets: Tensor, power: float) -> Tensor:
    """Return the quality focal loss of each score.

    Args:
        logits: any shape.
        targets: target scores 0..1, same shape.
        power: exponent beta; 0: the cross-entropy of a sigmoid.

    Returns:
        The loss, same shape.

    Source: Li et al., Generalized Focal Loss, 2020, equation 3.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if not power:
        return cross_entropy
    error = (targets - logits.sigmoid()).abs()
    # With a power below 1 the slope at an error of 0 is infinite.
    return (error.clamp(min=1e-12) if power < 1 else error) ** power * cross_entropy


def softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of a softmax over C classes and a background class whose logit is 0.

    Args:
        logits: [..., C].
        targets: [..., C] target probability of each class. Their sum is at most 1; the remainder is the background's.

    Returns:
        The loss [...].
    """
    return torch.logsumexp(F.pad(logits, (1, 0)), dim=-1) - (logits * targets).sum(dim=-1)


def squared_error(distances: Tensor, target_distances: Tensor) -> Tensor:
    """Return the squared error of the center and of the square roots of width and height.

    Args:
        distances: [K, 4] predicted distances to the left, top, right and bottom side, in strides.
        target_distances: [K, 4] likewise.

    Returns:
        [K] in strides.

    Source: Redmon et al., You Only Look Once, 2016, equation 3, its first two terms.
    """

    def center_and_roots(sides: Tensor) -> Tensor:
        before, after = sides[:, :2], sides[:, 2:]
        # The slope of the square root is infinite at 0.
        return torch.cat([(after - before) / 2, (after + before).clamp(min=1e-4).sqrt()], dim=1)

    return ((center_and_roots(distances) - center_and_roots(target_distances)) ** 2).sum(dim=1)


def _outside_crowds(grid: Grid, batch: Batch, targets: AssignedTargets) -> Tensor:
    """Return the weight [B, P] of the class loss at each point: 0 in crowd regions, except at positives; else 1."""
    x, y = grid.points[:, 0], grid.points[:, 1]
    x1, y1, x2, y2 = (side[..., None] for side in batch.boxes.unbind(-1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2) & batch.is_crowd[..., None]
    counts = ~inside.any(dim=1)
    counts[targets.image_index, targets.point_index] = True
    return counts.float()
