from dataclasses import replace

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.config import Config
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose.examples import augmentation_examples, class_examples
from detector.errors import ImageError
from detector.letterbox import FILL
from detector.loader.dataset import DetectionDataset

TILE = 160


@pytest.fixture(scope="module")
def split() -> Split:
    full = scenes.read_split("val")
    return replace(full, annotations=full.annotations[:8])


def cut_into_tiles(grid: ImageArray) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the tiles of a grid image as an array [rows, columns, TILE, TILE, 3]."""
    return grid.reshape(grid.shape[0] // TILE, TILE, grid.shape[1] // TILE, TILE, 3).swapaxes(1, 2)


def test_classes_have_a_row_of_examples_or_an_empty_row(split: Split) -> None:
    counts = np.bincount(
        np.concatenate([annotation.class_ids for annotation in split.annotations]), minlength=len(split.class_names)
    )
    tiles = cut_into_tiles(class_examples(split, per_class=2))
    filled = (tiles != FILL).any(axis=(2, 3, 4))
    columns = filled.shape[1] // 2
    by_class = filled.reshape(-1, columns, 2).reshape(-1, 2).sum(axis=1)
    np.testing.assert_array_equal(by_class[: len(counts)], np.minimum(counts, 2))
    assert not by_class[len(counts) :].any()


def test_tiles_of_images_that_cannot_be_decoded_are_empty(split: Split) -> None:
    def broken(annotation: Annotation) -> ImageArray:
        raise ImageError(f"{annotation.image_path}: truncated")

    assert (class_examples(replace(split, read_image=broken)) == FILL).all()


def test_augmentation_examples_are_samples_of_the_run(split: Split) -> None:
    dataset = DetectionDataset(split, (256, 320), Config())
    grid = augmentation_examples(dataset, split.class_names, count=4)
    assert grid.shape == (512, 640, 3)
    sample = dataset.training_sample(0, 1).image
    # Boxes and class names cover less than half of the image.
    assert 0.5 < (grid[:256, :320] == sample).all(axis=2).mean() < 1
