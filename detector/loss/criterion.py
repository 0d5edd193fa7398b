"""The loss: quality focal loss for the scores, GIoU and L1 for the boxes; or what the settings say instead."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.config import Config
from detector.loader.batch import Batch
from detector.loss.assigner import AssignedTargets, assign
from detector.loss.terms import LossTerms
from detector.loss.yolo_v1 import CellTargets, assign_cells, yolo_v1_loss
from detector.model.grid import CellPredictions, Grid, GridPredictions, Predictions, decode
from detector.ops.iou import elementwise_giou

Targets = AssignedTargets | CellTargets


def detection_loss(predictions: Predictions, batch: Batch, config: Config, min_quality: float = 0.0) -> LossTerms:
    """Let points or cells answer for the objects of a batch, and compare.

    Args:
        predictions: of the batch's images.
        batch: the objects; a batch without any is fine.
        config: weights and exponents.
        min_quality: see `assign`.
    """
    return loss_for(predictions, batch, find_targets(predictions, batch, config, min_quality), config)


def find_targets(predictions: Predictions, batch: Batch, config: Config, min_quality: float = 0.0) -> Targets:
    """Return which points or cells shall answer for which object; constants for the gradient."""
    if isinstance(predictions, CellPredictions):
        return assign_cells(predictions, batch)
    return assign(predictions, batch, config, min_quality)


def loss_for(predictions: Predictions, batch: Batch, targets: Targets, config: Config) -> LossTerms:
    """Compare predictions with given targets.

    For points all terms are divided by the sum of the target qualities; for cells see `yolo_v1_loss`.
    """
    if isinstance(predictions, CellPredictions):
        assert isinstance(targets, CellTargets)
        return yolo_v1_loss(predictions, batch, targets, config)
    assert isinstance(targets, AssignedTargets)
    at_positives = (targets.image_index, targets.point_index)
    norm = targets.quality.sum().clamp(min=1.0)

    target_scores = torch.zeros_like(predictions.class_logits)
    target_scores[(*at_positives, targets.class_ids)] = targets.quality
    class_loss = _class_loss(predictions, target_scores, config)
    if batch.is_crowd.any():
        class_loss = class_loss * _judged(predictions.grid, batch, targets)

    points, strides = predictions.grid.points[targets.point_index], predictions.grid.strides[targets.point_index]
    distances = predictions.distances[at_positives]
    wanted = torch.cat([points - targets.boxes[:, :2], targets.boxes[:, 2:] - points], dim=1) / strides[:, None]
    wanted = wanted.clamp(min=0)

    def mean(error: Tensor) -> Tensor:
        return (error * targets.quality).sum() / norm

    giou = elementwise_giou(decode(points, strides, distances), targets.boxes)
    parts = {
        "classes": config.class_weight * class_loss.sum() / norm,
        "iou": config.iou_weight * mean(1 - giou),
        "l1": config.l1_weight * mean((distances - wanted).abs().mean(dim=1)),
    }
    if config.squared_error_weight:
        parts["square"] = config.squared_error_weight * mean(squared_error(distances, wanted))
    return LossTerms(parts, positives=len(targets.quality))


def _class_loss(predictions: GridPredictions, targets: Tensor, config: Config) -> Tensor:
    """Return the loss [B, P] of every point's scores."""
    logits = predictions.class_logits
    if config.class_loss == "softmax":
        return softmax_loss(logits, targets)
    power = config.focal_power if config.class_loss == "quality_focal" else 0.0
    return quality_focal_loss(logits, targets, power).sum(dim=-1)


def quality_focal_loss(logits: Tensor, targets: Tensor, power: float) -> Tensor:
    """Return the loss of each score, in the shape of `logits`, for targets 0..1.

    With a power of 0 it is the cross-entropy of sigmoids.

    Source: Li et al., Generalized Focal Loss, 2020, equation 3.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if not power:
        return cross_entropy
    error = (targets - logits.sigmoid()).abs()
    # Below a power of 1 the slope at an error of 0 is infinite.
    return (error.clamp(min=1e-12) if power < 1 else error) ** power * cross_entropy


def softmax_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy [...] of a softmax over C classes and a background whose logit is 0.

    Args:
        logits: [..., C].
        targets: [..., C] share of each class, their sum at most 1; the rest is background.
    """
    return torch.logsumexp(F.pad(logits, (1, 0)), dim=-1) - (logits * targets).sum(dim=-1)


def squared_error(distances: Tensor, wanted: Tensor) -> Tensor:
    """Return [K] the squared error of center and of the roots of width and height, distances [K, 4] in strides.

    Source: Redmon et al., You Only Look Once, 2016, equation 3, its first two terms.
    """

    def parts(sides: Tensor) -> Tensor:
        before, after = sides[:, :2], sides[:, 2:]
        # The root's slope is infinite at 0.
        return torch.cat([(after - before) / 2, (after + before).clamp(min=1e-4).sqrt()], dim=1)

    return ((parts(distances) - parts(wanted)) ** 2).sum(dim=1)


def _judged(grid: Grid, batch: Batch, targets: AssignedTargets) -> Tensor:
    """Return [B, P] as 0 or 1: points in a crowd region count only where they answer for an object."""
    x, y = grid.points[:, 0], grid.points[:, 1]
    x1, y1, x2, y2 = (side[..., None] for side in batch.boxes.unbind(-1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2) & batch.is_crowd[..., None]
    judged = ~inside.any(dim=1)
    judged[targets.image_index, targets.point_index] = True
    return judged.float()
