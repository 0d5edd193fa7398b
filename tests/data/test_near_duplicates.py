from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.boxes import area
from detector.data.near_duplicates import boxes_agree, original_name


def image_with(
    boxes: Sequence[Sequence[float]], class_ids: Sequence[int] = (), hw: tuple[int, int] = (100, 200), crowd: int = 0
) -> Annotation:
    """Return an annotation with the class ids, by default all 0; the last `crowd` boxes are crowd regions."""
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    ids = np.array(class_ids or [0] * len(array), dtype=np.int64)
    is_crowd = np.arange(len(array)) >= len(array) - crowd
    return Annotation(1, Path("a.jpg"), hw, array, ids, is_crowd, area(array))


ONE = [[10, 20, 50, 60]]
TWO = [[10, 20, 50, 60], [100, 30, 140, 90]]


def test_equal_boxes_agree_in_any_order() -> None:
    assert boxes_agree(image_with(TWO, [0, 1]), image_with(TWO[::-1], [1, 0]))


def test_boxes_of_a_scaled_copy_agree() -> None:
    half = [[5, 10, 25, 30]]
    assert boxes_agree(image_with(ONE), image_with(half, hw=(50, 100)))
    assert boxes_agree(image_with(half, hw=(50, 100)), image_with(ONE))


def test_boxes_of_a_flipped_copy_agree() -> None:
    assert boxes_agree(image_with(ONE), image_with([[150, 20, 190, 60]]))


def test_tiny_boxes_agree_despite_rounding() -> None:
    assert boxes_agree(image_with([[10, 20, 13, 23]]), image_with([[11, 20, 13, 24]]))


def test_moved_boxes_do_not_agree() -> None:
    assert not boxes_agree(image_with(ONE), image_with([[20, 20, 60, 60]]))
    assert not boxes_agree(image_with(ONE), image_with([[20, 25, 60, 65]]))


def test_other_classes_do_not_agree() -> None:
    assert not boxes_agree(image_with(ONE, [0]), image_with(ONE, [1]))
    assert not boxes_agree(image_with(TWO, [0, 1]), image_with(TWO, [1, 0]))


def test_a_missing_box_does_not_agree() -> None:
    assert not boxes_agree(image_with(TWO), image_with(ONE))
    assert not boxes_agree(image_with([]), image_with(ONE))


def test_two_boxes_never_match_the_same_box() -> None:
    assert not boxes_agree(image_with([*ONE, *ONE]), image_with(TWO))


def test_overlapping_boxes_match_their_own_partner() -> None:
    near = [[10, 20, 110, 60], [18, 20, 118, 60], [26, 20, 126, 60]]
    assert boxes_agree(image_with(near), image_with(near[::-1]))


def test_crowd_regions_do_not_matter() -> None:
    assert boxes_agree(image_with(TWO, crowd=1), image_with(ONE))


def test_images_without_objects_agree() -> None:
    assert boxes_agree(image_with([]), image_with([]))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("train/images/a_jpg.rf.d41d8cd98f00b204e9800998ecf8427e.jpg", "a_jpg"),
        ("a.b_png.rf.0aF.png", "a.b_png"),
        ("a.jpg", None),
        ("a.rf.jpg", None),
        ("rf.abc.jpg", None),
        (".rf.abc.jpg", None),
    ],
)
def test_name_of_original_is_before_the_hash(path: str, name: str | None) -> None:
    assert original_name(Path(path)) == name
