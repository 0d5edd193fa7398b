import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config import Config
from detector.loader.batch import Batch
from detector.loss.assigner import assign
from detector.loss.criterion import detection_loss, has_positive, quality_focal_loss, softmax_loss, squared_error
from detector.loss.terms import LossTerms
from detector.model.grid import Grid, GridPredictions, make_grid
from detector.model.make_network import make_network

INPUT_HW = (96, 128)
CLASSES = 3


def random_predictions(images: int, seed: int) -> GridPredictions:
    generator = torch.Generator().manual_seed(seed)
    grid = make_grid(INPUT_HW, torch.device("cpu"))
    grid = Grid(grid.points.double(), grid.strides.double())
    shape = (images, len(grid.strides))
    logits = torch.randn(*shape, CLASSES, generator=generator, dtype=torch.float64)
    distances = 0.5 + torch.rand(*shape, 4, generator=generator, dtype=torch.float64) * 3
    return GridPredictions(logits, distances, grid)


def random_batch(images: int, rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Batch:
    """Return a batch of random objects of all sizes; every third row is padding."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, rows, 2, generator=generator, dtype=dtype) * torch.tensor([100, 70])
    size = 4 + torch.rand(images, rows, 2, generator=generator, dtype=dtype) * torch.tensor([24, 22])
    is_object = (torch.arange(rows) % 3 != 2).expand(images, rows)
    boxes = torch.cat([corner, corner + size], dim=-1) * is_object[..., None]
    class_ids = torch.randint(0, CLASSES, (images, rows), generator=generator) * is_object
    return batch_of(boxes, class_ids, is_object, torch.zeros_like(is_object))


def batch_of(boxes: Tensor, class_ids: Tensor, is_object: Tensor, is_crowd: Tensor) -> Batch:
    count = len(boxes)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *INPUT_HW), dtype=torch.uint8, generator=generator)
    return Batch(images, boxes, class_ids, is_object, is_crowd, tuple(range(count)))


def objects_in_first_image(boxes: Sequence[Sequence[float]], crowd: bool = False) -> Batch:
    """Return a batch of two images, of which only the first has boxes.

    Args:
        boxes: boxes as (x1, y1, x2, y2), in pixels.
        crowd: False: the boxes are objects of class 0. True: the boxes are crowd regions.
    """
    rows = torch.zeros(2, len(boxes), 4)
    rows[0] = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    first = torch.zeros(2, len(boxes), dtype=torch.bool)
    first[0] = True
    none = torch.zeros_like(first)
    class_ids = torch.zeros(2, len(boxes), dtype=torch.int64)
    return batch_of(rows, class_ids, none if crowd else first, first if crowd else none)


def values(terms: LossTerms) -> list[float]:
    return [float(part) for part in terms.detach().parts.values()]


def giou_of(a: Sequence[float], b: Sequence[float]) -> float:
    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)

    overlap = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - overlap
    hull = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    return overlap / union - (hull - union) / hull


def loss_with_loops(predictions: GridPredictions, batch: Batch, config: Config) -> list[float]:
    """Compute the three terms of the loss with plain loops, from the published formulas."""
    targets = assign(predictions, batch, config)
    points, strides = predictions.grid.points.tolist(), predictions.grid.strides.tolist()
    target_scores: dict[tuple[int, int, int], float] = {}
    iou = l1 = classes = 0.0
    for b, p, box, class_id, quality in zip(
        targets.image_index.tolist(),
        targets.point_index.tolist(),
        targets.boxes.tolist(),
        targets.class_ids.tolist(),
        targets.quality.tolist(),
        strict=True,
    ):
        target_scores[b, p, class_id] = quality
        (x, y), stride, sides = points[p], strides[p], predictions.distances[b, p].tolist()
        predicted = [x - sides[0] * stride, y - sides[1] * stride, x + sides[2] * stride, y + sides[3] * stride]
        iou += quality * (1 - giou_of(predicted, box))
        to_sides = [max(d / stride, 0.0) for d in (x - box[0], y - box[1], box[2] - x, box[3] - y)]
        l1 += quality * sum(abs(a - b) for a, b in zip(sides, to_sides, strict=True)) / 4
    positives = {(b, p) for b, p, _ in target_scores}
    for b, rows in enumerate(predictions.class_logits.tolist()):
        crowds = batch.boxes[b][batch.is_crowd[b]].tolist()
        for p, logits in enumerate(rows):
            x, y = points[p]
            in_crowd = any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in crowds)
            if in_crowd and (b, p) not in positives:
                continue
            for class_id, logit in enumerate(logits):
                target, score = target_scores.get((b, p, class_id), 0.0), 1 / (1 + math.exp(-logit))
                entropy = -((1 - target) * math.log(1 - score) + target * math.log(score))
                classes += abs(target - score) ** config.focal_power * entropy
    norm = max(1.0, sum(target_scores.values()))
    weights = (config.class_weight, config.iou_weight, config.l1_weight)
    return [weight * term / norm for weight, term in zip(weights, (classes, iou, l1), strict=True)]


@pytest.mark.parametrize("with_crowd", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_loss_equals_its_published_formulas(seed: int, with_crowd: bool) -> None:
    predictions, batch = random_predictions(3, seed), random_batch(3, 7, seed)
    if with_crowd:
        is_crowd = batch.is_object & (torch.arange(7) % 2 == 0)
        batch = replace(batch, is_crowd=is_crowd, is_object=batch.is_object & ~is_crowd)
    config = Config(focal_power=1.5, class_weight=1.25)
    terms = detection_loss(predictions, batch, config)
    assert values(terms) == pytest.approx(loss_with_loops(predictions, batch, config), rel=1e-10)
    assert float(terms.detach().total) == pytest.approx(sum(values(terms)))
    assert terms.positives == len(assign(predictions, batch, config).quality)


def test_quality_focal_loss_grows_with_the_error_from_zero() -> None:
    targets = torch.tensor([0.2, 0.5, 0.9])
    right = quality_focal_loss(torch.logit(targets), targets, 2.0)
    torch.testing.assert_close(right, torch.zeros(3), atol=1e-9, rtol=0)
    losses = quality_focal_loss(torch.linspace(0, 20, 30), torch.zeros(30), 2.0)
    assert (losses[1:] > losses[:-1]).all()
    assert torch.isfinite(quality_focal_loss(torch.tensor([-200.0, 200.0]), torch.tensor([1.0, 0.0]), 2.0)).all()


@pytest.mark.parametrize("seed", range(3))
def test_order_of_objects_does_not_matter(seed: int) -> None:
    predictions, batch = random_predictions(3, seed), random_batch(3, 9, seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    shuffled = replace(
        batch, boxes=batch.boxes[:, order], class_ids=batch.class_ids[:, order], is_object=batch.is_object[:, order]
    )
    loss, shuffled_loss = (detection_loss(predictions, objects, Config()) for objects in (batch, shuffled))
    assert values(loss) == pytest.approx(values(shuffled_loss), rel=1e-12)


def test_order_of_images_does_not_matter() -> None:
    predictions, batch = random_predictions(3, 0), random_batch(3, 5, 0)
    reversed_predictions = replace(
        predictions, class_logits=predictions.class_logits.flip(0), distances=predictions.distances.flip(0)
    )
    reversed_batch = batch_of(
        batch.boxes.flip(0), batch.class_ids.flip(0), batch.is_object.flip(0), batch.is_crowd.flip(0)
    )
    loss = detection_loss(predictions, batch, Config())
    reversed_loss = detection_loss(reversed_predictions, reversed_batch, Config())
    assert values(loss) == pytest.approx(values(reversed_loss), rel=1e-12)


def test_padding_rows_do_not_change_the_loss() -> None:
    predictions, batch = random_predictions(2, 0), random_batch(2, 5, 0)

    def pad(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor.new_zeros(2, 40, *tensor.shape[2:])], dim=1)

    padded = batch_of(pad(batch.boxes), pad(batch.class_ids), pad(batch.is_object), pad(batch.is_crowd))
    loss, padded_loss = (detection_loss(predictions, objects, Config()) for objects in (batch, padded))
    assert values(loss) == values(padded_loss)


def test_only_points_in_crowd_regions_have_no_class_loss() -> None:
    predictions = random_predictions(2, 0)
    logits = predictions.class_logits.requires_grad_()
    region = (32.0, 16.0, 100.0, 80.0)
    terms = detection_loss(
        replace(predictions, class_logits=logits), objects_in_first_image([region], crowd=True), Config()
    )
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    has_gradient = (logits.grad != 0).any(dim=-1)
    x, y = predictions.grid.points.unbind(1)
    inside = (x > region[0]) & (x < region[2]) & (y > region[1]) & (y < region[3])
    assert torch.equal(has_gradient[0], ~inside)
    assert has_gradient[1].all()


def test_object_inside_a_crowd_region_has_a_loss() -> None:
    predictions = random_predictions(2, 0)
    batch = objects_in_first_image([(0, 0, 128, 96), (40, 30, 80, 70)])
    first = torch.tensor([[True, False], [False, False]])
    batch = replace(batch, is_crowd=first, is_object=batch.is_object & ~first, boxes=batch.boxes.double())
    terms = detection_loss(predictions, batch, Config())
    assert terms.positives > 0
    assert min(values(terms)[:2]) > 0


def many_boxes() -> list[list[float]]:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (120, 88), size=(500, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 8, size=(500, 2))], axis=1).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(objects_in_first_image([]), id="no rows"),
        pytest.param(
            replace(objects_in_first_image([(0, 0, 0, 0)] * 3), is_object=torch.zeros(2, 3).bool()), id="only padding"
        ),
        pytest.param(objects_in_first_image([(5, 5, 60, 60), (50, 40, 90, 90)], crowd=True), id="only crowd"),
        pytest.param(objects_in_first_image([(0, 0, 128, 96)], crowd=True), id="crowd everywhere"),
        pytest.param(objects_in_first_image(many_boxes()), id="500 objects"),
        pytest.param(objects_in_first_image([(0, 0, 1, 1), (127, 95, 128, 96), (63, 47, 64, 48)]), id="one pixel"),
        pytest.param(objects_in_first_image([(64, 48, 64.001, 48.001)]), id="a thousandth of a pixel"),
        pytest.param(objects_in_first_image([(0, 0, 128, 96)]), id="the complete input"),
        pytest.param(objects_in_first_image([(10, 10, 40, 40)] * 30), id="the same box 30 times"),
        pytest.param(objects_in_first_image([(0, 50, 128, 51)]), id="a line"),
    ],
)
@pytest.mark.parametrize("min_quality", [0.0, 0.1])
def test_loss_and_gradients_are_finite(batch: Batch, min_quality: float) -> None:
    torch.manual_seed(0)
    network = make_network(
        Config(model="pico"), CLASSES, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600
    )
    terms = detection_loss(network(batch.images), batch, Config(), min_quality)
    assert np.isfinite(values(terms)).all()
    terms.total.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert (terms.positives > 0) == bool(batch.is_object.any())


def test_exact_boxes_have_no_box_loss() -> None:
    predictions, batch = random_predictions(1, 0), random_batch(1, 1, 0)
    x, y = predictions.grid.points.unbind(1)
    x1, y1, x2, y2 = batch.boxes[0, 0]
    sides = torch.stack([x - x1, y - y1, x2 - x, y2 - y], dim=1) / predictions.grid.strides[:, None]
    terms = detection_loss(replace(predictions, distances=sides.clamp(min=0)[None]), batch, Config(assign_top_k=1))
    assert values(terms)[1:] == pytest.approx([0, 0], abs=1e-12)


def test_softmax_background_is_a_class_with_logit_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    targets = torch.rand(5, 3, generator=generator, dtype=torch.float64) / 3
    with_background = torch.cat([torch.zeros(5, 1, dtype=torch.float64), logits], dim=1)
    fractions = torch.cat([1 - targets.sum(dim=1, keepdim=True), targets], dim=1)
    expected = torch.nn.functional.cross_entropy(with_background, fractions, reduction="none")
    torch.testing.assert_close(softmax_loss(logits, targets), expected)


def test_squared_error_compares_centers_and_roots_of_sides() -> None:
    distances, targets = torch.tensor([[1.0, 2.0, 3.0, 2.0]]), torch.tensor([[0.5, 1.0, 0.5, 3.0]])
    # Predicted: center (1, 0), sides 4 and 4. Target: center (0, 1), sides 1 and 4.
    assert squared_error(distances, targets).tolist() == pytest.approx([1 + 1 + (2 - 1) ** 2 + 0])


@pytest.mark.parametrize("class_loss", ["sigmoid", "softmax"])
def test_other_class_losses_do_not_change_the_box_losses(class_loss: str) -> None:
    predictions, batch = random_predictions(2, 0), random_batch(2, 4, 0)
    loss = detection_loss(predictions, batch, Config())
    other_loss = detection_loss(predictions, batch, Config(class_loss=class_loss, squared_error_weight=0.5))  # type: ignore[arg-type]
    assert values(loss)[1:] == values(other_loss)[1:3]
    assert values(loss)[0] != values(other_loss)[0]
    assert set(other_loss.parts) - set(loss.parts) == {"square"}


def test_every_object_has_a_cell_but_not_always_a_point() -> None:
    at_corners = np.array([[31, 31, 33, 33], [63, 31, 65, 33]], np.float32)
    assert has_positive(at_corners, Config(head="yolo_v1", assign_radius=0.2)).tolist() == [True, True]
    assert has_positive(at_corners, Config(assign_radius=0.2)).tolist() == [False, False]
    assert has_positive(at_corners, Config(assign_radius=0.6)).tolist() == [True, True]


def test_class_weights_scale_the_class_loss_at_positives() -> None:
    predictions, batch = random_predictions(2, 5), random_batch(2, 9, 6)
    ones = torch.ones(CLASSES, dtype=torch.float64)
    plain = detection_loss(predictions, batch, Config())
    assert_equal_terms(plain, detection_loss(predictions, batch, Config(), class_weights=ones))
    each = [
        detection_loss(predictions, batch, Config(), class_weights=ones + 2 * torch.eye(CLASSES)[c])
        for c in range(CLASSES)
    ]
    everything = detection_loss(predictions, batch, Config(), class_weights=3 * ones)
    added = sum(float(terms.parts["classes"] - plain.parts["classes"]) for terms in each)
    assert added == pytest.approx(float(everything.parts["classes"] - plain.parts["classes"]), rel=1e-9)
    assert all(float(terms.parts["classes"]) > float(plain.parts["classes"]) for terms in each)
    assert float(everything.parts["classes"]) < 3 * float(plain.parts["classes"])  # background keeps its weight
    for name in ("iou", "l1"):
        assert float(everything.parts[name]) == float(plain.parts[name])


def assert_equal_terms(first: LossTerms, second: LossTerms) -> None:
    assert first.parts.keys() == second.parts.keys()
    for name, value in first.parts.items():
        assert float(value) == pytest.approx(float(second.parts[name]), rel=1e-9)
