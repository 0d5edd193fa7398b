import typing

import numpy as np
import pytest
import torch

from detector.config import Config
from detector.detections import Detections
from detector.errors import InputError
from detector.graph.metadata import NmsSettings, say_what_is_fixed
from detector.letterbox import Letterbox
from detector.model.grid import GridPredictions, make_grid
from detector.ops.suppression import METHODS
from detector.predict.postprocess import postprocess
from detector.runtime.base import PointPredictions

INPUT_HW = (128, 160)
NAMES = ("cat", "dog", "hen")

Answer = tuple[tuple[float, float, float, float], int, float]
"""A box in pixels of the image, its class, its score."""


def predict(letterbox: Letterbox, answers: list[Answer]) -> PointPredictions:
    """The grid of a network that gives these answers, each at the point nearest to its center that is still free."""
    grid = make_grid(INPUT_HW, torch.device("cpu"))
    logits = torch.full((1, len(grid.strides), len(NAMES)), -20.0)
    distances = torch.ones(1, len(grid.strides), 4)
    free = torch.ones(len(grid.strides), dtype=torch.bool)
    for box, class_id, score in answers:
        x1, y1, x2, y2 = torch.from_numpy(letterbox.to_input(np.array([box], np.float32)))[0]
        far = (grid.points - torch.stack([x1 + x2, y1 + y2]) / 2).abs().sum(dim=1)
        point = int(torch.where(free, far, torch.inf).argmin())
        free[point] = False
        x, y = grid.points[point]
        distances[0, point] = torch.stack([x - x1, y - y1, x2 - x, y2 - y]) / grid.strides[point]
        logits[0, point, class_id] = float(np.log(score / (1 - score)))
    return PointPredictions(GridPredictions(logits, distances, grid).boxes().numpy(), logits.sigmoid().numpy())


def run(answers: list[Answer], image_hw: tuple[int, int] = (240, 320), **options: object) -> Detections:
    letterbox = Letterbox.fit(image_hw, INPUT_HW)
    settings = {"score_threshold": 0.25, "iou_threshold": 0.6, "max_detections": 300} | options
    [found] = postprocess(predict(letterbox, answers), [letterbox], NAMES, **settings)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("image_hw", [(128, 160), (240, 320), (1000, 333), (37, 200), (64, 80)])
def test_it_gives_back_the_boxes_in_pixels_of_the_image(image_hw: tuple[int, int]) -> None:
    h, w = image_hw
    answers: list[Answer] = [
        ((0.1 * w, 0.2 * h, 0.4 * w, 0.5 * h), 2, 0.9),
        ((0.5 * w, 0.5 * h, 0.97 * w, 0.9 * h), 0, 0.6),
        ((0, 0, w, h), 1, 0.3),
    ]
    found = run(answers, image_hw)
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in answers], rtol=1e-4, atol=1e-3 * max(h, w) / 100)
    assert found.class_ids.tolist() == [2, 0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.6, 0.3], rtol=1e-5)
    assert found.class_names == NAMES


def test_boxes_are_cut_to_the_image() -> None:
    assert run([((-30, -9, 400, 100), 0, 0.9)]).boxes.round(3).tolist() == [[0, 0, 320, 100]]


def test_of_boxes_that_overlap_the_best_of_each_class_stays() -> None:
    answers: list[Answer] = [((10, 10, 100, 100), 0, 0.5), ((12, 10, 100, 100), 0, 0.8), ((11, 10, 100, 100), 1, 0.7)]
    found = run(answers)
    assert [(name, round(score, 3)) for name, score, _ in found] == [("cat", 0.8), ("dog", 0.7)]
    assert [name for name, _, _ in run(answers, class_agnostic=True)] == ["cat"]
    assert len(run(answers, iou_threshold=1.0)) == 3


def test_every_suppression_of_the_settings_is_there_and_another_is_refused() -> None:
    assert typing.get_args(typing.get_type_hints(Config)["suppression"]) == tuple(METHODS)
    with pytest.raises(InputError, match="suppression: expected classic or soft or diou or weighted, got 'gentle'"):
        run([], suppression="gentle")


def test_of_boxes_that_overlap_each_suppression_makes_something_else() -> None:
    answers: list[Answer] = [((10, 10, 100, 100), 0, 0.8), ((36, 10, 126, 100), 0, 0.7), ((200, 10, 300, 100), 0, 0.6)]
    found = {name: run(answers, suppression=name, iou_threshold=0.54) for name in METHODS}
    assert {name: len(of) for name, of in found.items()} == {"classic": 2, "soft": 3, "diou": 3, "weighted": 2}
    np.testing.assert_allclose(found["soft"].scores[[0, 1]], [0.8, 0.6], rtol=1e-4)
    assert found["soft"].scores[2] < 0.5
    np.testing.assert_allclose(found["weighted"].boxes[0], [10 + 26 * 7 / 15, 10, 100 + 26 * 7 / 15, 100], rtol=1e-4)
    assert len(run(answers, suppression="soft", score_threshold=0.5)) == 2


@pytest.mark.parametrize("suppression", METHODS)
def test_every_suppression_heeds_classes_or_not_and_the_most_wanted(suppression: str) -> None:
    answers: list[Answer] = [((10, 10, 100, 100), 0, 0.8), ((12, 10, 102, 100), 1, 0.7), ((200, 10, 300, 100), 2, 0.6)]
    found = run(answers, suppression=suppression)
    assert found.class_ids.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in answers], rtol=1e-4)
    assert run(answers, suppression=suppression, class_agnostic=True).class_ids.tolist() == [0, 2]
    assert run(answers, suppression=suppression, max_detections=1).class_ids.tolist() == [0]
    assert len(run([], suppression=suppression)) == 0


def test_a_point_answers_with_its_best_class_and_on_request_with_every_one() -> None:
    letterbox = Letterbox.fit(INPUT_HW, INPUT_HW)
    predictions = predict(letterbox, [((10, 10, 60, 60), 0, 0.9)])
    point = int(predictions.scores[0, :, 0].argmax())
    predictions.scores[0, point, 2] = 0.5
    [found] = postprocess(predictions, [letterbox], NAMES, 0.25, 0.6, 300)
    assert [(name, round(score, 3)) for name, score, _ in found] == [("cat", 0.9)]
    [found] = postprocess(predictions, [letterbox], NAMES, 0.25, 0.6, 300, every_class=True)
    assert [(name, round(score, 3)) for name, score, _ in found] == [("cat", 0.9), ("hen", 0.5)]
    assert np.array_equal(found.boxes[0], found.boxes[1])


def test_other_classes_than_those_wanted_are_left_out_before_the_most_wanted_are_counted() -> None:
    answers: list[Answer] = [((10, 10, 100, 100), 1, 0.9), ((12, 10, 100, 100), 0, 0.8), ((200, 10, 300, 100), 2, 0.7)]
    assert run(answers, classes=[2, 0]).class_ids.tolist() == [0, 2]
    assert run(answers, classes=[2, 0], max_detections=1).class_ids.tolist() == [0]
    assert run(answers, classes=[0], class_agnostic=True).class_ids.tolist() == [0]  # the better box suppresses nothing
    assert len(run(answers[:1], classes=[0, 2])) == 0


def test_low_scores_and_those_beyond_the_most_wanted_are_left_out_best_first() -> None:
    answers: list[Answer] = [((40 * i, 10, 40 * i + 30, 50), i % 3, 0.2 + 0.1 * i) for i in range(7)]
    found = run(answers, score_threshold=0.35)
    np.testing.assert_allclose(found.scores, [0.8, 0.7, 0.6, 0.5, 0.4], rtol=1e-5)
    np.testing.assert_allclose(run(answers, max_detections=2).scores, [0.8, 0.7], rtol=1e-5)
    assert len(run(answers, max_detections=0)) == 0


def test_a_image_with_nothing_in_it_gives_empty_detections() -> None:
    found = run([])
    assert (found.boxes.shape, found.scores.shape, found.class_ids.shape) == ((0, 4), (0,), (0,))


def test_the_images_of_a_batch_have_their_own_letterboxes() -> None:
    letterboxes = [Letterbox.fit(hw, INPUT_HW) for hw in ((240, 320), (500, 100))]
    answers: list[Answer] = [((20, 30, 90, 99), 1, 0.9)]
    each = [predict(letterbox, answers) for letterbox in letterboxes]
    together = PointPredictions(
        np.concatenate([one.boxes for one in each]), np.concatenate([one.scores for one in each])
    )
    for found in postprocess(together, letterboxes, NAMES, 0.25, 0.6, 300):
        np.testing.assert_allclose(found.boxes, [[20, 30, 90, 99]], rtol=1e-4)


def test_what_lies_beside_the_image_is_not_found_in_it() -> None:
    assert len(run([((-90, 10, -20, 60), 0, 0.9)], image_hw=(500, 100))) == 0


def test_what_a_graph_that_suppresses_inside_cannot_answer_is_said(caplog: pytest.LogCaptureFixture) -> None:
    say_what_is_fixed.cache_clear()
    boxes, scores = np.zeros((1, 0, 4), np.float32), np.zeros((1, 0, 1), np.float32)
    predictions = PointPredictions(boxes, scores, NmsSettings(score_threshold=0.4))
    letterbox = Letterbox.fit((64, 64), (64, 64))
    postprocess(predictions, [letterbox], ("cell",), score_threshold=0.5)
    assert not caplog.messages
    postprocess(predictions, [letterbox], ("cell",), score_threshold=0.1)
    assert "score threshold 0.1" in caplog.text
