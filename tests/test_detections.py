import numpy as np
import pytest

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
