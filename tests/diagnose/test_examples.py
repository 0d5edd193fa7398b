from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.boxes import area
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.scenes import scenes
from detector.data.split import Split
from detector.diagnose.examples import augmentation_examples, class_examples, example_sheets
from detector.errors import ImageError
from detector.letterbox import FILL
from detector.loader.dataset import DetectionDataset

TILE, TEXT = 160, 26
"""Side of the image of a tile, and height of the two lines of text below it, in pixels."""


@pytest.fixture(scope="module")
def split() -> Split:
    full = scenes.read_split("val")
    return replace(full, annotations=full.annotations[:8])


def cut_into_tiles(grid: ImageArray) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the tiles of a grid image, without the text below them, as an array [rows, columns, TILE, TILE, 3]."""
    height = TILE + TEXT
    tiles = grid.reshape(grid.shape[0] // height, height, grid.shape[1] // TILE, TILE, 3).swapaxes(1, 2)
    return tiles[:, :, :TILE]


def test_classes_with_objects_have_a_row_of_examples(split: Split) -> None:
    counts = np.bincount(
        np.concatenate([annotation.class_ids for annotation in split.annotations]), minlength=len(split.class_names)
    )
    tiles = cut_into_tiles(class_examples(split, per_class=2))
    filled = (tiles != FILL).any(axis=(2, 3, 4))
    columns = filled.shape[1] // 2
    by_class = filled.reshape(-1, columns, 2).reshape(-1, 2).sum(axis=1)
    used = counts[counts > 0]
    np.testing.assert_array_equal(by_class[: len(used)], np.minimum(used, 2))
    assert not by_class[len(used) :].any()


def test_tiles_of_images_that_cannot_be_decoded_are_empty(split: Split) -> None:
    def broken(annotation: Annotation) -> ImageArray:
        raise ImageError(f"{annotation.image_path}: truncated")

    assert (cut_into_tiles(class_examples(replace(split, read_image=broken))) == FILL).all()


def test_sheets_show_small_large_overlapping_and_no_objects() -> None:
    image = np.full((300, 400, 3), 90, dtype=np.uint8)
    boxes = [[[10, 10, 20, 20]], [[50, 50, 350, 250]], [[100, 100, 200, 200], [110, 100, 210, 200]], []]
    annotations = []
    for i, image_boxes in enumerate(boxes):
        array = np.array(image_boxes, dtype=np.float32).reshape(-1, 4)
        n = len(array)
        objects = (array, np.zeros(n, np.int64), np.zeros(n, np.bool_), area(array))
        annotations.append(Annotation(i, Path(f"{i}.jpg"), (300, 400), *objects))
    split = Split("train", ("ant",), (1,), tuple(annotations), Ledger(used=4), lambda annotation: image)
    sheets = example_sheets(split)
    shapes = {name: sheet.shape[:2] for name, sheet in sheets.items()}
    assert shapes == {
        "background.jpg": (TILE + TEXT, TILE),
        "smallest-boxes.jpg": (TILE + TEXT, 4 * TILE),
        "largest-boxes.jpg": (TILE + TEXT, 4 * TILE),
        "overlapping-boxes.jpg": (TILE + TEXT, TILE),
    }
    # The first tile of the smallest boxes is the last tile of the largest boxes.
    smallest, largest = cut_into_tiles(sheets["smallest-boxes.jpg"]), cut_into_tiles(sheets["largest-boxes.jpg"])
    np.testing.assert_array_equal(smallest[0, 0], largest[0, 3])
    without = replace(split, annotations=split.annotations[:2])
    assert set(example_sheets(without)) == {"smallest-boxes.jpg", "largest-boxes.jpg"}


def test_augmentation_examples_are_samples_of_the_run(split: Split) -> None:
    dataset = DetectionDataset(split, (256, 320), Config())
    grid = augmentation_examples(dataset, split.class_names, count=4)
    assert grid.shape == (2 * (256 + 13), 640, 3)
    sample = dataset.training_sample(0, 1).image
    # Boxes and class names cover less than half of the image.
    assert 0.5 < (grid[:256, :320] == sample).all(axis=2).mean() < 1
