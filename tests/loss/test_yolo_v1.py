"""Compare the loss of the first YOLO with its published formula, computed cell by cell."""

import math
from dataclasses import replace

import pytest
import torch

from detector.config import Config
from detector.loader.batch import Batch
from detector.loss.criterion import detection_loss
from detector.model.grid import make_grid
from detector.model.yolo_v1 import CellPredictions

INPUT_HW = (96, 128)
CELLS, BOXES, CLASSES = 3 * 4, 2, 3


def random_predictions(images: int, seed: int) -> CellPredictions:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(images, CELLS, *shape, generator=generator, dtype=torch.float64)

    grid = make_grid(INPUT_HW, torch.device("cpu"), strides=(32,))
    return CellPredictions(draw(CLASSES), draw(BOXES), draw(BOXES, 4), grid, INPUT_HW)


def batch_of(rows: list[list[tuple[tuple[float, float, float, float], int]]]) -> Batch:
    most = max(1, max(len(row) for row in rows))
    boxes = torch.zeros(len(rows), most, 4, dtype=torch.float64)
    class_ids = torch.zeros(len(rows), most, dtype=torch.int64)
    is_object = torch.zeros(len(rows), most, dtype=torch.bool)
    for b, row in enumerate(rows):
        for m, (box, class_id) in enumerate(row):
            boxes[b, m], class_ids[b, m], is_object[b, m] = torch.tensor(box), class_id, True
    images = torch.zeros(len(rows), 3, *INPUT_HW, dtype=torch.uint8)
    return Batch(images, boxes, class_ids, is_object, torch.zeros_like(is_object), tuple(range(len(rows))))


def iou_of(a: list[float], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def loss_with_loops(
    predictions: CellPredictions, rows: list[list[tuple[tuple[float, float, float, float], int]]], config: Config
) -> list[float]:
    """Compute the three terms of the loss with plain loops, from equation 3 of the paper."""
    height, width = INPUT_HW
    classes = coordinates = confidence = 0.0
    for b, objects in enumerate(rows):
        for cell in range(CELLS):
            row, column = divmod(cell, 4)
            in_cell = [
                (box, class_id)
                for box, class_id in objects
                if (box[0] + box[2]) / 2 // 32 == column and (box[1] + box[3]) / 2 // 32 == row
            ]
            in_cell.sort(key=lambda item: -(item[0][2] - item[0][0]) * (item[0][3] - item[0][1]))
            confidences = predictions.confidence[b, cell].tolist()
            if not in_cell:
                confidence += config.noobj_weight * sum(c**2 for c in confidences)
                continue
            (x1, y1, x2, y2), class_id = in_cell[0]
            offsets = predictions.offsets[b, cell].tolist()
            boxes = []
            for x, y, root_w, root_h in offsets:
                center_x, center_y = (column + x) * 32, (row + y) * 32
                w, h = root_w**2 * width, root_h**2 * height
                boxes.append([center_x - w / 2, center_y - h / 2, center_x + w / 2, center_y + h / 2])
            ious = [iou_of(box, in_cell[0][0]) for box in boxes]
            best = ious.index(max(ious))
            for index, c in enumerate(confidences):
                confidence += (c - ious[best]) ** 2 if index == best else config.noobj_weight * c**2
            target = (
                (x1 + x2) / 64 - column,
                (y1 + y2) / 64 - row,
                math.sqrt((x2 - x1) / width),
                math.sqrt((y2 - y1) / height),
            )
            coordinates += sum((a - b) ** 2 for a, b in zip(offsets[best], target, strict=True))
            scores = predictions.class_scores[b, cell].tolist()
            classes += sum((score - (index == class_id)) ** 2 for index, score in enumerate(scores))
    return [classes / len(rows), config.coord_weight * coordinates / len(rows), confidence / len(rows)]


ROWS = [
    [((5.0, 5.0, 40.0, 30.0), 0), ((70.0, 50.0, 120.0, 90.0), 2), ((8.0, 4.0, 28.0, 20.0), 1)],
    [],
    [((0.0, 0.0, 128.0, 96.0), 1), ((100.0, 10.0, 104.0, 12.0), 0)],
]


@pytest.mark.parametrize("seed", range(4))
def test_loss_equals_the_published_formula(seed: int) -> None:
    predictions, config = random_predictions(3, seed), Config(coord_weight=4, noobj_weight=0.25)
    terms = detection_loss(predictions, batch_of(ROWS), config)
    assert [float(part) for part in terms.parts.values()] == pytest.approx(loss_with_loops(predictions, ROWS, config))
    assert terms.positives == 4  # two objects have their center in one cell: only the larger object is assigned


def test_without_objects_only_confidence_has_a_loss() -> None:
    predictions = random_predictions(2, 0)
    terms = detection_loss(predictions, batch_of([[], []]), Config())
    assert float(terms.parts["classes"]) == float(terms.parts["boxes"]) == 0
    assert float(terms.total) == pytest.approx(0.5 * float((predictions.confidence**2).sum()) / 2)


def test_empty_cells_in_crowd_regions_have_no_loss() -> None:
    predictions, batch = random_predictions(1, 0), batch_of([[((0.0, 0.0, 128.0, 96.0), 0)]])
    crowd = replace(batch, is_object=~batch.is_object, is_crowd=batch.is_object)
    assert float(detection_loss(predictions, crowd, Config()).total) == 0


def test_exact_predictions_have_no_loss() -> None:
    box = (40.0, 20.0, 88.0, 60.0)  # center (64, 40): on the left edge of cell 6, a quarter of the cell below its top
    predictions = random_predictions(1, 0)
    offsets = predictions.offsets.clone()
    offsets[0, 6, 1] = torch.tensor([0, 0.25, math.sqrt(48 / 128), math.sqrt(40 / 96)])
    class_scores, confidence = torch.zeros_like(predictions.class_scores), torch.zeros_like(predictions.confidence)
    class_scores[0, 6, 2] = confidence[0, 6, 1] = 1
    exact = replace(predictions, offsets=offsets, class_scores=class_scores, confidence=confidence)
    terms = detection_loss(exact, batch_of([[(box, 2)]]), Config())
    assert float(terms.total) == pytest.approx(0, abs=1e-12)
    best = exact.scores()[0].max(dim=1).values.argmax()
    assert exact.boxes()[0, best].tolist() == pytest.approx(list(box))
    assert float(exact.scores()[0, best, 2]) == 1


def test_gradients_reach_every_output_of_an_assigned_cell() -> None:
    predictions = random_predictions(1, 0)
    leaves = [part.requires_grad_() for part in (predictions.class_scores, predictions.confidence, predictions.offsets)]
    detection_loss(predictions, batch_of([ROWS[0]]), Config()).total.backward()  # type: ignore[no-untyped-call]
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert (leaf.grad[0, 0] != 0).any()
