"""Causes on constructed cases and on random predictions: right cause, exactly one, and settings that really help."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.analysis.counterfactuals import Setting, find_settings
from detector.analysis.counts import count_causes
from detector.analysis.false_positives import FalsePositiveKind, explain_false_positives
from detector.analysis.misses import Cause, Miss, explain_misses
from detector.analysis.outcome import ImagePredictions, Outcome, outcome_of
from detector.annotation import Annotation
from detector.boxes import area
from detector.letterbox import Letterbox
from detector.options import DetectOptions, SuppressionName
from detector.predict.postprocess import postprocess
from detector.runtime.base import PointPredictions

HW = (128, 160)
"""Size of the network input; images have the same size unless a test says another."""

Box = tuple[float, float, float, float]

A: Box = (20, 20, 60, 60)
A_AND_A_BIT: Box = (22, 20, 62, 60)  # IoU with A: 38 / 42
A_HALF: Box = (20, 20, 60, 38)  # IoU with A: 18 / 40
NEXT_TO_A: Box = (30, 20, 70, 60)  # IoU with A: 30 / 50
FAR: Box = (100, 80, 140, 120)


def predictions(*rows: tuple[Box, Sequence[float]], hw: tuple[int, int] = HW) -> ImagePredictions:
    """Return predictions in which each row is a grid point: a box in input pixels and the scores of both classes.

    There is one more point, with scores of 0.
    """
    rows = (*rows, ((150, 120, 155, 125), (0, 0)))
    boxes = np.array([box for box, _ in rows], dtype=np.float32)
    scores = np.array([scores for _, scores in rows], dtype=np.float32)
    return ImagePredictions(boxes, scores, Letterbox.fit(hw, HW))


def objects(*rows: tuple[Box, int], crowd: Sequence[int] = (), hw: tuple[int, int] = HW) -> Annotation:
    """Return an annotation of boxes with classes; `crowd` are the indices of the crowd regions."""
    boxes = np.array([box for box, _ in rows], dtype=np.float32).reshape(-1, 4)
    is_crowd = np.zeros(len(rows), dtype=np.bool_)
    is_crowd[list(crowd)] = True
    class_ids = np.array([class_id for _, class_id in rows], dtype=np.int64)
    return Annotation(1, Path("a.png"), hw, boxes, class_ids, is_crowd, area(boxes))


def resolved(**options: object) -> DetectOptions:
    return DetectOptions(**{"suppression": "classic", "class_agnostic": False} | options)  # type: ignore[arg-type]


def only_miss(predicted: ImagePredictions, truth: Annotation, options: DetectOptions | None = None) -> Miss:
    [miss] = explain_misses(predicted, truth, options or resolved())
    return miss


def settings_of(predicted: ImagePredictions, truth: Annotation, options: DetectOptions | None = None) -> list[str]:
    """Return the settings that find the only missed object, as text."""
    options = options or resolved()
    [found] = find_settings(predicted, truth, options, explain_misses(predicted, truth, options))
    return [str(setting) for setting in found]


# --- one constructed case per cause


def test_found_object_has_no_cause() -> None:
    assert explain_misses(predictions((A_AND_A_BIT, (0.9, 0))), objects((A, 0)), resolved()) == ()


def test_box_beyond_the_limit_is_cut() -> None:
    predicted = predictions((FAR, (0.9, 0)), (A, (0.8, 0)))
    truth = objects((A, 0), (FAR, 0))
    miss = only_miss(predicted, truth, resolved(max_detections=1))
    assert (miss.object, miss.cause, miss.rank) == (0, "max_det", 2)
    assert miss.prediction is not None
    assert miss.prediction.score == pytest.approx(0.8)
    assert settings_of(predicted, truth, resolved(max_detections=1)) == ["--max-det 2"]


@pytest.mark.parametrize("suppression", ["classic", "diou", "weighted"])
def test_box_that_nms_removes_is_suppressed(suppression: SuppressionName) -> None:
    predicted = predictions((A, (0.9, 0)), (NEXT_TO_A, (0.7, 0)))
    truth = objects((A, 0), ((32, 20, 72, 60), 0))  # 28 / 52 = 0.54 between A and the other object
    options = resolved(iou_threshold=0.5, suppression=suppression)
    miss = only_miss(predicted, truth, options)
    assert (miss.object, miss.cause) == (1, "suppressed")
    assert miss.prediction is not None
    assert miss.suppressor is not None
    assert miss.prediction.score == pytest.approx(0.7)
    assert miss.suppressor.box == A
    assert miss.suppressor.score == pytest.approx(0.9)
    assert miss.suppressor.iou == pytest.approx(30 / 50)
    assert settings_of(predicted, truth, options) == ["--iou 0.6"]


def test_soft_nms_that_lowers_a_score_suppresses() -> None:
    predicted = predictions((A, (0.9, 0)), (NEXT_TO_A, (0.4, 0)))
    truth = objects((A, 0), (NEXT_TO_A, 0))
    miss = only_miss(predicted, truth, resolved(suppression="soft"))
    assert (miss.object, miss.cause) == (1, "suppressed")
    assert settings_of(predicted, truth, resolved(suppression="soft")) == ["--conf 0.15"]  # 0.4 * exp(-0.72) = 0.195


def test_other_class_suppresses_only_in_class_agnostic_nms() -> None:
    predicted = predictions((A, (0, 0.9)), (A_AND_A_BIT, (0.6, 0)))
    truth = objects((A, 0), (A, 1))
    assert explain_misses(predicted, truth, resolved()) == ()
    miss = only_miss(predicted, truth, resolved(class_agnostic=True))
    assert (miss.object, miss.cause) == (0, "suppressed")
    assert miss.suppressor is not None
    assert miss.suppressor.class_id == 1


def test_detection_of_another_class_is_a_confusion() -> None:
    miss = only_miss(predictions((A, (0.2, 0.8))), objects((A, 0)))
    assert miss.cause == "confused"
    assert miss.prediction is not None
    assert miss.prediction.class_id == 1
    assert miss.prediction.iou == pytest.approx(1)
    assert settings_of(predictions((A, (0.2, 0.8))), objects((A, 0))) == []


def test_point_with_two_objects_gives_the_better_class() -> None:
    # The point is a detection of class 1, which finds an object, so the object of class 0 in the same place is missed.
    predicted, truth = predictions((A, (0.6, 0.8))), objects((A, 0), (A, 1))
    miss = only_miss(predicted, truth)
    assert (miss.object, miss.cause) == (0, "confused")
    assert explain_misses(predicted, truth, resolved(multi_label=True)) == ()


def test_detection_with_a_small_iou_is_badly_localized() -> None:
    miss = only_miss(predictions((A_HALF, (0.9, 0)), (A, (0.02, 0))), objects((A, 0)))
    assert miss.cause == "localization"
    assert miss.prediction is not None
    assert miss.prediction.iou == pytest.approx(18 / 40)


def test_right_box_with_a_low_score_is_below_the_threshold() -> None:
    predicted, truth = predictions((A, (0.18, 0.1)), ((20, 20, 34, 34), (0.3, 0))), objects((A, 0))
    miss = only_miss(predicted, truth)
    assert miss.cause == "threshold"
    assert miss.prediction is not None
    assert miss.prediction.score == pytest.approx(0.18)
    assert settings_of(predicted, truth) == ["--conf 0.15"]


def test_small_object_without_a_detection_is_too_small() -> None:
    small: Box = (20, 20, 27, 60)
    for row in (FAR, (0.9, 0)), (small, (0.1, 0)):
        miss = only_miss(predictions(row), objects((small, 0)))
        assert miss.cause == "too_small"
        assert miss.input_wh == pytest.approx((7, 40))
    large_cells = explain_misses(predictions(), objects((A, 0)), resolved(), stride=64)
    assert [miss.cause for miss in large_cells] == ["too_small"]


def test_small_object_with_a_confident_detection_is_confused() -> None:
    small: Box = (20, 20, 27, 60)
    assert only_miss(predictions((small, (0, 0.9))), objects((small, 0))).cause == "confused"


def test_object_size_is_that_at_the_network_input() -> None:
    hw = (512, 640)  # four times the input
    truth = objects(((80, 80, 108, 240), 0), hw=hw)
    miss = only_miss(predictions(hw=hw), truth)
    assert miss.cause == "too_small"
    assert miss.input_wh == pytest.approx((7, 40))


def test_object_without_any_response_has_no_prediction() -> None:
    for rows in [], [(FAR, (0.9, 0.9))], [(A, (0.005, 0.009))]:
        miss = only_miss(predictions(*rows), objects((A, 0)))
        assert (miss.cause, miss.prediction) == ("no_prediction", None)


def test_one_detection_cannot_find_two_objects() -> None:
    # The only box overlaps both objects, and finds the nearer one.
    miss = only_miss(predictions((A, (0.9, 0))), objects((A, 0), (A_AND_A_BIT, 0)))
    assert (miss.object, miss.cause) == (1, "no_prediction")


def test_box_nearer_to_another_object_is_no_response() -> None:
    predicted = predictions((NEXT_TO_A, (0, 0.9)))
    miss = only_miss(predicted, objects((A, 0), (NEXT_TO_A, 1)))
    assert (miss.object, miss.cause) == (0, "no_prediction")


def test_overlapping_box_nearer_to_another_object_is_not_its_localization() -> None:
    shifted: Box = (40, 20, 80, 60)  # IoU with A: 20 / 60
    first, second = explain_misses(predictions((shifted, (0.9, 0))), objects((A, 0), (shifted, 1)), resolved())
    assert (first.cause, second.cause) == ("no_prediction", "confused")


def test_detection_that_finds_an_object_is_no_response_to_another() -> None:
    # The detection of class 0 finds the object of class 0, although it overlaps the object of class 1 more.
    miss = only_miss(predictions((A, (0.9, 0))), objects((NEXT_TO_A, 0), (A_AND_A_BIT, 1)))
    assert (miss.object, miss.cause) == (1, "no_prediction")


def test_box_that_nms_averages_away_is_badly_localized() -> None:
    predicted = predictions((NEXT_TO_A, (0.5, 0)), ((40, 20, 80, 60), (0.5, 0)))  # the mean: (35, 20, 75, 60)
    assert explain_misses(predicted, objects((A, 0)), resolved(iou_threshold=0.5)) == ()
    miss = only_miss(predicted, objects((A, 0)), resolved(iou_threshold=0.5, suppression="weighted"))
    assert miss.cause == "localization"
    assert miss.prediction is not None
    assert miss.prediction.iou == pytest.approx(25 / 55)


def test_object_in_a_crowd_region_has_responses() -> None:
    truth = objects((A, 0), ((0, 0, 160, 128), 1), crowd=[1])
    assert only_miss(predictions((A_AND_A_BIT, (0.18, 0))), truth).cause == "threshold"


def test_object_is_found_from_the_match_iou_on() -> None:
    half = predictions(((20, 20, 60, 40), (0.9, 0)))  # the IoU is exactly 0.5
    assert explain_misses(half, objects((A, 0)), resolved()) == ()
    [miss] = explain_misses(half, objects((A, 0)), resolved(), min_iou=0.51)
    assert miss.cause == "localization"


def test_each_setting_is_tried_for_each_missed_object() -> None:
    other: Box = (32, 20, 72, 60)
    predicted = predictions((A, (0.9, 0)), (NEXT_TO_A, (0.7, 0)), ((34, 20, 74, 60), (0.18, 0)))
    truth, options = objects((A, 0), (FAR, 0), (other, 0)), resolved(iou_threshold=0.5)
    misses = explain_misses(predicted, truth, options)
    assert [miss.object for miss in misses] == [1, 2]
    never, both = find_settings(predicted, truth, options, misses)
    assert never == ()
    assert [str(setting) for setting in both] == ["--conf 0.15", "--iou 0.6"]


def test_crowd_regions_are_never_missed() -> None:
    assert explain_misses(predictions(), objects((A, 0), crowd=[0]), resolved()) == ()


def test_image_without_objects_has_no_misses() -> None:
    assert explain_misses(predictions((A, (0.9, 0))), objects(), resolved()) == ()


# --- false positives


def kinds(predicted: ImagePredictions, truth: Annotation) -> list[tuple[FalsePositiveKind, int | None]]:
    found = explain_false_positives(outcome_of(predicted, truth, resolved()), truth)
    return [(wrong.kind, wrong.nearest) for wrong in found]


@pytest.mark.parametrize(
    ("box", "scores", "expected"),
    [
        (NEXT_TO_A, (0.8, 0), ("duplicate", 0)),
        (A, (0, 0.8), ("confusion", 0)),
        (A_HALF, (0.8, 0), ("localization", 0)),
        (A_HALF, (0, 0.8), ("both", 0)),
        ((58, 58, 98, 98), (0.8, 0), ("background", 0)),
        (FAR, (0.8, 0), ("background", None)),
    ],
)
def test_each_kind_of_false_positive(
    box: Box, scores: tuple[float, float], expected: tuple[FalsePositiveKind, int | None]
) -> None:
    predicted = predictions((A, (0.9, 0)), (box, scores))
    assert kinds(predicted, objects((A, 0))) == [expected]


def test_detection_in_a_crowd_region_is_no_false_positive() -> None:
    predicted = predictions((A, (0.9, 0)), (NEXT_TO_A, (0.8, 0)))
    assert kinds(predicted, objects(((0, 0, 160, 128), 0), crowd=[0])) == []
    assert kinds(predicted, objects(((0, 0, 160, 128), 1), crowd=[0])) == [("background", None)] * 2


# --- random predictions

SUPPRESSIONS = get_args(SuppressionName)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[ImagePredictions, Annotation, DetectOptions]:
    """Random objects, and predictions near them and elsewhere, with thresholds that make every cause likely."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hw = draw(st.sampled_from([HW, (300, 500)]))
    count = draw(st.integers(0, 8))
    corners = rng.uniform(0, 0.8, size=(count, 2)) * (hw[1], hw[0])
    sizes = rng.uniform(3, 60, size=(count, 2)) * hw[0] / 128
    boxes = np.concatenate([corners, np.minimum(corners + sizes, (hw[1], hw[0]))], axis=1)
    rows = [
        (tuple(box), int(class_id)) for box, class_id in zip(boxes.tolist(), rng.integers(2, size=count), strict=True)
    ]
    truth = objects(*rows, crowd=list(np.flatnonzero(rng.random(count) < 0.15)), hw=hw)
    letterbox = Letterbox.fit(hw, HW)
    per_object = draw(st.sampled_from([0, 1, 4]))
    near = letterbox.to_input(truth.boxes[rng.integers(max(1, count), size=per_object * count)])
    near += rng.normal(0, draw(st.sampled_from([0, 1, 4])), size=near.shape).astype(np.float32)
    elsewhere = rng.uniform(-10, 128, size=(6, 4))
    elsewhere[:, 2:] += elsewhere[:, :2]
    predicted_boxes = np.concatenate([near, elsewhere]).astype(np.float32)
    scores = rng.choice([0, 0.004, 0.05, 0.2, 0.3, 0.6, 0.9], size=(len(predicted_boxes), 2)).astype(np.float32)
    options = resolved(
        suppression=draw(st.sampled_from(SUPPRESSIONS)),
        class_agnostic=draw(st.booleans()),
        multi_label=draw(st.booleans()),
        max_detections=draw(st.sampled_from([1, 2, 4, 300])),
        score_threshold=draw(st.sampled_from([0, 0.001, 0.25, 0.5])),
        iou_threshold=draw(st.sampled_from([0, 0.4, 0.6, 1])),
    )
    return ImagePredictions(predicted_boxes, scores, letterbox), truth, options


@given(scenes())
def test_causes_and_found_objects_add_up(scene: tuple[ImagePredictions, Annotation, DetectOptions]) -> None:
    predicted, truth, options = scene
    outcome = outcome_of(predicted, truth, options)
    misses = explain_misses(predicted, truth, options)
    is_object = ~truth.is_crowd
    missed = [miss.object for miss in misses]
    assert sorted({*missed}) == missed == np.flatnonzero(is_object & ~outcome.matches.found).tolist()
    wrong = explain_false_positives(outcome, truth)
    counts = count_causes(int(is_object.sum()), misses, wrong)
    assert set(counts.misses) == set(get_args(Cause))
    assert counts.found + sum(counts.misses.values()) == counts.objects == int(is_object.sum())
    assert counts.found == int((outcome.matches.objects >= 0).sum()) == int(outcome.matches.found.sum())
    ignored = int(outcome.matches.ignored.sum())
    assert counts.found + sum(counts.false_positives.values()) + ignored == len(outcome.scores)


@given(scenes())
def test_every_cause_states_a_fact_about_the_predictions(
    scene: tuple[ImagePredictions, Annotation, DetectOptions],
) -> None:
    predicted, truth, options = scene
    for miss in explain_misses(predicted, truth, options):
        response, class_id = miss.prediction, truth.class_ids[miss.object]
        if miss.cause in ("no_prediction", "too_small"):
            assert response is None or response.score <= options.lowest_threshold
            assert miss.cause != "too_small" or min(miss.input_wh) < 8
            continue
        assert response is not None
        assert (response.class_id != class_id) == (miss.cause == "confused")
        assert (response.iou < 0.5) == (miss.cause == "localization")
        if miss.cause == "threshold":
            assert response.score <= options.lowest_threshold
        if miss.cause in ("max_det", "suppressed"):
            assert miss.cause == "max_det" or response.score > options.lowest_threshold
        assert (miss.suppressor is not None) == (miss.cause == "suppressed")
        assert (miss.rank is not None) == (miss.cause == "max_det")
        if miss.rank is not None:
            assert miss.rank > options.max_detections


@given(scenes())
def test_outcome_is_that_of_the_detector(scene: tuple[ImagePredictions, Annotation, DetectOptions]) -> None:
    predicted, truth, options = scene
    raw = PointPredictions(predicted.boxes[None], predicted.scores[None])
    [detections] = postprocess(raw, [predicted.letterbox], ("a", "b"), options)
    outcome = outcome_of(predicted, truth, options)
    assert np.array_equal(outcome.boxes, detections.boxes)
    assert np.array_equal(outcome.scores, detections.scores)
    assert np.array_equal(outcome.class_ids, detections.class_ids)


@given(scenes())
def test_proposed_settings_really_find_the_object(scene: tuple[ImagePredictions, Annotation, DetectOptions]) -> None:
    predicted, truth, options = scene
    misses = explain_misses(predicted, truth, options)
    for miss, found in zip(misses, find_settings(predicted, truth, options, misses), strict=True):
        assert len({setting.name for setting in found}) == len(found)
        for setting in found:
            assert finds(predicted, truth, setting.apply(options), miss.object)
        if miss.cause == "max_det" and miss.rank is not None:
            # Without the limit, this object or another one for which the box is better is found.
            unlimited = Setting("max_det", 10_000).apply(options)
            before, after = outcome_of(predicted, truth, options), outcome_of(predicted, truth, unlimited)
            assert after.matches.found.sum() > before.matches.found.sum()


def finds(predicted: ImagePredictions, truth: Annotation, options: DetectOptions, index: int) -> bool:
    """Return whether the detections of the real post-processing find an object: a slow matching, in plain Python."""
    raw = PointPredictions(predicted.boxes[None], predicted.scores[None])
    [detections] = postprocess(raw, [predicted.letterbox], ("a", "b"), options)
    remaining = {number for number in range(len(truth.boxes)) if not truth.is_crowd[number]}
    for box, class_id in zip(detections.boxes.tolist(), detections.class_ids.tolist(), strict=True):
        best, best_iou = -1, 0.5
        for number in sorted(remaining):
            if truth.class_ids[number] == class_id and (overlap := iou(box, truth.boxes[number].tolist())) >= best_iou:
                best, best_iou = number, overlap
        remaining -= {best}
    return index not in remaining


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the IoU of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def test_all_causes_and_kinds_occur_in_random_scenes() -> None:
    seen: set[str] = set()

    @settings(max_examples=300)
    @given(scenes())
    def collect(scene: tuple[ImagePredictions, Annotation, DetectOptions]) -> None:
        predicted, truth, options = scene
        outcome: Outcome = outcome_of(predicted, truth, options)
        seen.update(miss.cause for miss in explain_misses(predicted, truth, options))
        seen.update(wrong.kind for wrong in explain_false_positives(outcome, truth))

    collect()
    assert seen >= {*get_args(Cause), *get_args(FalsePositiveKind)}
