"""Tests of `points_from_detections`: each detection of a graph with NMS becomes one point."""

import numpy as np
import pytest

from detector.options import DetectOptions
from detector.runtime.base import points_from_detections

BOX = np.array([[1, 2, 3, 4]], dtype=np.float32)
NONE = (BOX[:0], np.zeros(0, np.float32), np.zeros(0, np.int64))


def test_each_detection_becomes_a_point_of_one_class() -> None:
    two = (np.concatenate([BOX, BOX + 1]), np.array([0.9, 0.4], np.float32), np.array([2, 0]))
    points = points_from_detections([two, NONE], 3, DetectOptions())
    np.testing.assert_array_equal(points.boxes[0], two[0])
    np.testing.assert_array_equal(points.scores[0], np.array([[0, 0, 0.9], [0.4, 0, 0]], np.float32))
    assert points.boxes.shape == (2, 2, 4)
    assert not points.scores[1].any()
    assert points.nms == DetectOptions()


def test_no_detections_become_no_points() -> None:
    assert points_from_detections([NONE], 3, DetectOptions()).scores.shape == (1, 0, 3)


@pytest.mark.parametrize("class_id", [-1, 3])
def test_class_id_out_of_range_is_an_error(class_id: int) -> None:
    with pytest.raises(ValueError, match=r"class ids \[1\] below 3 .* got .* class ids \["):
        points_from_detections([(BOX, np.ones(1, np.float32), np.array([class_id]))], 3, DetectOptions())
