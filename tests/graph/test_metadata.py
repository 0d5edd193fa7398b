"""What a graph says about itself is read back, and what it cannot answer is said."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.errors import InputError
from detector.graph.metadata import (
    GraphInfo,
    NmsSettings,
    choose_input_size,
    graph_info_metadata,
    graph_metadata,
    read_metadata,
    say_what_is_fixed,
)
from detector.runtime.base import as_points
from detector.weights_info import WeightsInfo

INFO = WeightsInfo("pico", ("a", "b", "c"), (1, 2, 3), (64, 96), {}, {})


@pytest.mark.parametrize(
    "form",
    [GraphInfo(), GraphInfo(dynamic=True), GraphInfo(int8=True), GraphInfo(True, True, NmsSettings(0.1, 0.45, 50))],
)
def test_a_form_is_read_as_it_was_written(form: GraphInfo) -> None:
    assert read_metadata(graph_metadata(INFO, (64, 96)) | graph_info_metadata(form), "x") == (INFO, form)


def test_a_graph_that_says_nothing_of_its_form_is_plain() -> None:
    texts = graph_metadata(INFO, (32, 64))
    assert read_metadata(texts, "x") == (replace(INFO, input_hw=(32, 64)), GraphInfo())
    assert "gray 114" in texts["usage"]


@pytest.mark.parametrize("nms", ["{", "[1]", "3", '{"iou": 1}', '{"score_threshold": 7}', '{"max_detections": "x"}'])
def test_a_damaged_form_is_refused(nms: str) -> None:
    with pytest.raises(InputError, match="x: the metadata are damaged"):
        read_metadata(graph_metadata(INFO, (64, 96)) | {"nms": nms}, "x")


@pytest.mark.parametrize("wrong", [{"score_threshold": -0.1}, {"iou_threshold": 1.1}, {"max_detections": 0}])
def test_settings_out_of_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"nms: {next(iter(wrong))} must be"):
        NmsSettings(**wrong)


def test_only_a_dynamic_graph_takes_another_canvas() -> None:
    assert choose_input_size(INFO, GraphInfo(), None, "x") == choose_input_size(INFO, GraphInfo(), 96, "x") == (64, 96)
    assert choose_input_size(INFO, GraphInfo(dynamic=True), 192, "x") == (128, 192)
    with pytest.raises(InputError, match=r"x: was exported for an input of 96 .*--imgsz 192, or with --dynamic"):
        choose_input_size(INFO, GraphInfo(), 192, "x")
    with pytest.raises(InputError, match="does not divide by 32"):
        choose_input_size(INFO, GraphInfo(dynamic=True), 100, "x")


def test_found_objects_become_points_with_a_score_for_their_one_class() -> None:
    box = np.array([[1, 2, 3, 4]], dtype=np.float32)
    two = (np.concatenate([box, box + 1]), np.array([0.9, 0.4], np.float32), np.array([2, 0]))
    none = (box[:0], np.zeros(0, np.float32), np.zeros(0, np.int64))
    points = as_points([two, none], 3, NmsSettings())
    np.testing.assert_array_equal(points.boxes[0], two[0])
    np.testing.assert_array_equal(points.scores[0], np.array([[0, 0, 0.9], [0.4, 0, 0]], np.float32))
    assert points.boxes.shape == (2, 2, 4)
    assert not points.scores[1].any()
    assert as_points([none], 3, NmsSettings()).scores.shape == (1, 0, 3)
    for class_id in (-1, 3):
        with pytest.raises(ValueError, match="class_ids"):
            as_points([(box, np.ones(1, np.float32), np.array([class_id]))], 3, NmsSettings())


ASKED: dict[str, Any] = {
    "score_threshold": 0.25,
    "iou_threshold": 0.6,
    "max_detections": 300,
    "class_agnostic": False,
    "every_class": False,
    "suppression": "classic",
}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, None),
        ({"score_threshold": 0.5, "max_detections": 10}, None),
        ({"score_threshold": 0.1}, "score threshold 0.1"),
        ({"iou_threshold": 0.5}, "IoU threshold 0.5"),
        ({"max_detections": 301}, "301 detections"),
        ({"class_agnostic": True}, "across classes"),
        ({"every_class": True}, "every class"),
        ({"suppression": "soft"}, "suppression soft"),
    ],
)
def test_what_a_graph_with_suppression_cannot_answer_is_said_once(
    other: dict[str, Any], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    say_what_is_fixed.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            say_what_is_fixed(NmsSettings(), **ASKED | other)
    assert len(caplog.messages) == (said is not None)
    assert said is None or said in caplog.text
