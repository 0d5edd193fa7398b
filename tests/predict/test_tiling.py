import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.arrays import Floats
from detector.detections import Detections
from detector.errors import ConfigError
from detector.graph.metadata import warn_once
from detector.options import DetectOptions
from detector.predict.tiling import View, merge_views, views_of

INPUT_HW = (64, 96)
NAMES = ("cat", "dog")
WHOLE = View((0, 0, 300, 100))
LEFT, RIGHT = View((0, 0, 180, 100)), View((120, 0, 300, 100))
"""Two tiles that both show the columns from 120 to 180."""

Object = tuple[tuple[float, float, float, float], int, float]
"""A box (x1, y1, x2, y2) in image pixels, a class id and a score."""


def found(*objects: Object) -> Detections:
    ranked = sorted(objects, key=lambda one: -one[2])
    boxes = np.array([box for box, _, _ in ranked], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in ranked], np.float32)
    return Detections(boxes, scores, np.array([class_id for _, class_id, _ in ranked], np.int64), NAMES)


def merged(views: list[View], detections: list[Detections], **options: object) -> list[Object]:
    """Merge the detections of views; all boxes, also those of the result, are in image pixels."""
    in_views = [
        replace(of_view, boxes=of_view.boxes - np.array(view.sides[:2] * 2, np.float32))
        for view, of_view in zip(views, detections, strict=True)
    ]
    values = {"iou_threshold": 0.6, "max_detections": 300, "class_agnostic": False} | options
    result = merge_views(views, in_views, DetectOptions(**values))  # type: ignore[arg-type]
    rows = zip(result.boxes.tolist(), result.class_ids.tolist(), result.scores.tolist(), strict=True)
    return [(tuple(box), class_id, round(score, 4)) for box, class_id, score in rows]


@given(
    # These ranges give at most 9,000 tiles; more than 10,000 are refused.
    image_hw=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    input_hw=st.sampled_from([(64, 96), (96, 64), (320, 320), (32, 320)]),
    tile=st.integers(40, 400),
    overlap=st.floats(0, 0.75),
)
def test_tiles_cover_the_image_with_the_requested_overlap(
    image_hw: tuple[int, int], input_hw: tuple[int, int], tile: int, overlap: float
) -> None:
    height, width = image_hw
    options = DetectOptions(tile=tile, tile_overlap=overlap)
    first, *tiles = [view.sides for view in views_of(image_hw, input_hw, options)]
    assert first == (0, 0, width, height)
    tile_h, tile_w = (max(1, round(tile * side / max(input_hw))) for side in input_hw)
    if not tiles:
        assert height <= tile_h
        assert width <= tile_w
        return
    size = (min(tile_w, width), min(tile_h, height))
    assert {(right - left, bottom - top) for left, top, right, bottom in tiles} == {size}
    assert len(set(tiles)) == len(tiles)
    for axis, length in ((0, width), (1, height)):
        starts = sorted({sides[axis] for sides in tiles})
        assert starts[0] == 0
        assert starts[-1] == length - size[axis]
        # The overlap is at most the size minus one: tiles are at least one pixel apart.
        overlaps = [one + size[axis] - other for one, other in itertools.pairwise(starts)]
        assert all(pixels >= min(size[axis] * overlap - 1e-6, size[axis] - 1) for pixels in overlaps)
        # There are no more tiles than needed: one tile less could not cover the image at the largest allowed step.
        step = max(1, int(size[axis] * (1 - overlap)))
        assert (len(starts) - 2) * step < max(1, length - size[axis])
    assert {(left, top) for left, top, _, _ in tiles} == {(a, b) for a, _, _, _ in tiles for _, b, _, _ in tiles}


def test_flipped_views_follow_the_unflipped_ones() -> None:
    plain = views_of((150, 150), INPUT_HW, DetectOptions(tile=100))
    both = views_of((150, 150), INPUT_HW, DetectOptions(tile=100, tta=True))
    assert both == plain + [View(view.sides, flipped=True) for view in plain]
    assert views_of((150, 150), INPUT_HW, DetectOptions()) == [View((0, 0, 150, 150))]


def test_too_many_tiles_are_refused() -> None:
    assert len(views_of((6400, 9600), INPUT_HW, DetectOptions(tile=96, tile_overlap=0.0))) == 10_001
    message = "an image of 9601 x 6400 pixels would need 10100 tiles of 96 x 64, more than 10000"
    with pytest.raises(ConfigError, match=message):
        views_of((6400, 9601), INPUT_HW, DetectOptions(tile=96, tile_overlap=0.0))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("sides", [(0, 0, 200, 120), (37, 11, 133, 75), (60, 5, 150, 118), (10, 30, 141, 61)])
def test_boxes_of_a_view_are_mapped_to_the_image(sides: tuple[int, int, int, int], flipped: bool) -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    image[40:56, 70:102] = 255
    before = image.copy()
    view = View(sides, flipped)
    letterbox, letterboxed = view.letterbox(image, INPUT_HW)
    assert letterboxed.shape == (*INPUT_HW, 3)
    ys, xs = np.nonzero(letterboxed[:, :, 0] > 127)
    box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    in_image = view.to_image(letterbox.to_image(box))
    np.testing.assert_allclose(in_image, [[70, 40, 102, 56]], atol=1 / min(letterbox.scale_xy))
    assert np.array_equal(image, before)
    assert (view.to_image(letterbox.to_image(np.array([[-9, -9, 999, 999]], np.float32))) == sides).all()


def test_flipped_view_is_the_flipped_input() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3)).astype(np.uint8)
    (_, plain), (_, flipped) = (View((3, 4, 60, 50), flag).letterbox(image, INPUT_HW) for flag in (False, True))
    assert np.array_equal(plain[:, ::-1], flipped)


def test_detections_of_a_single_view_are_unchanged() -> None:
    only = found(((0, 0, 50, 50), 0, 0.9), ((0, 0, 50, 49), 0, 0.8))
    assert merge_views([WHOLE], [only], DetectOptions(max_detections=1, class_agnostic=False)) is only


def test_object_cut_by_a_tile_comes_from_the_next_tile() -> None:
    complete, part = ((130, 20, 220, 80), 0, 0.7), ((131, 20, 180, 80), 0, 0.9)
    views = [WHOLE, LEFT, RIGHT]
    assert merged(views, [found(), found(part), found(complete)]) == [complete]
    assert merged(views, [found(), found(part), found()]) == []  # the next tile shows the complete box, but finds none


def test_partial_object_larger_than_the_overlap_is_kept() -> None:
    part = ((90, 20, 180, 80), 0, 0.9)
    assert merged([WHOLE, LEFT, RIGHT], [found(), found(part), found()]) == [part]


def test_parts_of_an_object_larger_than_the_overlap_are_removed() -> None:
    whole, left, right = ((30, 10, 270, 90), 0, 0.6), ((31, 10, 180, 90), 0, 0.9), ((120, 11, 268, 90), 0, 0.5)
    views = [WHOLE, LEFT, RIGHT]
    assert merged(views, [found(whole), found(left), found(right)]) == [whole]
    # Another class, too low a score of the larger box, or less than 70 % inside it: the parts stay.
    for other in (((30, 10, 270, 90), 1, 0.6), ((30, 10, 270, 90), 0, 0.1), ((100, 10, 290, 60), 0, 0.6)):
        kept = merged(views, [found(other), found(left), found(right)], iou_threshold=0.9)
        assert {left, right} <= set(kept)
    agnostic = merged(views, [found(((30, 10, 270, 90), 1, 0.6)), found(left), found(right)], class_agnostic=True)
    assert len(agnostic) == 1


def test_small_object_inside_a_larger_one_stays_if_a_tile_shows_both() -> None:
    large, small, cut = ((30, 5, 170, 95), 0, 0.9), ((60, 40, 90, 70), 0, 0.4), ((150, 40, 180, 70), 0, 0.4)
    views = [WHOLE, LEFT, View((120, 50, 300, 100))]
    assert merged(views, [found(large), found(small, cut), found()]) == [large, small, cut]
    wider = ((30, 5, 270, 95), 0, 0.9)  # an edge of the tile cuts it, so both others may be its parts
    assert merged(views, [found(wider), found(small, cut), found()]) == [wider]


def test_a_part_that_ends_inside_its_tile_needs_a_better_larger_box() -> None:
    large, better, worse = ((30, 5, 270, 95), 0, 0.6), ((60, 40, 90, 70), 0, 0.7), ((100, 40, 130, 70), 0, 0.5)
    assert merged([WHOLE, LEFT, RIGHT], [found(large), found(better, worse), found()]) == [better, large]


def test_small_boxes_of_the_whole_image_give_way_to_tiles() -> None:
    small, large, at_edge = ((20, 20, 40, 40), 0, 0.9), ((20, 20, 60, 60), 0, 0.8), ((170, 20, 190, 40), 0, 0.7)
    views = [WHOLE, View((0, 0, 180, 100)), View((180, 0, 300, 100))]
    # `large` has more than a tenth of the width of 300, and no tile shows `at_edge` completely.
    assert merged(views, [found(small, large, at_edge), found(), found()]) == [large, at_edge]


def test_more_objects_than_allowed_cause_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    caplog.set_level(logging.WARNING)
    objects = [((10.0 * i, 50.0, 10.0 * i + 9, 90.0), 0, round(0.9 - i / 100, 2)) for i in range(5)]
    views = [WHOLE, LEFT, RIGHT]
    assert len(merged(views, [found(), found(*objects), found()], max_detections=5)) == 5
    assert not caplog.records
    for _ in range(2):
        assert merged(views, [found(), found(*objects), found()], max_detections=3) == objects[:3]
    [record] = caplog.records
    assert "more than 3 objects" in record.message
    assert "--max-det" in record.message


def test_object_larger_than_a_tile_comes_from_the_whole_image() -> None:
    large = ((20, 5, 290, 95), 1, 0.8)
    assert merged([WHOLE, LEFT, RIGHT], [found(large), found(), found()]) == [large]


def test_box_at_the_image_edge_is_not_partial() -> None:
    views = [View((0, 0, 300, 200)), View((0, 0, 180, 120)), View((0, 80, 180, 200))]
    at_image_edge, at_tile_edge = ((0, 90, 50, 110), 0, 0.9), ((100, 100, 180, 119), 0, 0.8)
    assert merged(views, [found(), found(at_image_edge), found()]) == [at_image_edge]
    assert merged(views, [found(), found(at_tile_edge), found()]) == []


def test_object_in_two_tiles_becomes_one_mean_box() -> None:
    one, other = ((130, 20, 170, 60), 0, 0.75), ((134, 20, 170, 60), 0, 0.25)
    views = [WHOLE, LEFT, RIGHT]
    assert merged(views, [found(), found(one), found(other)]) == [((131, 20, 170, 60), 0, 0.75)]
    dog = (other[0], 1, 0.25)
    assert merged(views, [found(), found(one), found(dog)]) == [one, dog]
    assert len(merged(views, [found(), found(one), found(dog)], class_agnostic=True)) == 1
    assert merged(views, [found(), found(one), found(other)], iou_threshold=0.95) == [one, other]
    assert merged(views, [found(), found(one), found(dog)], max_detections=1) == [one]


def test_flipped_views_of_a_tile_count_as_one_tile() -> None:
    part = ((131, 20, 180, 80), 0, 0.9)
    views = [WHOLE, LEFT, replace(WHOLE, flipped=True), replace(LEFT, flipped=True)]
    assert merged(views, [found(), found(part), found(), found()]) == [part]


tile_sides = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(20, 40), st.integers(20, 40))


@given(st.lists(tile_sides, max_size=5), st.integers(0, 10_000))
def test_removed_boxes_match_a_simple_reference(corners: list[tuple[int, int, int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    views = [View((0, 0, 100, 100)), *(View((x, y, x + w, y + h)) for x, y, w, h in corners)]
    views = list(dict.fromkeys(views))

    def some_boxes(view: View) -> Floats:
        left, top, right, bottom = view.sides
        axes = (left, right), (top, bottom)
        sides = [[np.sort(rng.choice(range(a, b + 1), 2, replace=False)) for _ in range(4)] for a, b in axes]
        return np.stack(sides, axis=2).reshape(4, 4).astype(np.float32)

    boxes = [some_boxes(view) for view in views]
    scores = [np.sort(rng.random(4).astype(np.float32))[::-1] for _ in views]

    def ends_at_edge(box: tuple[float, ...], view: View) -> bool:
        left, top, right, bottom = view.sides
        margin = 0.015 * max(right - left, bottom - top)
        return (
            (left > 0 and abs(box[0] - left) < margin)
            or (top > 0 and abs(box[1] - top) < margin)
            or (right < 100 and abs(right - box[2]) < margin)
            or (bottom < 100 and abs(bottom - box[3]) < margin)
        )

    def is_inside(box: tuple[float, ...], view: View) -> bool:
        left, top, right, bottom = view.sides
        return box[0] >= left and box[1] >= top and box[2] <= right and box[3] <= bottom

    def size(box: tuple[float, ...]) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        return max(0, width) * max(0, height)

    found_boxes = [
        (tuple(box), score, view)
        for view, of_view, of_scores in zip(views, boxes, scores, strict=True)
        for box, score in zip(of_view.tolist(), of_scores.tolist(), strict=True)
    ]
    remaining = []
    for box, score, view in found_boxes:
        others = [tile for tile in views[1:] if tile is not view]
        if view is views[0]:
            is_small = max(box[2] - box[0], box[3] - box[1]) < 10
            removed = is_small and any(is_inside(box, tile) and not ends_at_edge(box, tile) for tile in others)
        else:
            removed = ends_at_edge(box, view) and any(is_inside(box, tile) for tile in others)
        if not removed:
            remaining.append((box, score, view))

    def is_part_of(box: tuple[float, ...], score: float, view: View, larger: tuple[float, ...], other: float) -> bool:
        if size(larger) <= size(box) or overlap(box, larger) < 0.7 * size(box):
            return False
        return other >= 0.5 * score if ends_at_edge(box, view) else other >= score and not is_inside(larger, view)

    expected = sorted(
        (box, score)
        for box, score, view in remaining
        if view is views[0] or not any(is_part_of(box, score, view, larger, other) for larger, other, _ in remaining)
    )
    in_views = [
        Detections(of_view - np.array(view.sides[:2] * 2, np.float32), of_scores, np.zeros(4, np.int64), NAMES)
        for view, of_view, of_scores in zip(views, boxes, scores, strict=True)
    ]
    result = merge_views(views, in_views, DetectOptions(iou_threshold=1.0, class_agnostic=False))
    rows = zip(result.boxes.tolist(), result.scores.tolist(), strict=True)
    assert sorted((tuple(box), score) for box, score in rows) == expected
