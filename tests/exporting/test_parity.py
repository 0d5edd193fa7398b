import numpy as np
import pytest

from detector.detections import Detections
from detector.exporting.parity import Parity, compare_detections, match

NAMES = ("a", "b")


def detections(rows: list[tuple[float, float, float, float, float, int]]) -> Detections:
    """Return the rows (x1, y1, x2, y2, score, class id) as detections."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES)


def test_detections_are_matched_one_to_one_within_their_class() -> None:
    a = detections([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.7, 1)])
    b = detections([(0, 0, 10, 11, 0.9, 0), (50, 50, 60, 60, 0.7, 0), (1, 0, 10, 10, 0.6, 0)])
    assert match(a, b) == [(0, 0), (1, 2)]
    parity = compare_detections([a], [b], 0.05)
    assert (parity.unmatched, parity.box) == (2, 1)
    assert parity.score == pytest.approx(0.2)


def test_detections_just_above_the_threshold_need_no_match() -> None:
    faint, none = detections([(0, 0, 10, 10, 0.055, 0)]), detections([])
    assert compare_detections([faint], [none], 0.05).unmatched == 0
    assert compare_detections([none], [faint], 0.05).unmatched == 0
    assert compare_detections([detections([(0, 0, 10, 10, 0.07, 0)])], [none], 0.05).unmatched == 1
    assert compare_detections([none], [none], 0.05).is_within_rounding


def test_equal_detections_have_no_difference() -> None:
    rows: list[tuple[float, float, float, float, float, int]] = [(0, 0, 10, 10, 0.9, 0), (5, 0, 15, 10, 0.8, 0)]
    assert compare_detections([detections(rows)], [detections(rows)], 0.05) == Parity(1, 2, 0, 0.0, 0.0, 4, 0)


def parity(unmatched: int = 0, confident: int = 0, confident_unmatched: int = 0) -> Parity:
    """Return the differences of 100 detections in 24 images."""
    return Parity(24, 100, unmatched, 9.0, 0.1, confident, confident_unmatched)


def test_nothing_is_stated_about_boxes_that_nothing_matched() -> None:
    one, none = detections([(0, 0, 10, 10, 0.9, 0)]), detections([])
    assert str(compare_detections([one], [none], 0.05)) == "1 detection in 1 image: 1 unmatched"
    assert str(compare_detections([one], [one], 0.05)).endswith("0 unmatched, boxes within 0 px, scores within 0")


def test_agreement_counts_confident_detections_of_both_sides() -> None:
    a = detections([(0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.5, 0), (50, 50, 60, 60, 0.255, 1)])
    b = detections([(0, 0, 10, 10, 0.8, 0), (70, 0, 80, 10, 0.6, 1), (20, 0, 30, 10, 0.2, 0)])
    found = compare_detections([a, a], [b, b], 0.05)
    # Per image, 5 scores are above 0.25. Two of these have no match: 0.5 (its match has only 0.2) and 0.6.
    assert (found.confident, found.confident_unmatched) == (10, 4)
    assert found.agreement == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("confident", "unmatched", "agrees"),
    [(0, 0, None), (39, 0, None), (40, 1, True), (40, 2, False), (1000, 40, True), (1000, 41, False)],
)
def test_agreement_below_96_percent_is_too_small(confident: int, unmatched: int, agrees: bool | None) -> None:
    assert parity(0, confident, unmatched).agrees is agrees


def test_inexact_exports_may_differ_but_only_slightly_more() -> None:
    certified, same = parity(10), parity(5)
    assert parity(15).is_similar_to(certified)
    assert not parity(16).is_similar_to(certified)
    # The same int8 export on another machine has the same sums, whatever its differences from the weights are.
    assert same.is_within_int8_rounding
    assert not parity(6).is_within_int8_rounding
