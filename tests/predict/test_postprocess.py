import typing

import numpy as np
import pytest
import torch

from detector.config import Config
from detector.detections import Detections
from detector.errors import InputError
from detector.letterbox import Letterbox
from detector.model.grid import GridPredictions, make_grid
from detector.ops.suppression import METHODS
from detector.options import DetectOptions
from detector.predict.postprocess import postprocess
from detector.runtime.base import PointPredictions

INPUT_HW = (128, 160)
NAMES = ("cat", "dog", "hen")

Object = tuple[tuple[float, float, float, float], int, float]
"""A box (x1, y1, x2, y2) in image pixels, a class id and a score."""


def predict(letterbox: Letterbox, objects: list[Object]) -> PointPredictions:
    """Return predictions of these objects for one image, each at the unused grid point nearest to its center."""
    grid = make_grid(INPUT_HW, torch.device("cpu"))
    logits = torch.full((1, len(grid.strides), len(NAMES)), -20.0)
    distances = torch.ones(1, len(grid.strides), 4)
    unused = torch.ones(len(grid.strides), dtype=torch.bool)
    for box, class_id, score in objects:
        x1, y1, x2, y2 = torch.from_numpy(letterbox.to_input(np.array([box], np.float32)))[0]
        distance = (grid.points - torch.stack([x1 + x2, y1 + y2]) / 2).abs().sum(dim=1)
        point = int(torch.where(unused, distance, torch.inf).argmin())
        unused[point] = False
        x, y = grid.points[point]
        distances[0, point] = torch.stack([x - x1, y - y1, x2 - x, y2 - y]) / grid.strides[point]
        logits[0, point, class_id] = float(np.log(score / (1 - score)))
    return PointPredictions(GridPredictions(logits, distances, grid).boxes().numpy(), logits.sigmoid().numpy())


def resolved(**options: object) -> DetectOptions:
    """Return options as the detector passes them to `postprocess`: NMS variant and class-agnostic are never None."""
    return DetectOptions(**{"suppression": "classic", "class_agnostic": False} | options)  # type: ignore[arg-type]


def run(objects: list[Object], image_hw: tuple[int, int] = (240, 320), **options: object) -> Detections:
    letterbox = Letterbox.fit(image_hw, INPUT_HW)
    [found] = postprocess(predict(letterbox, objects), [letterbox], NAMES, resolved(**options))
    return found


@pytest.mark.parametrize("image_hw", [(128, 160), (240, 320), (1000, 333), (37, 200), (64, 80)])
def test_boxes_are_mapped_back_to_image_pixels(image_hw: tuple[int, int]) -> None:
    h, w = image_hw
    objects: list[Object] = [
        ((0.1 * w, 0.2 * h, 0.4 * w, 0.5 * h), 2, 0.9),
        ((0.5 * w, 0.5 * h, 0.97 * w, 0.9 * h), 0, 0.6),
        ((0, 0, w, h), 1, 0.3),
    ]
    found = run(objects, image_hw)
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in objects], rtol=1e-4, atol=1e-3 * max(h, w) / 100)
    assert found.class_ids.tolist() == [2, 0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.6, 0.3], rtol=1e-5)
    assert found.class_names == NAMES


def test_boxes_are_clipped_to_the_image() -> None:
    assert run([((-30, -9, 400, 100), 0, 0.9)]).boxes.round(3).tolist() == [[0, 0, 320, 100]]


def test_best_of_overlapping_boxes_is_kept_per_class() -> None:
    objects: list[Object] = [((10, 10, 100, 100), 0, 0.5), ((12, 10, 100, 100), 0, 0.8), ((11, 10, 100, 100), 1, 0.7)]
    found = run(objects)
    assert [(name, round(score, 3)) for name, score, _ in found] == [("cat", 0.8), ("dog", 0.7)]
    assert [name for name, _, _ in run(objects, class_agnostic=True)] == ["cat"]
    assert len(run(objects, iou_threshold=1.0)) == 3


def test_every_nms_variant_of_the_settings_is_implemented() -> None:
    assert typing.get_args(typing.get_type_hints(Config)["suppression"]) == tuple(METHODS)
    with pytest.raises(InputError, match="suppression: expected classic or soft or diou or weighted, got 'gentle'"):
        run([], suppression="gentle")


def test_nms_variants_treat_overlapping_boxes_differently() -> None:
    objects: list[Object] = [((10, 10, 100, 100), 0, 0.8), ((36, 10, 126, 100), 0, 0.7), ((200, 10, 300, 100), 0, 0.6)]
    found = {name: run(objects, suppression=name, iou_threshold=0.54) for name in METHODS}
    assert {name: len(detections) for name, detections in found.items()} == {
        "classic": 2,
        "soft": 3,
        "diou": 3,
        "weighted": 2,
    }
    np.testing.assert_allclose(found["soft"].scores[[0, 1]], [0.8, 0.6], rtol=1e-4)
    assert found["soft"].scores[2] < 0.5
    np.testing.assert_allclose(found["weighted"].boxes[0], [10 + 26 * 7 / 15, 10, 100 + 26 * 7 / 15, 100], rtol=1e-4)
    assert len(run(objects, suppression="soft", score_threshold=0.5)) == 2


@pytest.mark.parametrize("suppression", METHODS)
def test_every_nms_variant_respects_classes_and_limit(suppression: str) -> None:
    objects: list[Object] = [((10, 10, 100, 100), 0, 0.8), ((12, 10, 102, 100), 1, 0.7), ((200, 10, 300, 100), 2, 0.6)]
    found = run(objects, suppression=suppression)
    assert found.class_ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in objects], rtol=1e-4)
    assert run(objects, suppression=suppression, class_agnostic=True).class_ids.tolist() == [0, 2]
    assert run(objects, suppression=suppression, max_detections=1).class_ids.tolist() == [0]
    assert len(run([], suppression=suppression)) == 0


def test_multi_label_yields_every_class_of_a_point() -> None:
    letterbox = Letterbox.fit(INPUT_HW, INPUT_HW)
    predictions = predict(letterbox, [((10, 10, 60, 60), 0, 0.9)])
    point = int(predictions.scores[0, :, 0].argmax())
    predictions.scores[0, point, 2] = 0.5
    [found] = postprocess(predictions, [letterbox], NAMES, resolved())
    assert [(name, round(score, 3)) for name, score, _ in found] == [("cat", 0.9)]
    [found] = postprocess(predictions, [letterbox], NAMES, resolved(multi_label=True))
    assert [(name, round(score, 3)) for name, score, _ in found] == [("cat", 0.9), ("hen", 0.5)]
    assert np.array_equal(found.boxes[0], found.boxes[1])


def test_other_classes_are_removed_before_nms_and_limit() -> None:
    objects: list[Object] = [((10, 10, 100, 100), 1, 0.9), ((12, 10, 100, 100), 0, 0.8), ((200, 10, 300, 100), 2, 0.7)]
    assert run(objects, classes=[2, 0]).class_ids.tolist() == [0, 2]
    assert run(objects, classes=[2, 0], max_detections=1).class_ids.tolist() == [0]
    assert run(objects, classes=[0], class_agnostic=True).class_ids.tolist() == [0]  # the better box suppresses nothing
    assert len(run(objects[:1], classes=[0, 2])) == 0


def test_score_threshold_and_limit_keep_the_best() -> None:
    objects: list[Object] = [((40 * i, 10, 40 * i + 30, 50), i % 3, 0.2 + 0.1 * i) for i in range(7)]
    found = run(objects, score_threshold=0.35)
    np.testing.assert_allclose(found.scores, [0.8, 0.7, 0.6, 0.5, 0.4], rtol=1e-5)
    np.testing.assert_allclose(run(objects, max_detections=2).scores, [0.8, 0.7], rtol=1e-5)


def test_image_without_objects_gives_empty_detections() -> None:
    found = run([])
    assert (found.boxes.shape, found.scores.shape, found.class_ids.shape) == ((0, 4), (0,), (0,))


def test_each_image_of_a_batch_has_its_own_letterbox() -> None:
    letterboxes = [Letterbox.fit(hw, INPUT_HW) for hw in ((240, 320), (500, 100))]
    objects: list[Object] = [((20, 30, 90, 99), 1, 0.9)]
    single = [predict(letterbox, objects) for letterbox in letterboxes]
    batch = PointPredictions(
        np.concatenate([one.boxes for one in single]), np.concatenate([one.scores for one in single])
    )
    for found in postprocess(batch, letterboxes, NAMES, resolved()):
        np.testing.assert_allclose(found.boxes, [[20, 30, 90, 99]], rtol=1e-4)


def test_boxes_in_the_padding_are_removed() -> None:
    assert len(run([((-90, 10, -20, 60), 0, 0.9)], image_hw=(500, 100))) == 0


def test_options_that_fixed_nms_cannot_honor_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    boxes, scores = np.zeros((1, 0, 4), np.float32), np.zeros((1, 0, 1), np.float32)
    predictions = PointPredictions(boxes, scores, DetectOptions(score_threshold=0.4))
    letterbox = Letterbox.fit((64, 64), (64, 64))
    postprocess(predictions, [letterbox], ("cell",), resolved(score_threshold=0.5))
    assert not caplog.messages
    postprocess(predictions, [letterbox], ("cell",), resolved(score_threshold=0.1))
    assert "score threshold 0.1" in caplog.text
