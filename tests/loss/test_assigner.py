import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detector.config import Config
from detector.loader.batch import Batch
from detector.loss.assigner import assign, candidates
from detector.model.grid import Grid, GridPredictions, make_grid

INPUT_HW = (96, 128)
CLASSES = 3

Object = tuple[tuple[float, float, float, float], int]
"""A box (x1, y1, x2, y2) and its class id."""


def grid64() -> Grid:
    """Return the grid in float64, so that no comparison depends on rounding."""
    grid = make_grid(INPUT_HW, torch.device("cpu"))
    return Grid(grid.points.double(), grid.strides.double())


def random_predictions(images: int, seed: int) -> GridPredictions:
    generator, grid = torch.Generator().manual_seed(seed), grid64()
    shape = (images, len(grid.strides))
    logits = torch.randn(*shape, CLASSES, generator=generator, dtype=torch.float64) * 2
    return GridPredictions(logits, torch.rand(*shape, 4, generator=generator, dtype=torch.float64) * 3, grid)


def batch_of(scenes: Sequence[Sequence[Object]], padding: int = 0) -> Batch:
    rows = max(map(len, scenes)) + padding
    boxes, class_ids = torch.zeros(len(scenes), rows, 4).double(), torch.zeros(len(scenes), rows, dtype=torch.int64)
    is_object = torch.zeros(len(scenes), rows, dtype=torch.bool)
    for b, objects in enumerate(scenes):
        for row, (box, class_id) in enumerate(objects):
            boxes[b, row], class_ids[b, row], is_object[b, row] = torch.tensor(box, dtype=torch.float64), class_id, True
    images = torch.zeros(len(scenes), 3, *INPUT_HW, dtype=torch.uint8)
    return Batch(images, boxes, class_ids, is_object, torch.zeros_like(is_object), tuple(range(len(scenes))))


def random_objects(count: int, generator: torch.Generator, largest: float) -> list[Object]:
    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=generator, dtype=torch.float64))

    objects: list[Object] = []
    for _ in range(count):
        x, y, w, h = draw(0, 120), draw(0, 90), draw(1, largest), draw(1, largest)
        objects.append(((x, y, min(x + w, 128.0), min(y + h, 96.0)), int(draw(0, CLASSES))))
    return objects


def iou_of(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def assign_with_loops(
    predictions: GridPredictions, images: Sequence[Sequence[Object]], config: Config, min_quality: float
) -> dict[tuple[int, int], tuple[int, float]]:
    """Assign with plain loops over objects and points, as the docstring of `assign` describes; return the targets.

    Returns:
        (image index, point index) → (index of the object in the image, quality).
    """
    points, strides = predictions.grid.points.tolist(), predictions.grid.strides.tolist()
    logits, distances = predictions.class_logits.tolist(), predictions.distances.tolist()
    targets = {}
    for b, objects in enumerate(images):
        selected: list[tuple[int, int, float, float]] = []  # point, object, IoU, metric
        for o, ((x1, y1, x2, y2), class_id) in enumerate(objects):
            candidates_of_object = []
            for p, ((x, y), stride) in enumerate(zip(points, strides, strict=True)):
                inside = x1 < x < x2 and y1 < y < y2
                radius = config.assign_radius * stride
                near = abs(x - (x1 + x2) / 2) < radius and abs(y - (y1 + y2) / 2) < radius
                if inside or near:
                    left, top, right, bottom = (distance * stride for distance in distances[b][p])
                    iou = iou_of((x - left, y - top, x + right, y + bottom), (x1, y1, x2, y2))
                    score = 1 / (1 + math.exp(-logits[b][p][class_id]))
                    metric = score**config.assign_score_power * iou**config.assign_iou_power
                    candidates_of_object.append((p, o, iou, metric))
            selected += sorted(candidates_of_object, key=lambda pair: -pair[3])[: config.assign_top_k]
        assigned: dict[int, tuple[int, int, float, float]] = {}  # by point
        for pair in selected:
            if pair[0] not in assigned or pair[2] > assigned[pair[0]][2]:
                assigned[pair[0]] = pair
        for p, o, _, metric in assigned.values():
            same_object = [pair for pair in assigned.values() if pair[1] == o]
            best_iou, best_metric = max(pair[2] for pair in same_object), max(pair[3] for pair in same_object)
            targets[b, p] = (o, max(metric / max(best_metric, 1e-9) * best_iou, min_quality))
    return targets


def check_against_reference(
    predictions: GridPredictions, images: Sequence[Sequence[Object]], config: Config, min_quality: float = 0.0
) -> None:
    found = assign(predictions, batch_of(images, padding=2), config, min_quality)
    expected = assign_with_loops(predictions, images, config, min_quality)
    keys = list(zip(found.image_index.tolist(), found.point_index.tolist(), strict=True))
    assert len(set(keys)) == len(keys)
    assert set(keys) == set(expected)
    rows = zip(keys, found.boxes.tolist(), found.class_ids.tolist(), found.quality.tolist(), strict=True)
    for key, box, class_id, quality in rows:
        expected_object, expected_quality = expected[key]
        assert (tuple(box), class_id) == images[key[0]][expected_object]
        assert quality == pytest.approx(expected_quality, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("largest", [6.0, 30.0, 100.0])
def test_assignment_equals_the_reference_for_overlapping_objects(seed: int, largest: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = [random_objects(count, generator, largest) for count in (7, 0, 1, 12)]
    check_against_reference(random_predictions(4, seed), images, Config(), min_quality=0.1 * (seed % 2))


@pytest.mark.parametrize(
    "config",
    [
        Config(assign_top_k=1),
        Config(assign_top_k=1000),
        Config(assign_radius=0),
        Config(assign_radius=3.5),
        Config(assign_score_power=0, assign_iou_power=1),
        Config(assign_score_power=1, assign_iou_power=0),
    ],
)
def test_assignment_equals_the_reference_for_other_settings(config: Config) -> None:
    generator = torch.Generator().manual_seed(7)
    images = [random_objects(8, generator, 40), random_objects(3, generator, 5)]
    check_against_reference(random_predictions(2, 7), images, config)


def test_ties_are_won_by_the_first_point_and_object() -> None:
    """Use equal predictions at all points, and every object twice: then nearly all comparisons are ties."""
    grid = grid64()
    shape = (1, len(grid.strides))
    predictions = GridPredictions(torch.zeros(*shape, CLASSES).double(), torch.ones(*shape, 4).double(), grid)
    twice: list[Object] = [((32, 32, 64, 64), 1), ((32, 32, 64, 64), 1), ((0, 0, 16, 16), 0), ((0, 0, 16, 16), 2)]
    for top_k in (1, 3, 1000):
        check_against_reference(predictions, [twice], Config(assign_top_k=top_k))
    assert assign(predictions, batch_of([twice]), Config(assign_top_k=3)).class_ids.tolist().count(2) == 0


def test_tiny_object_has_candidates_of_every_stride() -> None:
    grid = grid64()
    [mask] = candidates(torch.tensor([[61.2, 41.7, 61.6, 42.0]]).double(), grid, radius=1.0)
    assert set(grid.strides[mask].tolist()) == {8, 16, 32}


def test_isolated_object_gets_its_best_iou_as_quality() -> None:
    predictions = random_predictions(1, seed=3)
    apart: list[Object] = [((3, 3, 30, 28), 0), ((70, 5, 120, 40), 1), ((40, 60, 44, 66), 2)]
    found = assign(predictions, batch_of([apart]), Config())
    boxes = predictions.boxes()[0, found.point_index].tolist()
    ious = [iou_of(predicted, box) for predicted, box in zip(boxes, found.boxes.tolist(), strict=True)]
    for _, class_id in apart:
        positives = [index for index, c in enumerate(found.class_ids.tolist()) if c == class_id]
        assert 1 <= len(positives) <= 10
        assert float(found.quality[positives].max()) == pytest.approx(max(ious[index] for index in positives))


@pytest.mark.parametrize("padding", [0, 5])
def test_without_objects_there_are_no_targets(padding: int) -> None:
    found = assign(random_predictions(2, 0), batch_of([[], []], padding), Config())
    shapes = [found.image_index.shape, found.boxes.shape, found.quality.shape]
    assert shapes == [(0,), (0, 4), (0,)]


def test_padding_and_crowd_rows_are_never_targets() -> None:
    predictions = random_predictions(1, 0)
    objects: list[Object] = [((10, 10, 50, 50), 0), ((60, 20, 100, 80), 1)]
    batch = batch_of([objects])
    crowd = batch.is_object & (batch.class_ids == 1)
    found = assign(predictions, replace(batch, is_object=batch.is_object & ~crowd, is_crowd=crowd), Config())
    alone = assign(predictions, batch_of([objects[:1]]), Config())
    for field in ("point_index", "boxes", "quality"):
        assert torch.equal(getattr(found, field), getattr(alone, field))


def test_targets_have_no_gradient() -> None:
    predictions = random_predictions(1, 0)
    logits: Tensor = predictions.class_logits.requires_grad_()
    found = assign(replace(predictions, class_logits=logits), batch_of([[((10, 10, 50, 50), 0)]]), Config())
    assert not found.quality.requires_grad
