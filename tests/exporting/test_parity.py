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
    assert compare_detections([detections(rows)], [detections(rows)], 0.05) == Parity(1, 2, 0, 0.0, 0.0)


def test_inexact_exports_may_differ_but_only_slightly_more() -> None:
    certified = Parity(24, 100, 10, 9.0, 0.1)
    assert Parity(24, 100, 15, 9.0, 0.1).is_similar_to(certified)
    assert not Parity(24, 100, 16, 9.0, 0.1).is_similar_to(certified)
