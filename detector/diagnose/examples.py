"""Creates images for visual inspection: example objects of each class, and augmented training samples."""

from collections.abc import Sequence

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Floats, ImageArray, Ints
from detector.data.split import Split, evenly_spaced
from detector.detections import Detections
from detector.errors import InputError
from detector.letterbox import FILL, letterbox_image
from detector.loader.dataset import DetectionDataset

_TILE_SIDE = 160
"""Side of the square tile that shows one object, in pixels."""


def class_examples(split: Split, per_class: int = 4) -> ImageArray:
    """Return an image [H, W, 3] that shows up to `per_class` objects of each class, evenly spaced in the split.

    Each object has a tile with its surroundings, its box and its class name. Each class has one row of tiles. With many
    classes, the rows of several classes are side by side. If an image cannot be decoded, the tile stays empty.
    """
    by_class: list[list[tuple[Annotation, int]]] = [[] for _ in split.class_names]
    for annotation in split.annotations:
        for row in np.flatnonzero(~annotation.is_crowd):
            by_class[annotation.class_ids[row]].append((annotation, int(row)))
    rows = []
    for objects in by_class:
        tiles = [_object_tile(split, annotation, row) for annotation, row in evenly_spaced(objects, per_class)]
        rows.append(_arrange_in_grid([*tiles, *[_empty_tile()] * (per_class - len(tiles))], per_class))
    return _arrange_in_grid(rows, columns=max(1, round((len(rows) / per_class) ** 0.5)))


def augmentation_examples(
    dataset: DetectionDataset, class_names: tuple[str, ...], count: int = 16, epochs: float = 1.0
) -> ImageArray:
    """Return an image [H, W, 3] that shows augmented training samples with their boxes in a grid.

    Args:
        dataset: the dataset that provides the samples.
        class_names: names of the classes of the dataset.
        count: number of samples.
        epochs: length of the training run; the samples are evenly spaced over the run.
    """
    tiles = []
    for position in np.linspace(0, epochs * len(dataset) - 1, count):
        sample = dataset.training_sample(max(0, int(position)), epochs)
        objects = ~sample.is_crowd
        tiles.append(_draw_objects(sample.image, sample.boxes[objects], sample.class_ids[objects], class_names))
    return _arrange_in_grid(tiles, columns=max(1, round(count**0.5)))


def _object_tile(split: Split, annotation: Annotation, row: int) -> ImageArray:
    """Return a tile that shows the object with index `row` of an annotation; empty if the image cannot be decoded."""
    try:
        image = split.read_image(annotation)
    except InputError:
        return _empty_tile()
    box = annotation.boxes[row : row + 1]
    center, margin = (box[0, :2] + box[0, 2:]) / 2, max(16.0, 0.8 * float((box[0, 2:] - box[0, :2]).max()))
    left, top = np.maximum(center - margin, 0).astype(int)
    right, bottom = np.ceil(center + margin).astype(int)
    letterbox, tile = letterbox_image(image[top:bottom, left:right], (_TILE_SIDE, _TILE_SIDE))
    tile_box = letterbox.to_input(box - np.array([left, top] * 2, dtype=np.float32))
    return _draw_objects(tile, tile_box, annotation.class_ids[row : row + 1], split.class_names)


def _draw_objects(image: ImageArray, boxes: Floats, class_ids: Ints, class_names: tuple[str, ...]) -> ImageArray:
    """Return a copy of `image` [H, W, 3] on which boxes [N, 4] and their class names are drawn."""
    objects = Detections(boxes, np.ones(len(boxes), dtype=np.float32), class_ids, class_names)
    return objects.draw_on(image, with_scores=False)


def _empty_tile() -> ImageArray:
    """Return a gray tile."""
    return np.full((_TILE_SIDE, _TILE_SIDE, 3), FILL, dtype=np.uint8)


def _arrange_in_grid(tiles: Sequence[ImageArray], columns: int) -> ImageArray:
    """Return one image that shows tiles of equal size in a grid, row by row; unused places of the last row are gray."""
    missing = -len(tiles) % columns
    filled = [*tiles, *[np.full_like(tiles[0], FILL)] * missing]
    rows = [np.concatenate(filled[i : i + columns], axis=1) for i in range(0, len(filled), columns)]
    return np.concatenate(rows, axis=0)
