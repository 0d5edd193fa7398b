"""The loss: quality focal loss for the scores, GIoU and L1 for the boxes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.config import Config
from detector.data.batch import Batch
from detector.loss.assigner import AssignedTargets, assign
from detector.model.grid import Grid, GridPredictions, decode
from detector.ops.iou import elementwise_giou


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Weighted terms, each a scalar tensor.

    Attributes:
        classes: quality focal loss.
        iou: GIoU loss.
        l1: L1 loss of the distances.
        positives: how many points answered for an object.
    """

    classes: Tensor
    iou: Tensor
    l1: Tensor
    positives: int

    @property
    def total(self) -> Tensor:
        """Return the sum of the terms."""
        return self.classes + self.iou + self.l1

    def detach(self) -> "LossTerms":
        """Return the terms without their graph."""
        return LossTerms(self.classes.detach(), self.iou.detach(), self.l1.detach(), self.positives)


def detection_loss(predictions: GridPredictions, batch: Batch, config: Config, least_quality: float = 0.0) -> LossTerms:
    """Compare predictions with the objects of a batch; all terms are divided by the sum of the target qualities.

    Args:
        predictions: of the batch's pictures.
        batch: the objects; a batch without any is fine.
        config: weights and exponents.
        least_quality: see `assign`.
    """
    targets = assign(predictions, batch, config, least_quality)
    at_positives = (targets.image_index, targets.point_index)
    norm = targets.quality.sum().clamp(min=1.0)

    target_scores = torch.zeros_like(predictions.class_logits)
    target_scores[(*at_positives, targets.class_ids)] = targets.quality
    focal = quality_focal_loss(predictions.class_logits, target_scores, config.focal_power)
    if batch.is_crowd.any():
        focal = focal * _judged(predictions.grid, batch, targets)[..., None]

    points, strides = predictions.grid.points[targets.point_index], predictions.grid.strides[targets.point_index]
    distances = predictions.distances[at_positives]
    giou = elementwise_giou(decode(points, strides, distances), targets.boxes)
    wanted = torch.cat([points - targets.boxes[:, :2], targets.boxes[:, 2:] - points], dim=1) / strides[:, None]
    l1 = (distances - wanted.clamp(min=0)).abs().mean(dim=1)
    return LossTerms(
        classes=config.class_weight * focal.sum() / norm,
        iou=config.iou_weight * ((1 - giou) * targets.quality).sum() / norm,
        l1=config.l1_weight * (l1 * targets.quality).sum() / norm,
        positives=len(targets.quality),
    )


def quality_focal_loss(logits: Tensor, targets: Tensor, power: float) -> Tensor:
    """Return the loss of each score, in the shape of `logits`, for targets 0..1.

    Source: Li et al., Generalized Focal Loss, 2020, equation 3.
    """
    error = (targets - logits.sigmoid()).abs()
    return error**power * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _judged(grid: Grid, batch: Batch, targets: AssignedTargets) -> Tensor:
    """Return [B, P] as 0 or 1: points in a crowd region count only where they answer for an object."""
    x, y = grid.points[:, 0], grid.points[:, 1]
    x1, y1, x2, y2 = (side[..., None] for side in batch.boxes.unbind(-1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2) & batch.is_crowd[..., None]
    judged = ~inside.any(dim=1)
    judged[targets.image_index, targets.point_index] = True
    return judged.float()
