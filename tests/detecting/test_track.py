import numpy as np
import pytest

from detector.detecting.track import Tracker
from detector.detections import Detections

pytest.importorskip("trackers")

RIGHT, LEFT = 0, 1
"""Class ids of the two objects in the simulated video: one moves to the right, the other moves to the left."""


def detections_at(frame: int, hidden: tuple[int, ...] = (), scores: tuple[float, float] = (0.9, 0.8)) -> Detections:
    """Return the detections of one frame: two objects move in opposite directions and overlap in the middle frames.

    Args:
        frame: number of the frame, 0..50.
        hidden: class ids of objects that are not detected.
        scores: scores of the objects by class id.
    """
    boxes = {RIGHT: (4 * frame, 20, 4 * frame + 30, 50), LEFT: (200 - 4 * frame, 45, 230 - 4 * frame, 75)}
    visible = [class_id for class_id in sorted(boxes, key=lambda class_id: -scores[class_id]) if class_id not in hidden]
    return Detections(
        np.array([boxes[class_id] for class_id in visible], np.float32).reshape(-1, 4),
        np.array([scores[class_id] for class_id in visible], np.float32),
        np.array(visible, np.int64),
        ("right", "left"),
    )


def ids_by_class(found: Detections) -> dict[int, int]:
    assert found.track_ids is not None
    assert found.track_ids.dtype == np.int64
    return dict(zip(found.class_ids.tolist(), found.track_ids.tolist(), strict=True))


def test_ids_survive_a_crossing_and_two_missed_frames() -> None:
    tracker = Tracker(25)
    ids = [ids_by_class(tracker.update(detections_at(k, hidden=(LEFT,) if k in (30, 31) else ()))) for k in range(50)]
    assert ids[0] == {RIGHT: -1, LEFT: -1}
    for frame, ids_in_frame in enumerate(ids[1:], 1):
        assert ids_in_frame == ({RIGHT: 1} if frame in (30, 31) else {RIGHT: 1, LEFT: 2})


def test_update_changes_only_the_track_ids() -> None:
    tracker = Tracker(25)
    for frame in range(6):
        before = detections_at(frame, scores=(0.9, 0.8) if frame % 2 else (0.7, 0.95))
        after = tracker.update(before)
        for field in ("boxes", "scores", "class_ids"):
            np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
        assert before.track_ids is None
        assert ids_by_class(after) == ({LEFT: 1, RIGHT: 2} if frame else {LEFT: -1, RIGHT: -1})


def test_a_low_score_continues_a_track_but_starts_none() -> None:
    tracker = Tracker(25)
    for frame in range(4):
        ids = ids_by_class(tracker.update(detections_at(frame, scores=(0.9, 0.3))))
    assert ids == {RIGHT: 1, LEFT: -1}
    assert ids_by_class(tracker.update(detections_at(4, scores=(0.3, 0.2)))) == {RIGHT: 1, LEFT: -1}


def test_a_lost_object_gets_a_new_id_after_a_second() -> None:
    tracker = Tracker(25)
    assert ids_by_class(tracker.update(detections_at(0, hidden=(RIGHT, LEFT)))) == {}
    for _ in range(3):
        assert set(ids_by_class(tracker.update(detections_at(5, hidden=(LEFT,))))) == {RIGHT}
    for _ in range(30):
        assert ids_by_class(tracker.update(detections_at(5, hidden=(RIGHT, LEFT)))) == {}
    ids = [ids_by_class(tracker.update(detections_at(5, hidden=(LEFT,)))) for _ in range(2)]
    assert ids == [{RIGHT: -1}, {RIGHT: 2}]


@pytest.mark.parametrize("frame_rate", [0.01, 1, 240])
def test_each_of_two_trackers_counts_from_one(frame_rate: float) -> None:
    trackers = Tracker(frame_rate), Tracker(frame_rate)
    for frame in range(3):
        ids = [ids_by_class(tracker.update(detections_at(frame))) for tracker in trackers]
    assert ids == [{RIGHT: 1, LEFT: 2}] * 2
