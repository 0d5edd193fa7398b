from dataclasses import replace

import numpy as np
import pytest

from detector.arrays import ImageArray
from detector.detections import Detections
from detector.drawing import class_color

NAMES = ("cat", "a dog with a very long name")


def found(*boxes: tuple[float, float, float, float], class_ids: tuple[int, ...] = ()) -> Detections:
    n = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(n, 4),
        np.linspace(0.9, 0.3, n, dtype=np.float32),
        np.array(class_ids or [0] * n, np.int64),
        NAMES,
    )


def draw(image: ImageArray, detections: Detections) -> ImageArray:
    return detections.draw_on(image)


def gray(height: int, width: int) -> ImageArray:
    return np.full((height, width, 3), 40, dtype=np.uint8)


def test_drawing_no_detections_returns_an_unchanged_copy() -> None:
    image = gray(20, 30)
    drawn = draw(image, found())
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_drawing_does_not_change_the_image() -> None:
    image = gray(60, 80)
    draw(image, found((10, 20, 50, 50)))
    assert (image == 40).all()


def test_the_outline_is_inside_the_box_in_its_class_color() -> None:
    drawn = draw(gray(200, 200), found((40, 60, 120, 150)))
    for y, x in ((149, 80), (100, 40), (100, 119)):
        assert tuple(drawn[y, x]) == class_color(0)
    inside, below, right = drawn[65:145, 45:115], drawn[150:], drawn[:150, 120:]
    assert all((part == 40).all() for part in (inside, below, right))


@pytest.mark.parametrize(("box", "line"), [((1000, 1000, 1040, 1040), 4), ((100, 100, 2000, 2000), 12)])
def test_small_objects_in_large_images_get_thin_lines(box: tuple[float, float, float, float], line: int) -> None:
    drawn = draw(gray(2880, 2900), found(box))
    bottom, middle = int(box[3]), int(box[0] + box[2]) // 2
    is_line = (drawn[bottom - 20 : bottom, middle] == class_color(0)).all(axis=1)
    assert is_line.sum() == line


def test_the_best_of_equal_boxes_is_drawn_on_top() -> None:
    drawn = draw(gray(200, 200), found((40, 60, 120, 150), (40, 60, 120, 150), class_ids=(1, 0)))
    assert tuple(drawn[149, 80]) == class_color(1)


@pytest.mark.parametrize(
    "box", [(0, 0, 300, 200), (0, 0, 20, 20), (280, 0, 300, 20), (0, 180, 20, 200), (280, 180, 300, 200)]
)
def test_the_caption_is_always_completely_inside_the_image(box: tuple[float, float, float, float]) -> None:
    color = np.array(class_color(0))
    centered = draw(gray(200, 300), found((140, 90, 141, 91)))
    caption_area = (centered == color).all(axis=2).sum()
    drawn = draw(gray(200, 300), found(box))
    assert (drawn == color).all(axis=2).sum() >= caption_area


@pytest.mark.parametrize("hw", [(1, 1), (1, 200), (200, 1), (7, 5)])
def test_drawing_accepts_tiny_images_and_boxes_without_area(hw: tuple[int, int]) -> None:
    h, w = hw
    drawn = draw(gray(h, w), found((0, 0, w, h), (w, h, w, h), (0, 0, 0, 0), class_ids=(1, 1, 0)))
    assert drawn.shape == (h, w, 3)


def test_colors_of_consecutive_classes_are_clearly_different() -> None:
    colors = np.array([class_color(class_id) for class_id in range(80)])
    assert len({tuple(color) for color in colors.tolist()}) == 80
    for distance in (1, 2):
        assert (np.abs(colors[distance:] - colors[:-distance]).max(axis=1) > 60).all()


def test_captions_show_the_track_id_of_tracked_objects() -> None:
    untracked = found((40, 60, 120, 150))
    without_tracking, without_id, with_id = (
        draw(gray(200, 200), detections)
        for detections in (
            untracked,
            replace(untracked, track_ids=np.array([-1])),
            replace(untracked, track_ids=np.array([123])),
        )
    )
    np.testing.assert_array_equal(without_id, without_tracking)
    color = np.array(class_color(0))
    # The caption with a track id is wider.
    assert (with_id == color).all(axis=2).sum() > (without_tracking == color).all(axis=2).sum() + 100


def test_captions_do_not_cover_each_other_if_there_is_space() -> None:
    def caption_area(drawn: ImageArray, class_id: int) -> int:
        return int((drawn == class_color(class_id)).all(axis=2).sum())

    best, other = (40, 60, 140, 150), (42, 62, 142, 152)
    both = draw(gray(300, 300), found(best, other, class_ids=(0, 1)))
    assert caption_area(both, 0) > 0.9 * caption_area(draw(gray(300, 300), found(best, class_ids=(0,))), 0)
    assert caption_area(both, 1) > 0.9 * caption_area(draw(gray(300, 300), found(other, class_ids=(1,))), 1)
