import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageFont

from detector.arrays import ImageArray
from detector.detections import Detections
from detector.drawing import class_color, drawable_name
from detector.errors import ConfigError
from detector.fonts import layout_text, split_runs
from detector.options import DrawOptions

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


def named(*names: str) -> Detections:
    """Return one object per name, in boxes of 100 x 40 pixels below each other."""
    boxes = np.array([[10, 40 + 60 * row, 110, 80 + 60 * row] for row in range(len(names))], np.float32)
    return Detections(boxes, np.linspace(0.9, 0.5, len(names), dtype=np.float32), np.arange(len(names)), names)


needs_font = pytest.mark.skipif(split_runs("äЖ") is None, reason="this machine has no font with Cyrillic letters")


@needs_font
@pytest.mark.parametrize("text", ["äöüßéñ", "ЭритоцЖ", "αβγδ"])
def test_letters_beyond_ascii_are_drawn_differently(text: str) -> None:
    if split_runs(text) is None:
        pytest.skip("this machine has no font with these letters")
    # Without glyphs, each letter is drawn as the same sign for a missing character.
    drawn = {draw(gray(100, 200), named(letter)).tobytes() for letter in text}
    assert len(drawn) == len(text)


def test_each_word_is_drawn_with_a_font_that_has_its_letters() -> None:
    runs = split_runs("ab Größe Эб 红细胞 خلية")
    if runs is None:
        pytest.skip("this machine has no font with one of these words")
    assert "".join(text for text, _ in runs) == "ab Größe Эб 红细胞 خلية"
    for text, path in runs:
        font = ImageFont.truetype(path, 40) if path else ImageFont.load_default(40)
        missing = bytes(font.getmask("\uffff"))
        assert all(bytes(font.getmask(letter)) != missing for letter in text.replace(" ", ""))


def test_names_without_a_font_are_drawn_as_class_ids(caplog: pytest.LogCaptureFixture) -> None:
    cuneiform = "\U00012000\U00012001"
    if split_runs(cuneiform) is not None:
        pytest.skip("this machine has a font with cuneiform")
    caplog.set_level(logging.WARNING)
    image = gray(300, 300)
    first = draw(image, named("cat", cuneiform, cuneiform + "!"))
    np.testing.assert_array_equal(first, draw(image, named("cat", "class 1", "class 2")))
    draw(image, named(cuneiform))
    warnings = [record for record in caplog.records if "no font on this machine" in record.message]
    assert len(warnings) <= 1  # one per process: an earlier test may have caused it


def test_names_are_drawn_on_one_line_without_control_characters() -> None:
    assert drawable_name("red\nblood \t cell\x1b[31m\u202e", 0) == "red blood cell [31m"
    assert drawable_name(" \n", 3) == "class 3"
    assert drawable_name("plain", 0) == "plain"


def test_hidden_labels_leave_only_the_boxes() -> None:
    drawn = named("cat").draw(gray(200, 200), with_labels=False)
    is_line = (np.array(drawn) == class_color(0)).all(axis=2)
    expected = np.zeros((200, 200), dtype=np.bool_)
    expected[40:80, 10:110] = True
    expected[41:79, 11:109] = False
    np.testing.assert_array_equal(is_line, expected)


@pytest.mark.parametrize("width", [1, 5])
def test_line_width_is_the_number_of_pixels(width: int) -> None:
    drawn = named("cat").draw_on(gray(200, 200), DrawOptions(line_width=width))
    assert (drawn[60, :60] == class_color(0)).all(axis=1).sum() == width


@pytest.mark.parametrize("width", [0, -1, 1.5, True])
def test_an_invalid_line_width_is_an_error(width: object) -> None:
    with pytest.raises(ConfigError, match="line_width: expected a whole number of at least 1"):
        named("cat").draw(gray(50, 50), line_width=width)  # type: ignore[arg-type]


LONG = "a name that is much wider than the image, whatever the font is, because it never ends"


@pytest.mark.parametrize("hw", [(48, 64), (200, 200), (1100, 1100)])
def test_a_caption_is_shortened_to_the_width_of_the_image(hw: tuple[int, int]) -> None:
    drawn = draw(gray(*hw), named(LONG * 3))
    assert drawn.shape == (*hw, 3)
    is_background = (drawn == class_color(0)).all(axis=2)
    assert is_background.any(axis=0).sum() > 0.6 * hw[1]
    # Text that was cut off would end at the edge, without the background around it.
    edge = drawn[:, -2:]
    assert ((edge == 40).all(axis=2) | is_background[:, -2:]).all()


def test_a_legend_replaces_names_that_would_cover_the_image() -> None:
    image = gray(60, 80)
    many = found((2, 2, 30, 30), (40, 2, 70, 30), (2, 30, 30, 55), class_ids=(0, 1, 0))
    drawn = np.array(many.draw(image))
    assert drawn.shape[0] > 60
    assert drawn.shape[1] >= 80
    np.testing.assert_array_equal(drawn[59, 71:80], image[59, 71:80])
    legend = drawn[60:]
    for class_id in (0, 1):
        assert (legend == class_color(class_id)).all(axis=2).sum() >= 100
    assert many.draw_on(image).shape == image.shape  # as the frames of a video need it
    assert many.draw(image, with_labels=False).size == (80, 60)


def test_there_is_no_legend_if_the_captions_fit() -> None:
    image = gray(480, 640)
    assert named("cat", "dog", "mouse").draw(image).size == (640, 480)
    assert found().draw(gray(5, 5)).size == (5, 5)


def test_a_legend_has_the_width_of_its_longest_name() -> None:
    drawn = named(LONG * 3).draw(gray(40, 40))
    assert 100 < drawn.width < 500
    assert drawn.height < 100


def test_fonts_are_read_once_per_size() -> None:
    before = layout_text("cat 0.50", 12)
    assert layout_text("cat 0.50", 12) is before
