import numpy as np
import pytest

from detector.data.coordinates import look_like_corners, look_like_fractions
from detector.data.row_collector import Corners

Size = tuple[float, float]


def boxes(count: int, size: Size, largest: float, seed: int = 0) -> list[Corners]:
    """Return random boxes (x1, y1, x2, y2) inside an image; their sides are up to `largest` of the image sides."""
    rng = np.random.default_rng(seed)
    width, height = size
    w, h = rng.uniform(0.02, largest, (2, count)) * [[width], [height]]
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return [tuple(map(float, row)) for row in zip(x, y, x + w, y + h, strict=True)]  # type: ignore[misc]


def as_sizes(corners: list[Corners]) -> list[Corners]:
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]


def from_sizes(written: list[Corners]) -> list[Corners]:
    return [(x, y, x + w, y + h) for x, y, w, h in written]


@pytest.mark.parametrize("largest", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(5))
def test_correct_boxes_do_not_look_like_corners(largest: float, seed: int) -> None:
    correct = boxes(60, (640, 480), largest, seed)
    sizes = [(640.0, 480.0)] * 60
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in correct]
    assert not look_like_corners(as_sizes(correct), correct, sizes)
    assert not look_like_corners(as_sizes(correct), correct, sizes, areas)


@pytest.mark.parametrize("largest", [0.1, 0.5, 0.95])
def test_corners_written_as_sizes_are_recognized(largest: float) -> None:
    written = boxes(60, (640, 480), largest)
    assert look_like_corners(written, from_sizes(written), [(640.0, 480.0)] * 60)


def test_corners_near_the_origin_are_recognized_by_their_areas() -> None:
    written = boxes(30, (200, 200), 0.5)
    sizes = [(640.0, 480.0)] * 30
    assert not look_like_corners(written, from_sizes(written), sizes)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in written]
    assert look_like_corners(written, from_sizes(written), sizes, areas)


def test_a_single_impossible_corner_is_evidence_against_corners() -> None:
    written = [*boxes(60, (640, 480), 0.5), (300.0, 200.0, 50.0, 40.0)]
    assert not look_like_corners(written, from_sizes(written), [(640.0, 480.0)] * 61)


def test_fractions_are_recognized_and_tiny_pixel_boxes_are_not() -> None:
    assert look_like_fractions(boxes(5, (1, 1), 0.5))
    assert not look_like_fractions([(0, 0, 1, 1)] * 5)
    assert not look_like_fractions([(0.5, 0.5, 0.1, 0.1)])
    assert not look_like_fractions([*boxes(5, (1, 1), 0.5), (0.5, 0.5, 1.5, 0.5)])
