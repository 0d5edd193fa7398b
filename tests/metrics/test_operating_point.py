"""Thresholds on constructed detections, against a slow search, and what they give."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from detector.errors import ConfigError
from detector.metrics.matches import Matches, match_detections
from detector.metrics.operating_point import Choice, Goal, choose_points, measure

LOWEST = 0.01


def matches_of(scores: Sequence[tuple[float, bool]], objects: int) -> Matches:
    """Return the matches of detections of one class: score and whether it is correct; each object has an image."""
    truth = {
        "images": [{"id": number} for number in range(objects + len(scores))],
        "categories": [{"id": 7}],
        "annotations": [
            {"image_id": number, "category_id": 7, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0}
            for number in range(objects)
        ],
    }
    free = iter(range(objects))
    rows = [
        {
            "image_id": next(free) if correct else objects + index,
            "category_id": 7,
            "bbox": [0, 0, 50, 50],
            "score": score,
        }
        for index, (score, correct) in enumerate(scores)
    ]
    return match_detections(truth, rows, iou_thresholds=(0.5,))


TEN = [(0.9, True), (0.8, True), (0.7, False), (0.6, True), (0.5, True), (0.4, False), (0.3, False), (0.2, True)]


def choose(goal: Goal, scores: Sequence[tuple[float, bool]] = TEN, objects: int = 6) -> Choice:
    [choice] = choose_points(matches_of(scores, objects), goal, LOWEST)
    return choice


@pytest.mark.parametrize(
    ("goal", "threshold", "precision", "recall"),
    [
        (Goal(min_precision=0.95), 0.75, 1, 2 / 6),
        (Goal(min_precision=0.8), 0.45, 4 / 5, 4 / 6),
        (Goal(min_precision=0.6), 0.105, 5 / 8, 5 / 6),
        (Goal(min_recall=0.5), 0.45, 4 / 5, 4 / 6),
        (Goal(min_recall=0.3), 0.75, 1, 2 / 6),
        (Goal(min_recall=5 / 6), 0.105, 5 / 8, 5 / 6),
        (Goal(), 0.45, 4 / 5, 4 / 6),
    ],
    ids=str,
)
def test_threshold_is_the_best_that_reaches_the_goal(
    goal: Goal, threshold: float, precision: float, recall: float
) -> None:
    point = choose(goal).point
    assert point is not None
    assert point.threshold == pytest.approx(threshold)
    assert (point.precision, point.recall) == pytest.approx((precision, recall))
    assert point.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_goal_that_cannot_be_reached_names_what_can() -> None:
    assert choose(Goal(min_recall=0.9)) == Choice(
        None, "not reachable; the highest is recall 0.833, with precision 0.625"
    )
    best_is_wrong = [(0.9, False), (0.8, True), (0.7, True)]
    assert choose(Goal(min_precision=0.9), best_is_wrong, 4) == Choice(
        None, "not reachable; the highest is precision 0.667, with recall 0.500"
    )


def test_class_without_objects_or_correct_detections_has_no_threshold() -> None:
    for goal in (Goal(), Goal(min_precision=0.5), Goal(min_recall=0.5)):
        assert choose(goal, [(0.9, False)], 0) == Choice(None, "there are no such objects")
        assert choose(goal, [(0.9, False)], 3) == Choice(None, "no detection is correct")
        assert choose(goal, [], 3) == Choice(None, "no detection is correct")


def test_equal_scores_are_kept_or_removed_together() -> None:
    point = choose(Goal(min_precision=0.9), [(0.9, True), (0.5, True), (0.5, False), (0.2, False)], 2).point
    assert point is not None
    assert point.threshold == pytest.approx(0.7)
    assert point.recall == 0.5


def kept(matches: Matches, category: int | None, threshold: float) -> tuple[float, float, float]:
    """Return precision, recall and F1 above a threshold, counted one by one; category None: of all classes."""
    hits = found = 0
    for index, score in enumerate(matches.scores.tolist()):
        if category in (None, int(matches.category[index])) and not matches.ignored[0, 0, index] and score > threshold:
            found += 1
            hits += int(matches.true_positive[0, 0, index])
    objects = sum(
        category in (None, int(own)) and not ignored
        for own, ignored in zip(matches.object_category, matches.object_ignored[0], strict=True)
    )
    return hits / max(found, 1), hits / max(objects, 1), 2 * hits / max(found + objects, 1)


@pytest.mark.parametrize("per_class", [True, False])
def test_no_other_threshold_is_better(random_coco: Callable[..., Any], per_class: bool) -> None:
    reached = 0
    for seed in range(3):
        matches = match_detections(*random_coco(seed), iou_thresholds=(0.5,))
        tried = [LOWEST, *matches.scores.tolist()]
        for goal in (
            Goal(per_class=per_class),
            Goal(min_precision=0.6, per_class=per_class),
            Goal(min_recall=0.5, per_class=per_class),
        ):
            for category, choice in enumerate(choose_points(matches, goal, LOWEST)):
                own = category if per_class else None
                rows = [kept(matches, own, threshold) for threshold in tried]
                allowed = [
                    row for row in rows if row[0] >= (goal.min_precision or 0) and row[1] >= (goal.min_recall or 0)
                ]
                column = 1 if goal.min_precision else 0 if goal.min_recall else 2
                best = max((row[column] for row in allowed), default=0.0)
                if choice.point is None:
                    assert best == 0
                    continue
                reached += 1
                result = kept(matches, own, choice.point.threshold)
                assert result == pytest.approx((choice.point.precision, choice.point.recall, choice.point.f1))
                assert result[column] == pytest.approx(best)
    assert reached > 15


def test_measured_values_are_those_of_a_count(random_coco: Callable[..., Any]) -> None:
    truth, rows = random_coco(3, images=60)
    matches = match_detections(truth, rows, iou_thresholds=(0.5,))
    with_objects = np.unique(matches.object_category).tolist()
    assert len(with_objects) == 3
    for categories in (with_objects[:1], with_objects[1:2], list(range(len(matches.category_ids)))):
        reached = measure(matches, categories)
        expected = kept(matches, categories[0] if len(categories) == 1 else None, -1)
        assert list(reached.values.values()) == pytest.approx(expected)
        for name, value in reached.values.items():
            interval = reached.intervals[name]
            assert interval is not None
            assert 0 <= interval.low < value < interval.high <= 1


def test_interval_of_precision_is_as_wide_as_that_of_a_fraction() -> None:
    scores = [(0.5, number % 4 > 0) for number in range(400)]  # one detection in each image
    interval = measure(matches_of(scores, 300), [0]).intervals["precision"]
    assert interval is not None
    assert (interval.low + interval.high) / 2 == pytest.approx(0.75, abs=0.01)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * np.sqrt(0.75 * 0.25 / 400), rel=0.1)


def test_values_without_detections_or_objects_are_undefined() -> None:
    nothing = measure(matches_of([], 3), [0])
    assert nothing.values == {"precision": -1, "recall": 0, "F1": -1}
    assert nothing.intervals == {"precision": None, "recall": None, "F1": None}
    assert measure(matches_of([(0.5, False)], 0), [0]).values == {"precision": 0, "recall": -1, "F1": -1}
    assert measure(matches_of([(0.5, True)], 1), [0]).values == {"precision": 1, "recall": 1, "F1": 1}


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_goal_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="min_precision: expected a number above 0 and at most 1"):
        Goal(min_precision=value)
    with pytest.raises(ConfigError, match="min_recall: expected a number above 0 and at most 1"):
        Goal(min_recall=value)


def test_two_goals_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="give only one of them"):
        Goal(min_precision=0.9, min_recall=0.9)
