import numpy as np
import pytest

from detector.detecting.track import Tracker
from detector.detections import Detections

pytest.importorskip("trackers")

RIGHT, LEFT = 0, 1
"""Classes of the two objects of the made-up video, by where they go."""


def found_in(frame: int, hidden: tuple[int, ...] = (), scores: tuple[float, float] = (0.9, 0.8)) -> Detections:
    """Two objects 30 wide that cross the image in 50 frames, one above the other, and meet in the middle."""
    boxes = {RIGHT: (4 * frame, 20, 4 * frame + 30, 50), LEFT: (200 - 4 * frame, 45, 230 - 4 * frame, 75)}
    shown = [thing for thing in sorted(boxes, key=lambda thing: -scores[thing]) if thing not in hidden]
    return Detections(
        np.array([boxes[thing] for thing in shown], np.float32).reshape(-1, 4),
        np.array([scores[thing] for thing in shown], np.float32),
        np.array(shown, np.int64),
        ("right", "left"),
    )


def ids_by_class(found: Detections) -> dict[int, int]:
    assert found.track_ids is not None
    assert found.track_ids.dtype == np.int64
    return dict(zip(found.class_ids.tolist(), found.track_ids.tolist(), strict=True))


def test_ids_stay_when_objects_cross_and_when_one_vanishes_for_two_frames() -> None:
    tracker = Tracker(25)
    answers = [ids_by_class(tracker.update(found_in(k, hidden=(LEFT,) if k in (30, 31) else ()))) for k in range(50)]
    assert answers[0] == {RIGHT: -1, LEFT: -1}
    for frame, answer in enumerate(answers[1:], 1):
        assert answer == ({RIGHT: 1} if frame in (30, 31) else {RIGHT: 1, LEFT: 2})


def test_nothing_but_the_ids_is_changed_whatever_the_order_of_scores() -> None:
    tracker = Tracker(25)
    for frame in range(6):
        before = found_in(frame, scores=(0.9, 0.8) if frame % 2 else (0.7, 0.95))
        after = tracker.update(before)
        for field in ("boxes", "scores", "class_ids"):
            np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
        assert before.track_ids is None
        assert frame == 0 or ids_by_class(after) == {LEFT: 1, RIGHT: 2}


def test_a_weak_detection_begins_no_track_but_carries_one_on() -> None:
    tracker = Tracker(25)
    for frame in range(4):
        weak = ids_by_class(tracker.update(found_in(frame, scores=(0.9, 0.3))))
    assert weak == {RIGHT: 1, LEFT: -1}
    assert ids_by_class(tracker.update(found_in(4, scores=(0.3, 0.2)))) == {RIGHT: 1, LEFT: -1}


def test_frames_without_objects_are_answered_and_a_lost_object_gets_a_new_number_after_a_second() -> None:
    tracker = Tracker(25)
    assert ids_by_class(tracker.update(found_in(0, hidden=(RIGHT, LEFT)))) == {}
    for _ in range(3):
        assert set(ids_by_class(tracker.update(found_in(5, hidden=(LEFT,))))) == {RIGHT}
    for _ in range(30):
        assert ids_by_class(tracker.update(found_in(5, hidden=(RIGHT, LEFT)))) == {}
    answers = [ids_by_class(tracker.update(found_in(5, hidden=(LEFT,)))) for _ in range(2)]
    assert answers == [{RIGHT: -1}, {RIGHT: 2}]


@pytest.mark.parametrize("frame_rate", [0.01, 1, 240])
def test_two_videos_at_once_each_count_from_one_at_any_rate(frame_rate: float) -> None:
    one, other = Tracker(frame_rate), Tracker(frame_rate)
    for frame in range(3):
        answers = [ids_by_class(tracker.update(found_in(frame))) for tracker in (one, other)]
    assert answers == [{RIGHT: 1, LEFT: 2}] * 2
