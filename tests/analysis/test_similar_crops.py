import numpy as np
import pytest

from detector.analysis.similar_crops import CropIndex, box_features
from detector.arrays import Floats


def maps(seed: int = 0) -> list[Floats]:
    """Return feature maps at strides 8 and 16 of an input of 64 x 96 pixels, with 3 and 2 channels."""
    rng = np.random.default_rng(seed)
    return [rng.random((3, 8, 12)).astype(np.float32), rng.random((2, 4, 6)).astype(np.float32)]


def test_features_are_means_over_the_cells_of_a_box() -> None:
    fine, coarse = maps()
    [features] = box_features([fine, coarse], np.array([[18, 9, 45, 29]], np.float32), (64, 96))
    assert features[:3] == pytest.approx(fine[:, 1:4, 2:6].mean(axis=(1, 2)))
    assert features[3:] == pytest.approx(coarse[:, 0:2, 1:3].mean(axis=(1, 2)))


@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (95, 63, 96, 64), (-20, -20, -5, -5), (90, 60, 120, 90), (40, 40, 40, 40)]
)
def test_small_boxes_and_boxes_at_the_edge_have_features(box: tuple[float, ...]) -> None:
    features = box_features(maps(), np.array([box], np.float32), (64, 96))
    assert features.shape == (1, 5)
    assert np.isfinite(features).all()


def test_no_boxes_have_no_features() -> None:
    assert box_features(maps(), np.zeros((0, 4), np.float32), (64, 96)).shape == (0, 5)


def test_most_similar_object_is_the_object_itself() -> None:
    rng = np.random.default_rng(1)
    features = rng.random((20, 6)).astype(np.float32) * (1, 1, 100, 1, 1, 0.01) + np.float32(50)
    index = CropIndex(features.astype(np.float32))
    for row, best in enumerate(index.most_similar(features[:5].astype(np.float32), 3)):
        assert best[0].row == row
        assert best[0].similarity == pytest.approx(1, abs=1e-4)
        assert len(best) == 3
        assert best[0].similarity >= best[1].similarity >= best[2].similarity >= -1


def test_index_of_one_object_or_of_equal_objects_works() -> None:
    same = np.ones((1, 4), np.float32)
    for count in (1, 3):
        [best] = CropIndex(same.repeat(count, axis=0)).most_similar(2 * same, 5)
        assert len(best) == count
        assert all(np.isfinite(similar.similarity) for similar in best)
