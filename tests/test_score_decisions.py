"""Thresholds and the map to probabilities in the metadata: round trip, older files, damaged values."""

import json
from dataclasses import replace
from typing import Any

import pytest

from detector.errors import WeightsError
from detector.graph.metadata import graph_metadata, read_metadata
from detector.score_decisions import ChosenThresholds, ScoreMap
from detector.weights_info import MAX_CLASSES, WeightsInfo, from_metadata, to_metadata

INFO = WeightsInfo("pico", ("a", "b"), (1, 2), (32, 32), {}, {})
CHOSEN = replace(INFO, thresholds=ChosenThresholds((0.25, 0.125), "a goal"), score_map=ScoreMap(3.0, -0.5))


def test_metadata_keeps_thresholds_and_map() -> None:
    assert from_metadata(to_metadata(CHOSEN), "w") == CHOSEN
    assert read_metadata(graph_metadata(CHOSEN, (64, 96)), "g")[0] == replace(CHOSEN, input_hw=(64, 96))


def test_files_without_decisions_load_as_before() -> None:
    metadata = to_metadata(INFO)
    assert "thresholds" not in metadata
    assert "default_classes" not in metadata
    shown = replace(INFO, default_classes=(1,))
    assert from_metadata(to_metadata(shown), "x") == shown
    assert "score_map" not in metadata
    assert from_metadata(metadata, "w") == INFO


def test_thresholds_of_the_most_classes_can_be_read() -> None:
    names = tuple(str(number) for number in range(MAX_CLASSES))
    many = replace(
        INFO,
        class_names=names,
        category_ids=tuple(range(MAX_CLASSES)),
        thresholds=ChosenThresholds((0.12345678901234567,) * MAX_CLASSES, "goal"),
    )
    assert from_metadata(to_metadata(many), "w") == many


DAMAGED: list[tuple[str, Any]] = [
    ("default_classes", [2]),
    ("default_classes", [-1]),
    ("default_classes", []),
    ("default_classes", [0, 0]),
    ("default_classes", [True]),
    ("default_classes", {"0": 1}),
    ("thresholds", {"values": [0.5], "goal": "x"}),
    ("thresholds", {"values": [0.5, 0.5, 0.5], "goal": "x"}),
    ("thresholds", {"values": [0.5, 1.5], "goal": "x"}),
    ("thresholds", {"values": [0.5, float("nan")], "goal": "x"}),
    ("thresholds", {"values": [0.5, True], "goal": "x"}),
    ("thresholds", {"values": [0.5, "0.5"], "goal": "x"}),
    ("thresholds", {"values": {"a": 0.5, "b": 0.5}, "goal": "x"}),
    ("thresholds", {"values": [0.5, 0.5]}),
    ("thresholds", {"values": [0.5, 0.5], "goal": 3}),
    ("thresholds", {"values": [0.5, 0.5], "goal": "x" * 1000}),
    ("thresholds", [0.5, 0.5]),
    ("thresholds", 0.5),
    ("score_map", {"slope": 0, "intercept": 0}),
    ("score_map", {"slope": -1, "intercept": 0}),
    ("score_map", {"slope": float("inf"), "intercept": 0}),
    ("score_map", {"slope": 10**400, "intercept": 0}),
    ("score_map", {"slope": 1, "intercept": float("nan")}),
    ("score_map", {"slope": 1, "intercept": "0"}),
    ("score_map", {"slope": 1}),
    ("score_map", [1, 0]),
]


@pytest.mark.parametrize(("key", "value"), DAMAGED, ids=lambda value: str(value)[:40])
def test_damaged_decisions_are_refused(key: str, value: Any) -> None:
    with pytest.raises(WeightsError, match=r"^w: the metadata is damaged"):
        from_metadata(to_metadata(CHOSEN) | {key: json.dumps(value)}, "w")


def test_long_or_unreadable_text_is_refused() -> None:
    for key, text in (("score_map", " " * 2000), ("thresholds", "[" * 100_000), ("score_map", "no")):
        with pytest.raises(WeightsError, match=r"^w: the metadata is damaged"):
            from_metadata(to_metadata(CHOSEN) | {key: text}, "w")
