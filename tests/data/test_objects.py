from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.data.ledger import Ledger, LedgerEntry
from detector.data.objects import check_has_objects, has_objects
from detector.errors import LabelError

BACKGROUND = Annotation(
    1,
    Path("a.png"),
    (10, 10),
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.int64),
    np.zeros(0, bool),
    np.zeros(0, np.float32),
)
CROWD = replace(
    BACKGROUND,
    boxes=np.array([[1, 1, 5, 5]], np.float32),
    class_ids=np.array([0]),
    is_crowd=np.array([True]),
    areas=np.array([16], np.float32),
)
OBJECT = replace(CROWD, is_crowd=np.array([False]))


def test_only_boxes_that_are_not_crowd_regions_are_objects() -> None:
    assert has_objects([BACKGROUND, CROWD, OBJECT])
    assert not has_objects([BACKGROUND, CROWD])
    check_has_objects([OBJECT], Ledger(used=1), "train")


def test_empty_label_files_are_named_as_the_cause() -> None:
    with pytest.raises(LabelError, match=r"'train': no object to learn from: no label .* its 2 images: .* empty"):
        check_has_objects([BACKGROUND, BACKGROUND], Ledger(background=2), "train")


@pytest.mark.parametrize(("count", "text"), [(1, "the only box is marked"), (3, "all 3 boxes are marked")])
def test_crowd_regions_are_named_as_the_cause(count: int, text: str) -> None:
    with pytest.raises(LabelError, match=f"no object to learn from: {text} .*iscrowd.*difficult"):
        check_has_objects([CROWD] * count, Ledger(used=count, crowd=count), "train")


def test_dropped_rows_are_named_as_the_cause() -> None:
    ledger = Ledger(entries=(LedgerEntry("no_area", Path("a.txt"), 3, "0 wide"),))
    with pytest.raises(LabelError, match=r"a\.txt:3: dropped: 0 wide"):
        check_has_objects([BACKGROUND], ledger, "train")
