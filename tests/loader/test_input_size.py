from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.boxes import area
from detector.config import PLANNING_STEPS, Config, InputSizeConfig
from detector.errors import ConfigError
from detector.loader.input_size import (
    check_multi_scale,
    choose_input_size,
    input_size_at,
    input_stages,
    without_resizing,
)

HW = tuple[int, int]


def annotate(image_hw: HW, sides: Sequence[float] = (), crowd: bool = False) -> Annotation:
    """Return the annotation of an image with square objects of these sides."""
    boxes = np.array([[0, 0, side, side] for side in sides], dtype=np.float32).reshape(-1, 4)
    n = len(boxes)
    return Annotation(1, Path("1.png"), image_hw, boxes, np.zeros(n, np.int64), np.full(n, crowd), area(boxes))


@pytest.mark.parametrize(
    ("input_size", "sizes", "expected"),
    [
        ("auto", [(480, 640)] * 3, (256, 320)),
        ("auto", [(640, 480)], (320, 256)),
        ("auto", [(10, 4000)], (32, 320)),
        ("auto", [(300, 300), (300, 300), (100, 900)], (320, 320)),
        (640, [(380, 640)], (384, 640)),
        ((96, 64), [(480, 640)], (96, 64)),
    ],
)
def test_the_input_follows_the_median_aspect_of_the_images(input_size: object, sizes: list[HW], expected: HW) -> None:
    annotations = [annotate(hw) for hw in sizes]
    assert choose_input_size(InputSizeConfig(input_size=input_size), annotations) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sides", "long_side"),
    [
        ((100.0,), 320),
        ((20.0,), 320),
        ((19.0,), 480),
        ((13.0,), 640),
        ((4.0,), 640),
        ((13.0, 90.0, 90.0, 90.0, 90.0), 320),
    ],
)
def test_small_objects_need_a_large_input(sides: tuple[float, ...], long_side: int) -> None:
    assert max(choose_input_size(InputSizeConfig(), [annotate((640, 640), sides)])) == long_side


@pytest.mark.parametrize(
    ("image_hw", "side", "expected"),
    [
        ((16, 20), 10.0, (32, 32)),
        ((32, 40), 10.0, (64, 64)),
        ((32, 40), 4.0, (64, 96)),
        ((120, 159), 40.0, (128, 160)),
        ((120, 159), 5.0, (256, 320)),
        ((120, 160), 10.0, (256, 320)),
    ],
)
def test_small_images_have_a_small_input(image_hw: HW, side: float, expected: HW) -> None:
    assert choose_input_size(InputSizeConfig(), [annotate(image_hw, [side])]) == expected


def test_the_input_is_limited_by_images_and_ignores_crowds() -> None:
    assert choose_input_size(InputSizeConfig(), [annotate((300, 300), [2.0])]) == (320, 320)
    assert choose_input_size(InputSizeConfig(), [annotate((640, 640), [4.0], crowd=True)]) == (320, 320)


@pytest.mark.parametrize("full", [(384, 640), (256, 320), (32, 32), (640, 96)])
@pytest.mark.parametrize("first", [0.3, 0.5, 0.7, 1.0])
def test_the_input_grows_during_the_run_to_its_full_size(full: HW, first: float) -> None:
    config = InputSizeConfig(first_input_size=first)
    inputs = [input_size_at(full, step, 500, config) for step in range(PLANNING_STEPS, 500)]
    assert inputs[-1] == full
    assert all(side % 32 == 0 and side > 0 for input_hw in inputs for side in input_hw)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(inputs))
    assert abs(inputs[0][1] - first * full[1]) <= 32
    if first == 1:
        assert set(inputs) == {full}


def test_planning_steps_use_both_sizes_whatever_the_run_length() -> None:
    config = InputSizeConfig(first_input_size=0.5)
    runs = [
        [input_size_at((384, 640), step, steps, config) for step in range(PLANNING_STEPS)] for steps in (20, 99, 5000)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert (runs[0][0], runs[0][-1]) == ((192, 320), (384, 640))


MULTI = InputSizeConfig(multi_scale=0.25)


def test_multi_scale_sizes_depend_on_seed_and_step_only() -> None:
    sizes = [input_size_at((256, 320), step, 500, MULTI, 7) for step in range(500)]
    assert sizes == [input_size_at((256, 320), step, 500, MULTI, 7) for step in reversed(range(500))][::-1]
    assert sizes != [input_size_at((256, 320), step, 500, MULTI, 8) for step in range(500)]


def test_multi_scale_draws_each_size_of_a_stage_equally_often() -> None:
    *_, last = input_stages((256, 320), MULTI)
    assert last.sizes == ((192, 256), (224, 288), (256, 320), (288, 352), (320, 384))
    drawn = Counter(input_size_at((256, 320), step, 10_000, MULTI, 0) for step in range(6_000, 10_000))
    assert set(drawn) == set(last.sizes)
    assert all(abs(count - 800) < 150 for count in drawn.values())
    early = {input_size_at((256, 320), step, 10_000, MULTI, 0) for step in range(PLANNING_STEPS, 3_000)}
    assert early == set(input_stages((256, 320), MULTI)[0].sizes)


def test_multi_scale_planning_steps_use_the_largest_size() -> None:
    sizes = [input_size_at((256, 320), step, 20, MULTI, 3) for step in range(PLANNING_STEPS)]
    assert sizes == [(128, 160)] * 14 + [(256, 320)] * 3 + [(320, 384)] * 3


def test_multi_scale_off_changes_nothing() -> None:
    stages = input_stages((256, 320), InputSizeConfig())
    assert [stage.sizes for stage in stages] == [((128, 160),), ((192, 256),), ((256, 320),)]


def test_multi_scale_without_effect_or_with_fixed_input_is_refused() -> None:
    check_multi_scale((256, 320), MULTI)
    with pytest.raises(ConfigError, match=r"multi_scale: 0\.01 does not change the input size of 320x256"):
        check_multi_scale((256, 320), InputSizeConfig(multi_scale=0.01))
    with pytest.raises(ConfigError, match="multi_scale"):
        without_resizing(Config(head="yolo_v1", cell_output="dense", multi_scale=0.2))
