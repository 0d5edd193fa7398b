"""Confusion matrix, error budget, calibration curve, precision and recall, and groups of objects: right values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.metrics.average_precision import average_precision
from detector.metrics.calibration import calibration_of_matches
from detector.metrics.confusion import Confusion, confusion
from detector.metrics.error_budget import ERROR_KINDS, ErrorBudget, error_budget
from detector.metrics.matches import Matches, match_detections
from detector.metrics.object_groups import object_groups
from detector.metrics.precision_recall import class_curves, threshold_curve

Coco = tuple[dict[str, Any], list[dict[str, Any]]]
Box = list[float]


def coco(objects: list[tuple[int, int, Box]], found: list[tuple[int, int, Box, float]], images: int = 1) -> Coco:
    """Return data with the classes 1 and 2, from (image, class, box) and (image, class, box, score)."""
    truth = {
        "images": [{"id": image, "width": 100, "height": 100} for image in range(images)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i + 1, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
            for i, (image, category, box) in enumerate(objects)
        ],
    }
    rows = [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in found]
    return truth, rows


ONE: Box = [10, 10, 20, 20]
TWO: Box = [50, 50, 20, 20]
SHIFTED: Box = [18, 10, 20, 20]
"""Its IoU with ONE is 12/28."""
AWAY: Box = [75, 5, 10, 10]


def budget(objects: list[tuple[int, int, Box]], found: list[tuple[int, int, Box, float]]) -> ErrorBudget:
    truth, rows = coco(objects, found)
    return error_budget(match_detections(truth, rows), truth, rows)


def confused(
    objects: list[tuple[int, int, Box]], found: list[tuple[int, int, Box, float]], threshold: float = 0.5
) -> Confusion:
    truth, rows = coco(objects, found)
    return confusion(match_detections(truth, rows), truth, rows, threshold)


def test_confusion_matrix_counts_each_outcome_once() -> None:
    objects = [(0, 1, ONE), (0, 1, TWO), (0, 2, [50.0, 10, 20, 20])]
    found = [(0, 1, ONE, 0.9), (0, 2, TWO, 0.8), (0, 2, AWAY, 0.7), (0, 1, TWO, 0.4)]
    assert confused(objects, found).matrix.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert confused(objects, found, 0.3).matrix.tolist() == [[2, 0, 0], [0, 0, 1], [0, 2, 0]]


def test_second_detection_of_an_object_is_background() -> None:
    found = [(0, 1, ONE, 0.9), (0, 1, ONE, 0.8), (0, 2, ONE, 0.7)]
    assert confused([(0, 1, ONE)], found).matrix.tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 0]]


def test_crowd_regions_are_not_in_the_confusion_matrix() -> None:
    truth, rows = coco([(0, 1, ONE)], [(0, 1, ONE, 0.9)])
    truth["annotations"][0]["iscrowd"] = 1
    assert not confusion(match_detections(truth, rows), truth, rows, 0.5).matrix.any()


@pytest.mark.parametrize("seed", range(3))
def test_confusion_matrix_has_all_objects_and_detections(random_coco: Callable[..., Coco], seed: int) -> None:
    truth, rows = random_coco(seed)
    matches = match_detections(truth, rows)
    matrix = confusion(matches, truth, rows, 0.4).matrix
    counted = (matches.scores >= 0.4) & ~matches.ignored[0, 0]
    assert matrix[:-1].sum() == (~matches.object_ignored[0]).sum()
    assert matrix[:, :-1].sum() == counted.sum()
    assert np.trace(matrix) == (counted & matches.true_positive[0, 0]).sum()
    assert matrix[-1, -1] == 0


@pytest.mark.parametrize(
    ("kind", "objects", "found", "gain"),
    [
        ("class", [(0, 1, ONE), (0, 2, TWO)], [(0, 2, ONE, 0.9), (0, 2, TWO, 0.8)], 0.75),
        ("localization", [(0, 1, ONE)], [(0, 1, SHIFTED, 0.9)], 1.0),
        ("duplicate", [(0, 1, ONE), (0, 1, TWO)], [(0, 1, ONE, 0.9), (0, 1, ONE, 0.8), (0, 1, TWO, 0.7)], None),
        ("background", [(0, 1, ONE)], [(0, 1, AWAY, 0.9), (0, 1, ONE, 0.8)], 0.5),
        ("missed", [(0, 1, ONE), (0, 1, TWO)], [(0, 1, ONE, 0.9)], 50 / 101),
    ],
)
def test_fixing_one_error_gives_the_expected_gain(
    kind: str, objects: list[tuple[int, int, Box]], found: list[tuple[int, int, Box, float]], gain: float | None
) -> None:
    result = budget(objects, found)
    assert {name: count for name, count in result.counts.items() if count} == {kind: 1}
    if gain is None:  # the precision is 1 up to a recall of 0.5, and 2/3 above
        gain = 50 / 101 * (1 - 2 / 3)
    assert result.gains[kind] == pytest.approx(gain)  # type: ignore[index]
    assert all(own == 0 for name, own in result.gains.items() if name != kind)
    truth, rows = coco(objects, found)
    assert pytest.approx(average_precision(truth, rows).AP50) == result.AP50


def test_an_object_with_both_errors_is_missed_too() -> None:
    result = budget([(0, 1, ONE), (0, 2, TWO)], [(0, 2, SHIFTED, 0.9), (0, 2, TWO, 0.8)])
    assert {name: count for name, count in result.counts.items() if count} == {"both": 1, "missed": 1}
    assert {name: gain for name, gain in result.gains.items() if gain} == {"both": 0.25, "missed": 0.5}


TIDE = {
    0: (0.01623, 0.12452, 0.02229, 0.07165, 0.09624, 0.00414, 0.43387, 0.04068),
    1: (0.01207, 0.11060, 0.03228, 0.07280, 0.08515, 0.00000, 0.35271, 0.03810),
    2: (0.02829, 0.13950, 0.01713, 0.06928, 0.07393, 0.00628, 0.36968, 0.05955),
}
"""Seed of random data → the gains that hotcoco 1.3.0 computes (`tide_errors`), in the order of `ERROR_KINDS`; then
those of all false positives and of all missed objects."""


@pytest.mark.parametrize("seed", TIDE)
def test_error_budget_equals_the_tide_of_another_program(random_coco: Callable[..., Coco], seed: int) -> None:
    truth, rows = random_coco(seed, ties=False, crowd=0.0)
    result = error_budget(match_detections(truth, rows), truth, rows)
    gains = [*(result.gains[kind] for kind in ERROR_KINDS), result.false_positives, result.false_negatives]
    assert gains == pytest.approx(TIDE[seed], abs=1e-5)
    assert pytest.approx(average_precision(truth, rows).AP50) == result.AP50


def test_expected_calibration_error_by_hand() -> None:
    found = [(0, 1, ONE, 0.94), (0, 1, AWAY, 0.98), (0, 2, AWAY, 0.31), (0, 2, TWO, 0.01)]
    truth, rows = coco([(0, 1, ONE), (0, 2, TWO)], found)
    curve = calibration_of_matches(match_detections(truth, rows))
    assert curve is not None
    assert curve.counts.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]  # the score 0.01 is too low to count
    assert curve.precision[14] == 0.5
    assert curve.confidence[14] == pytest.approx(0.96)
    assert curve.ece == pytest.approx((0.31 + 2 * 0.46) / 3)


def test_calibration_of_scores_that_are_no_probabilities_is_undefined() -> None:
    truth, rows = coco([(0, 1, ONE)], [(0, 1, ONE, 7.5)])
    assert calibration_of_matches(match_detections(truth, rows)) is None
    assert len(threshold_curve(match_detections(truth, rows)).thresholds) == 99


def test_threshold_curve_agrees_with_counting() -> None:
    found = [(0, 1, ONE, 0.9), (0, 1, AWAY, 0.6), (0, 2, TWO, 0.5)]
    truth, rows = coco([(0, 1, ONE), (0, 2, TWO), (0, 2, [0.0, 80, 9, 9])], found)
    curve = threshold_curve(match_detections(truth, rows))
    at = {round(float(t), 2): i for i, t in enumerate(curve.thresholds)}
    assert [curve.precision[at[t]] for t in (0.5, 0.55, 0.7, 0.95)] == pytest.approx([2 / 3, 1 / 2, 1, -1])
    assert [curve.recall[at[t]] for t in (0.5, 0.55, 0.7, 0.95)] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0])
    assert curve.best == at[0.5]


@pytest.mark.parametrize("seed", range(2))
def test_mean_of_a_class_curve_is_its_ap50(random_coco: Callable[..., Coco], seed: int) -> None:
    truth, rows = random_coco(seed)
    per_class = average_precision(truth, rows).per_class
    curves = class_curves(match_detections(truth, rows))
    for curve, own in zip(curves, per_class.values(), strict=True):
        assert (-1 if curve is None else curve.mean()) == pytest.approx(own["AP50"])


def empty(objects: bool, found: bool) -> tuple[Coco, Matches]:
    truth, rows = coco([(0, 1, ONE)] * objects, [(0, 1, ONE, 0.9)] * found)
    return (truth, rows), match_detections(truth, rows)


@pytest.mark.parametrize(("objects", "found"), [(False, False), (True, False), (False, True)])
def test_numbers_without_objects_or_detections(objects: bool, found: bool) -> None:
    (truth, rows), matches = empty(objects, found)
    assert confusion(matches, truth, rows, 0.5).matrix.sum() == objects + found
    result = error_budget(matches, truth, rows)
    assert (result.AP50, result.gains["missed"]) == ((0, 1) if objects else (-1, -1))
    curve = calibration_of_matches(matches)
    assert curve is not None
    assert curve.ece == pytest.approx(0.9 if found else -1)
    assert threshold_curve(matches).best is None
    assert [curve is None for curve in class_curves(matches)] == [not objects, True]
    assert sum(group.objects for group in object_groups(matches, truth, 0.5)["size"]) == objects


def test_objects_are_in_the_right_groups() -> None:
    boxes: list[Box] = [[0, 40, 10, 10], [40, 40, 20, 20], [42, 40, 20, 20], [60, 80, 30, 7]]
    truth, rows = coco([(0, 1, box) for box in boxes], [(0, 1, boxes[0], 0.9), (0, 1, boxes[3], 0.2)])
    groups = object_groups(match_detections(truth, rows), truth, 0.5)
    table = {kind: {g.name: (g.objects, g.found) for g in own if g.objects} for kind, own in groups.items()}
    assert table == {
        "size": {"below 16 px": (2, 1), "16 to 32 px": (2, 0)},
        "aspect ratio": {"2:3 to 3:2": (3, 1), "from 3:1": (1, 0)},
        "crowding": {"no overlap": (2, 1), "IoU from 0.3": (2, 0)},
        "position": {"touches the edge": (1, 1), "outer part": (1, 0), "center": (2, 0)},
    }
