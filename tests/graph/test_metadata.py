"""Tests of graph metadata: parsing returns what was written, and options that NMS in a graph ignores are reported."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from detector.errors import ConfigError, WeightsError
from detector.graph.metadata import (
    GraphInfo,
    graph_info_metadata,
    graph_input_size,
    graph_metadata,
    read_metadata,
    warn_fixed_nms,
    warn_once,
)
from detector.options import DetectOptions
from detector.weights_info import WeightsInfo

INFO = WeightsInfo("pico", ("a", "b", "c"), (1, 2, 3), (64, 96), {}, {})
NMS = DetectOptions(score_threshold=0.1, iou_threshold=0.45, max_detections=50)


@pytest.mark.parametrize(
    "graph_info",
    [
        GraphInfo(),
        GraphInfo(dynamic=True),
        GraphInfo(int8=True),
        GraphInfo(True, True, NMS),
        GraphInfo(int8=True, int8_weight_bits=7),
    ],
)
def test_graph_info_is_read_as_it_was_written(graph_info: GraphInfo) -> None:
    metadata = graph_metadata(INFO, (64, 96)) | graph_info_metadata(graph_info)
    assert read_metadata(metadata, "x") == (INFO, graph_info)


def test_only_the_thresholds_of_nms_are_stored() -> None:
    options = replace(NMS, suppression="classic", classes=(1,), tile=320, tta=True, batch_size=2)
    stored = graph_info_metadata(GraphInfo(nms=options))
    assert stored == {"nms": '{"score_threshold": 0.1, "iou_threshold": 0.45, "max_detections": 50}'}
    assert read_metadata(graph_metadata(INFO, (64, 96)) | stored, "x")[1] == GraphInfo(nms=NMS)


def test_missing_metadata_means_a_plain_graph() -> None:
    metadata = graph_metadata(INFO, (32, 64))
    assert read_metadata(metadata, "x") == (replace(INFO, input_hw=(32, 64)), GraphInfo())
    assert "gray 114" in metadata["usage"]


@pytest.mark.parametrize(
    "nms",
    [
        "{",
        "[1]",
        "3",
        '{"iou": 1}',
        '{"score_threshold": 7}',
        '{"max_detections": "x"}',
        '{"score_threshold": -0.1, "iou_threshold": 0.6, "max_detections": 300}',
        '{"score_threshold": 0.25, "iou_threshold": 1.1, "max_detections": 300}',
        '{"score_threshold": 0.25, "iou_threshold": 0.6, "max_detections": 0}',
        '{"score_threshold": NaN, "iou_threshold": 0.6, "max_detections": 300}',
    ],
)
def test_damaged_nms_metadata_is_an_error(nms: str) -> None:
    with pytest.raises(WeightsError, match="x: the metadata is damaged"):
        read_metadata(graph_metadata(INFO, (64, 96)) | {"nms": nms}, "x")


def test_only_a_dynamic_graph_runs_at_another_input_size() -> None:
    assert graph_input_size(INFO, GraphInfo(), None, "x") == graph_input_size(INFO, GraphInfo(), 96, "x") == (64, 96)
    assert graph_input_size(INFO, GraphInfo(dynamic=True), 192, "x") == (128, 192)
    with pytest.raises(WeightsError, match=r"x: .* fixed input size of 96 .*--imgsz 192, or with --dynamic"):
        graph_input_size(INFO, GraphInfo(), 192, "x")
    with pytest.raises(ConfigError, match="100 is not a multiple of 32"):
        graph_input_size(INFO, GraphInfo(dynamic=True), 100, "x")


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({"score_threshold": 0.5, "max_detections": 10}, None),
        ({"suppression": "classic", "class_agnostic": False}, None),
        ({"classes": ["a"], "tile": 320, "tta": True}, None),
        ({"score_threshold": 0.1}, "score threshold 0.1"),
        ({"iou_threshold": 0.5}, "IoU threshold 0.5"),
        ({"max_detections": 301}, "301 detections"),
        ({"class_agnostic": True}, "class-agnostic NMS"),
        ({"multi_label": True}, "several classes per grid point"),
        ({"suppression": "soft"}, "suppression soft"),
    ],
)
def test_options_without_effect_on_fixed_nms_warn_once(
    changes: dict[str, Any], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            warn_fixed_nms(DetectOptions(), DetectOptions(**changes))
    assert len(caplog.messages) == (warning is not None)
    assert warning is None or warning in caplog.text
