"""The loss of the first YOLO: squared errors of boxes, confidences and class scores at each cell.

The head is in `model/yolo_v1.py`.

Source: Redmon et al., You Only Look Once, 2016, section 2.2, equation 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.config import LossConfig
from detector.loader.batch import Batch
from detector.loss.terms import LossTerms
from detector.model.yolo_v1 import CellPredictions
from detector.ops.iou import elementwise_iou


@dataclass(frozen=True, eq=False)
class CellTargets:
    """The targets of the K cells of a batch to which an object is assigned.

    At most one object is assigned to each cell of each image.

    Attributes:
        image_index: [K] index of the image in the batch.
        cell_index: [K] index of the cell in the grid.
        box_index: [K] index of the responsible box among the N boxes of the cell: its IoU with the object is highest.
        boxes: [K, 4] box of the assigned object as (x1, y1, x2, y2), in input pixels.
        class_ids: [K] class of the assigned object.
        iou: [K] IoU of the responsible box with the object: the target confidence.
    """

    image_index: Tensor
    cell_index: Tensor
    box_index: Tensor
    boxes: Tensor
    class_ids: Tensor
    iou: Tensor


@torch.no_grad()
def assign_cells(predictions: CellPredictions, batch: Batch) -> CellTargets:
    """Assign each object to the cell that contains the object center, and return the targets of these cells.

    Only one object can be assigned to a cell: if the cell contains the centers of several objects, the largest object.
    Among the boxes of the cell, the box with the highest IoU becomes responsible for the object.

    Args:
        predictions: current predictions for the images of the batch.
        batch: the objects.
    """
    image, cell, boxes, class_ids = _one_object_per_cell(predictions, batch)
    cells, boxes_per_cell = predictions.confidence.shape[1:]
    predicted = predictions.boxes().view(-1, cells, boxes_per_cell, 4)[image, cell]
    iou = elementwise_iou(predicted.flatten(0, 1), boxes.repeat_interleave(boxes_per_cell, 0)).view(-1, boxes_per_cell)
    best_iou, responsible = iou.max(dim=1)
    return CellTargets(image, cell, responsible, boxes, class_ids, best_iou)


def yolo_v1_loss(
    predictions: CellPredictions,
    batch: Batch,
    targets: CellTargets,
    config: LossConfig,
    add: Callable[[Tensor], Tensor],
    class_weights: Tensor | None = None,
) -> LossTerms:
    """Return the terms of the loss of the first YOLO, each as a mean over the images of the batch.

    A cell whose center lies in a crowd region has no confidence loss, except for a box that is responsible for an
    object.

    Args:
        predictions: predictions for the images of the batch.
        batch: the objects; a batch without objects is allowed.
        targets: result of `assign_cells`.
        config: weights of the loss terms.
        add: as for `compute_loss`.
        class_weights: as for `compute_loss`.
    """
    at_objects = (targets.image_index, targets.cell_index)
    images = int(add(torch.tensor(float(len(batch.images)))))
    at_boxes = (*at_objects, targets.box_index)
    target_offsets = _encode_offsets(targets.boxes, predictions, targets.cell_index)
    box_error = ((predictions.offsets[at_boxes] - target_offsets) ** 2).sum()

    has_object = torch.zeros_like(predictions.confidence, dtype=torch.bool)
    has_object[at_boxes] = True
    target_confidence = torch.zeros_like(predictions.confidence)
    target_confidence[at_boxes] = targets.iou
    error = (predictions.confidence - target_confidence) ** 2
    empty = ~has_object & ~_in_crowd(predictions, batch)[..., None]

    class_scores = predictions.class_scores[at_objects]
    class_errors = ((class_scores - F.one_hot(targets.class_ids, class_scores.shape[1])) ** 2).sum(dim=1)
    if class_weights is not None:
        class_errors = class_errors * class_weights[targets.class_ids]
    return LossTerms(
        {
            "classes": class_errors.sum() / images,
            "boxes": config.coord_weight * box_error / images,
            "confidence": (error[has_object].sum() + config.noobj_weight * error[empty].sum()) / images,
        },
        positives=len(targets.boxes),
    )


def _one_object_per_cell(predictions: CellPredictions, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image index [K], cell index [K], box [K, 4] and class id [K] of the largest object in each cell."""
    image, row = batch.is_object.nonzero(as_tuple=True)
    boxes, class_ids = batch.boxes[image, row], batch.class_ids[image, row]
    points, stride = predictions.grid.points, predictions.grid.strides[0]
    columns = int((points[:, 1] == points[0, 1]).sum())
    last = points.new_tensor([columns - 1, len(points) // columns - 1])
    column_row = (((boxes[:, :2] + boxes[:, 2:]) / 2 - points[0]) / stride + 0.5).floor()
    # "valid" padding leaves a border without cells. An object whose center lies in the border goes to the nearest cell.
    x, y = column_row.clamp(min=torch.zeros_like(last), max=last).long().unbind(1)
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


def _encode_offsets(boxes: Tensor, predictions: CellPredictions, cell: Tensor) -> Tensor:
    """Return the target offsets [K, 4] of boxes relative to their cells, as in `CellPredictions.offsets`.

    Args:
        boxes: [K, 4] as (x1, y1, x2, y2), in input pixels.
        predictions: only its grid and its input size are used.
        cell: [K] index of the cell of each box.
    """
    grid = predictions.grid
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    in_cell = (centers - grid.points[cell]) / grid.strides[cell, None] + 0.5
    return torch.cat([in_cell, (sides / boxes.new_tensor(predictions.input_hw[::-1])).sqrt()], dim=1)


def _in_crowd(predictions: CellPredictions, batch: Batch) -> Tensor:
    """Return a mask [B, S]: True where the center of a cell lies in a crowd region."""
    x, y = predictions.grid.points.unbind(1)
    x1, y1, x2, y2 = (side[..., None] for side in batch.boxes.unbind(-1))
    return ((x > x1) & (x < x2) & (y > y1) & (y < y2) & batch.is_crowd[..., None]).any(dim=1)
