import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.detections import Detections
from detector.errors import InputError


def make(n: int = 2, scores: tuple[float, ...] = (0.9, 0.5), class_ids: tuple[int, ...] = (1, 0)) -> Detections:
    boxes = np.arange(4 * n, dtype=np.float32).reshape(n, 4)
    return Detections(boxes, np.array(scores, np.float32), np.array(class_ids, np.int64), ("cat", "dog"))


def test_iterating_gives_name_score_and_box_best_first() -> None:
    found = make()
    assert len(found) == 2
    assert [(name, box.tolist()) for name, _, box in found] == [("dog", [0, 1, 2, 3]), ("cat", [4, 5, 6, 7])]
    assert [score for _, score, _ in found] == pytest.approx([0.9, 0.5])


def test_nothing_found_is_an_answer() -> None:
    found = make(0, (), ())
    assert len(found) == 0
    assert list(found) == []


def test_equal_scores_are_in_order() -> None:
    assert len(make(scores=(0.5, 0.5))) == 2


@pytest.mark.parametrize(
    ("n", "scores", "class_ids", "message"),
    [
        (3, (0.9, 0.5), (1, 0), "do not fit"),
        (2, (0.9, 0.5), (1,), "do not fit"),
        (0, (0.9,), (1,), "do not fit"),
        (2, (0.9, 0.5), (1, 2), r"0\.\.1"),
        (2, (0.9, 0.5), (-1, 0), r"0\.\.1"),
        (2, (0.5, 0.9), (1, 0), "sorted by score"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    n: int, scores: tuple[float, ...], class_ids: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(n, scores, class_ids)


NAMES = ("cat", "dog")


def tracked(scores: list[float], track_ids: list[int] | None) -> Detections:
    n = len(scores)
    return Detections(
        (np.arange(4 * n).reshape(n, 4) / 3).astype(np.float32),
        np.array(sorted(scores, reverse=True), np.float32),
        np.arange(n, dtype=np.int64) % 2,
        NAMES,
        None if track_ids is None else np.array(track_ids, np.int64),
    )


@pytest.mark.parametrize(("track_ids", "message"), [([1], "do not fit"), ([1, -2], "-1, for none")])
def test_track_ids_that_do_not_fit_are_refused(track_ids: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tracked([0.9, 0.5], track_ids)


def test_objects_that_nobody_followed_have_no_track_ids() -> None:
    assert make().track_ids is None
    assert tracked([0.9, 0.5], [-1, 7]).track_ids is not None


@given(scores=st.lists(st.floats(0, 1, width=32), max_size=6), is_tracked=st.booleans())
def test_to_supervision_and_back_changes_nothing(scores: list[float], is_tracked: bool) -> None:
    pytest.importorskip("supervision")
    found = tracked(scores, [index - 1 for index in range(len(scores))] if is_tracked else None)
    theirs = found.to_supervision()
    assert theirs.data["class_name"].tolist() == [name for name, _, _ in found]
    back = Detections.from_supervision(theirs, NAMES)
    for field in ("boxes", "scores", "class_ids", "track_ids"):
        one, other = getattr(found, field), getattr(back, field)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert back.class_names == found.class_names


def test_what_others_found_is_sorted_and_may_lack_names() -> None:
    supervision = pytest.importorskip("supervision")
    theirs = supervision.Detections(
        xyxy=np.array([[0, 0, 1, 1], [2, 2, 3, 3]], float),
        confidence=np.array([0.2, 0.8]),
        class_id=np.array([0, 1]),
        tracker_id=np.array([5, 6]),
    )
    found = Detections.from_supervision(theirs, NAMES)
    assert [name for name, _, _ in found] == ["dog", "cat"]
    assert found.boxes.tolist() == [[2, 2, 3, 3], [0, 0, 1, 1]]
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [6, 5]
    assert len(Detections.from_supervision(supervision.Detections.empty(), NAMES)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": None}, "need scores and classes"),
        ({"class_id": None}, "need scores and classes"),
        ({"class_id": np.array([0, 2])}, "0..1"),
        ({"data": {"class_name": np.array(["cat", "cow"])}}, "called 'cow' there and 'dog'"),
    ],
)
def test_what_others_found_must_have_our_classes_and_scores(changes: dict[str, object], message: str) -> None:
    supervision = pytest.importorskip("supervision")
    fields = {"xyxy": np.zeros((2, 4)), "confidence": np.array([0.9, 0.8]), "class_id": np.array([0, 1])}
    with pytest.raises(InputError, match=re.escape(message)):
        Detections.from_supervision(supervision.Detections(**fields | changes), NAMES)
