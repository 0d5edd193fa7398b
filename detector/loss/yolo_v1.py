"""The loss of the first YOLO: squared errors of boxes, confidence and class scores, cell by cell.

Source: Redmon et al., You Only Look Once, 2016, section 2.2, equation 3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.config import Config
from detector.loader.batch import Batch
from detector.loss.terms import LossTerms
from detector.model.grid import CellPredictions
from detector.ops.iou import elementwise_iou


@dataclass(frozen=True, eq=False)
class CellTargets:
    """K cells that answer for an object, each at most once.

    Attributes:
        image_index: [K] position of the image in the batch.
        cell_index: [K] position in the grid.
        box_index: [K] which of the cell's boxes answers.
        boxes: [K, 4] of the object, in canvas pixels.
        class_ids: [K].
        iou: [K] of the answering box with the object: the confidence to aim at.
    """

    image_index: Tensor
    cell_index: Tensor
    box_index: Tensor
    boxes: Tensor
    class_ids: Tensor
    iou: Tensor


@torch.no_grad()
def assign_cells(predictions: CellPredictions, batch: Batch) -> CellTargets:
    """Let the cell that holds an object's center answer for it, with the box that overlaps it most.

    A cell can answer for one object only; of several it takes the largest.
    """
    image, cell, boxes, class_ids = _one_object_per_cell(predictions, batch)
    cells, boxes_per_cell = predictions.confidence.shape[1:]
    candidates = predictions.boxes().view(-1, cells, boxes_per_cell, 4)[image, cell]
    iou = elementwise_iou(candidates.flatten(0, 1), boxes.repeat_interleave(boxes_per_cell, 0)).view(-1, boxes_per_cell)
    best_iou, responsible = iou.max(dim=1)
    return CellTargets(image, cell, responsible, boxes, class_ids, best_iou)


def yolo_v1_loss(predictions: CellPredictions, batch: Batch, targets: CellTargets, config: Config) -> LossTerms:
    """Compare the cells with the objects of a batch; all terms are means over its images.

    Cells with their center in a crowd region are not asked for their confidence unless they answer for an object.

    Args:
        predictions: of the batch's images.
        batch: the objects; a batch without any is fine.
        targets: which cells answer for which of them.
        config: weights.
    """
    images, at_objects = len(batch.images), (targets.image_index, targets.cell_index)
    at_boxes = (*at_objects, targets.box_index)
    wanted = _offsets_of(targets.boxes, predictions, targets.cell_index)
    box_error = ((predictions.offsets[at_boxes] - wanted) ** 2).sum()

    has_object = torch.zeros_like(predictions.confidence, dtype=torch.bool)
    has_object[at_boxes] = True
    confidence_target = torch.zeros_like(predictions.confidence)
    confidence_target[at_boxes] = targets.iou
    error = (predictions.confidence - confidence_target) ** 2
    empty = ~has_object & ~_in_crowd(predictions, batch)[..., None]

    said = predictions.class_scores[at_objects]
    class_error = ((said - F.one_hot(targets.class_ids, said.shape[1])) ** 2).sum()
    return LossTerms(
        {
            "classes": class_error / images,
            "boxes": config.coord_weight * box_error / images,
            "confidence": (error[has_object].sum() + config.noobj_weight * error[empty].sum()) / images,
        },
        positives=len(targets.boxes),
    )


def _one_object_per_cell(predictions: CellPredictions, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image, cell, box and class of the objects that a cell answers for."""
    image, row = batch.is_object.nonzero(as_tuple=True)
    boxes, class_ids = batch.boxes[image, row], batch.class_ids[image, row]
    points, stride = predictions.grid.points, predictions.grid.strides[0]
    columns = int((points[:, 1] == points[0, 1]).sum())
    last = points.new_tensor([columns - 1, len(points) // columns - 1])
    place = (((boxes[:, :2] + boxes[:, 2:]) / 2 - points[0]) / stride + 0.5).floor()
    # Where "valid" padding leaves a border without cells, the nearest one takes what lies there.
    x, y = place.clamp(min=torch.zeros_like(last), max=last).long().unbind(1)
    cell = y * columns + x
    sides = boxes[:, 2:] - boxes[:, :2]
    order = torch.argsort(sides.prod(dim=1), descending=True, stable=True)
    keys = (image * len(points) + cell)[order]
    order = order[torch.argsort(keys, stable=True)]
    keys = keys.sort(stable=True).values
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    order = order[is_first]
    return image[order], cell[order], boxes[order], class_ids[order]


def _offsets_of(boxes: Tensor, predictions: CellPredictions, cell: Tensor) -> Tensor:
    """Return what the cells [K] should say for the boxes [K, 4]; see `CellPredictions.offsets`."""
    grid = predictions.grid
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    place = (centers - grid.points[cell]) / grid.strides[cell, None] + 0.5
    return torch.cat([place, (sides / boxes.new_tensor(predictions.input_hw[::-1])).sqrt()], dim=1)


def _in_crowd(predictions: CellPredictions, batch: Batch) -> Tensor:
    """Return [B, S]: the cell's center lies in a crowd region."""
    x, y = predictions.grid.points.unbind(1)
    x1, y1, x2, y2 = (side[..., None] for side in batch.boxes.unbind(-1))
    return ((x > x1) & (x < x2) & (y > y1) & (y < y2) & batch.is_crowd[..., None]).any(dim=1)
