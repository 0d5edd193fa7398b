import json
import math
from dataclasses import asdict, fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from detector.errors import ConfigError
from detector.options import DetectOptions, ReadOptions

FRACTIONS = ["score_threshold", "iou_threshold", "tile_overlap"]
COUNTS = ["max_detections", "batch_size", "tile"]
FLAGS = ["multi_label", "tta", "class_agnostic", "calibrated"]


def options(name: str, value: object) -> Any:
    """Return the attribute `name` of `DetectOptions` that are made with this value."""
    return getattr(DetectOptions(**{name: value}), name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize(
    "value", [0, 0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5), np.int64(0), Fraction(1, 2)]
)
def test_fraction_may_be_any_kind_of_number(name: str, value: Any) -> None:
    assert options(name, value) == value
    assert type(options(name, value)) is float


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize(
    "value",
    [-0.01, 1.01, -1, 2, math.nan, math.inf, np.float32("nan"), 10**400, True, np.True_, "0.5", "a", None, [0.5], 1j],
)
def test_value_that_is_no_fraction_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected a number from 0 to 1, got "):
        options(name, value)


def test_score_threshold_may_be_auto_or_one_per_class() -> None:
    assert options("score_threshold", "auto") == "auto"
    own = DetectOptions(score_threshold=(np.float32(0.5), 0, 1))  # type: ignore[arg-type]
    assert own.score_threshold == (0.5, 0.0, 1.0)
    assert own.lowest_threshold == 0
    assert DetectOptions(score_threshold=0.3).lowest_threshold == 0.3
    invalid: list[Any] = [(), (0.5, 2), (0.5, "auto"), ("auto",), "Auto", (math.nan,), ((0.5,),)]
    for value in invalid:
        with pytest.raises(ConfigError, match=r"^score_threshold: expected a number from 0 to 1, got "):
            options("score_threshold", value)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1, 300, np.int64(5), np.uint8(5), 10**400])
def test_count_may_be_any_kind_of_integer(name: str, value: Any) -> None:
    assert options(name, value) == value
    assert type(options(name, value)) is int


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.0, np.float32(1), math.nan, True, np.True_, "1", [1], np.int64(0)])
def test_value_that_is_no_count_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: expected a whole number of at least 1, got "):
        options(name, value)
    with pytest.raises(ConfigError, match=r"^max_pixels: expected a whole number of at least 1, got "):
        ReadOptions(max_pixels=value)


@pytest.mark.parametrize("name", FLAGS)
def test_only_booleans_are_flags(name: str) -> None:
    for value in (True, False, np.True_, np.False_):
        assert options(name, value) is bool(value)
    invalid: list[Any] = [0, 1, "no", "true", 0.0, []]
    for value in invalid:
        with pytest.raises(ConfigError, match=f"^{name}: expected True or False, got "):
            options(name, value)


def test_only_optional_values_may_be_none() -> None:
    optional = {"classes", "suppression", "class_agnostic", "tile"}
    for option in fields(DetectOptions):
        if option.name in optional:
            assert options(option.name, None) is None
        else:
            with pytest.raises(ConfigError, match=f"^{option.name}: expected "):
                options(option.name, None)


def test_tiles_may_not_overlap_completely() -> None:
    assert options("tile_overlap", 0.99) == 0.99
    with pytest.raises(ConfigError, match="tile_overlap: must be below 1"):
        options("tile_overlap", 1.0)


@pytest.mark.parametrize("value", ["gentle", "", 1, ["soft"]])
def test_unknown_suppression_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="suppression: expected classic or soft or diou or weighted, got "):
        options("suppression", value)


def test_classes_must_be_names_or_ids() -> None:
    for value in ("cat", ["cat", 1], (2,), np.array([1, 2])):
        assert options("classes", value) is value
    with pytest.raises(ConfigError, match="classes: expected a list of names or ids, got 3"):
        options("classes", 3)
    with pytest.raises(ConfigError, match="classes: expected a list of names or ids, got b'cat'"):
        options("classes", b"cat")


def test_classes_from_an_iterator_can_be_read_again() -> None:
    assert options("classes", iter(["cat", 1])) == ("cat", 1)


@pytest.mark.parametrize("name", sorted({option.name for option in fields(DetectOptions)} - {"classes"}))
def test_a_message_about_a_wrong_value_is_short(name: str) -> None:
    values: list[Any] = [np.zeros((500, 500, 3)), ["a"] * 4_000_000, "x" * 100_000, b"x" * 100_000, {1: "y" * 9999}]
    for value in values if name in COUNTS else [*values, 10**5000]:
        with pytest.raises(ConfigError, match=f"^{name}: expected") as caught:
            options(name, value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


def test_options_with_numpy_numbers_are_json() -> None:
    numpy = DetectOptions(score_threshold=np.float32(0.5), max_detections=np.int64(7), tta=np.True_)  # type: ignore[arg-type]
    assert numpy == DetectOptions(score_threshold=0.5, max_detections=7, tta=True)
    assert DetectOptions(**json.loads(json.dumps(asdict(numpy)))) == numpy


def test_options_are_immutable_and_keyword_only() -> None:
    with pytest.raises(AttributeError):
        DetectOptions().tta = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        DetectOptions(0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="conf"):
        DetectOptions(conf=0.5)  # type: ignore[call-arg]
