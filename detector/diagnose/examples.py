"""Images for a person to look at, and the proof that augmentation moves boxes as it moves what they stand around."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Floats, ImageArray, Ints
from detector.boxes import area, pairwise_iou
from detector.config import BlendConfig, ColorConfig, Config, turned_off
from detector.data.ledger import Ledger
from detector.data.split import Split, evenly_spaced
from detector.detections import Detections
from detector.diagnose.finding import Finding
from detector.errors import InputError
from detector.letterbox import FILL, letterbox_image
from detector.loader.dataset import DetectionDataset
from detector.sample import Sample

_TILE = 160
"""Side of an example of a class, in pixels."""

_COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], dtype=np.uint8)
"""Of painted objects. No channel is near FILL, so that half-covered pixels on an edge fall to one side or the other."""

_PAINTED_IMAGES = 12
_PAINTED_EPOCHS = 8

_SURVIVES = 0.8
"""Least IoU of a box with what is seen of its object."""

_MEASURABLE = 16.0
"""ImageArray of the shorter side; below, the rounding to whole pixels alone would count."""


def class_examples(split: Split, per_class: int = 4) -> ImageArray:
    """Return one image with up to `per_class` objects of each class, evenly drawn from the split.

    A tile shows an object with its box, its class and some of what is around it. Each class has its row of tiles, in
    several columns of rows where there are many classes. The tile of an image that does not decode stays empty.
    """
    objects: list[list[tuple[Annotation, int]]] = [[] for _ in split.class_names]
    for annotation in split.annotations:
        for row in np.flatnonzero(~annotation.is_crowd):
            objects[annotation.class_ids[row]].append((annotation, int(row)))
    rows = []
    for of_class in objects:
        tiles = [_object_tile(split, annotation, row) for annotation, row in evenly_spaced(of_class, per_class)]
        rows.append(_grid([*tiles, *[_empty_tile()] * (per_class - len(tiles))], per_class))
    return _grid(rows, columns=max(1, round((len(rows) / per_class) ** 0.5)))


def augmentation_examples(
    dataset: DetectionDataset, class_names: tuple[str, ...], count: int = 16, epochs: float = 1.0
) -> ImageArray:
    """Return a grid of training samples with their boxes, evenly drawn from a run of `epochs`."""
    tiles = []
    for position in np.linspace(0, epochs * len(dataset) - 1, count):
        sample = dataset.training_sample(max(0, int(position)), epochs)
        shown = ~sample.is_crowd
        tiles.append(_drawn(sample.image, sample.boxes[shown], sample.class_ids[shown], class_names))
    return _grid(tiles, columns=max(1, round(count**0.5)))


def check_augmentation(annotations: Sequence[Annotation], input_hw: tuple[int, int], config: Config) -> Finding:
    """Measure on painted images whether boxes stay around their objects through all that moves them.

    Args:
        annotations: of the images to learn from; only their sizes count.
        input_hw: size of the samples.
        config: of it, what moves objects, at full strength and with mosaics from the start.
    """
    dataset = painted_dataset(annotations, input_hw, config)
    count = _PAINTED_EPOCHS * len(dataset)
    return compare_painted(dataset.training_sample(position, _PAINTED_EPOCHS) for position in range(count))


def painted_dataset(annotations: Sequence[Annotation], input_hw: tuple[int, int], config: Config) -> DetectionDataset:
    """Return images with a colored rectangle in each quarter, whose class is its color, and nothing else.

    Changes of color are off, and so is what blends or covers images: there, colors would not tell objects apart.
    """
    rng = np.random.default_rng(0)
    painted = []
    for image_id, annotation in enumerate(islice(cycle(evenly_spaced(annotations, _PAINTED_IMAGES)), _PAINTED_IMAGES)):
        height, width = (max(side, 64) for side in annotation.image_hw)
        quarter = np.array([width, height] * 2) / 2
        near, far = rng.uniform(0.05, 0.4, size=(4, 2)), rng.uniform(0.6, 0.95, size=(4, 2))
        corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
        boxes = np.round(np.hstack([corners + near, corners + far]) * quarter).astype(np.float32)
        ids, crowd = np.arange(4), np.zeros(4, dtype=np.bool_)
        painted.append(Annotation(image_id, Path("painted"), (height, width), boxes, ids, crowd, area(boxes)))
    names = ("red", "green", "blue", "yellow")
    split = Split("painted", names, (0, 1, 2, 3), tuple(painted), Ledger(used=4 * len(painted)), _paint)
    still = turned_off(config, ColorConfig, BlendConfig)
    still = replace(still, augment_ramp=0, mosaic_from=0, mosaic_off=0)
    return DetectionDataset(split, input_hw, still)


def compare_painted(samples: Iterable[Sample]) -> Finding:
    """Compare the boxes of painted samples with what is seen of their colors."""
    overlaps = [
        float(pairwise_iou(box[None], seen_extent(sample.image, box, _COLORS[class_id])[None])[0, 0])
        for sample in samples
        for box, class_id in zip(sample.boxes, sample.class_ids, strict=True)
        if (box[2:] - box[:2]).min() >= _MEASURABLE
    ]
    middle = float(np.median(overlaps)) if overlaps else 0.0
    fraction = float(np.mean(np.array(overlaps) >= _SURVIVES)) if overlaps else 0.0
    survive = middle >= _SURVIVES and fraction >= 0.9
    return Finding(
        "augmentation: labels survive",
        "ok" if survive else "stop",
        f"{fraction:.0%} of {len(overlaps)} painted objects are where their moved boxes say, median IoU {middle:.2f}",
        f"at least 90% with an IoU of {_SURVIVES:g}",
        "" if survive else "Boxes and pixels are not moved alike: a fault in the augmentation. Look at drawn samples.",
    )


def seen_extent(image: ImageArray, box: Floats, color: ImageArray) -> Floats:
    """Return the extent [4] of a color in and near a box [4]; no area where there is none of it."""
    margin = np.tile((box[2:] - box[:2]) / 4, 2) * (-1, -1, 1, 1)
    left, top, right, bottom = (max(0, int(value)) for value in np.round(box + margin))
    window = image[top:bottom, left:right].astype(np.int16)
    # A pixel half covered lies in the middle between its color and FILL.
    is_color = (np.abs(window - color) < np.abs(color.astype(np.int16) - FILL) / 2).all(axis=2)
    rows, columns = np.flatnonzero(is_color.any(axis=1)), np.flatnonzero(is_color.any(axis=0))
    if not len(rows):
        return np.zeros(4, dtype=np.float32)
    extent = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    return np.array(extent, dtype=np.float32)


def _paint(annotation: Annotation) -> ImageArray:
    image = np.full((*annotation.image_hw, 3), FILL, dtype=np.uint8)
    for (x1, y1, x2, y2), class_id in zip(annotation.boxes.astype(int), annotation.class_ids, strict=True):
        image[y1:y2, x1:x2] = _COLORS[class_id]
    return image


def _object_tile(split: Split, annotation: Annotation, row: int) -> ImageArray:
    try:
        image = split.read_image(annotation)
    except InputError:
        return _empty_tile()
    box = annotation.boxes[row : row + 1]
    center, reach = (box[0, :2] + box[0, 2:]) / 2, max(16.0, 0.8 * float((box[0, 2:] - box[0, :2]).max()))
    left, top = np.maximum(center - reach, 0).astype(int)
    right, bottom = np.ceil(center + reach).astype(int)
    letterbox, tile = letterbox_image(image[top:bottom, left:right], (_TILE, _TILE))
    on_tile = letterbox.to_input(box - np.array([left, top] * 2, dtype=np.float32))
    return _drawn(tile, on_tile, annotation.class_ids[row : row + 1], split.class_names)


def _drawn(image: ImageArray, boxes: Floats, class_ids: Ints, names: tuple[str, ...]) -> ImageArray:
    found = Detections(boxes, np.ones(len(boxes), dtype=np.float32), class_ids, names)
    return found.draw_on(image, with_scores=False)


def _empty_tile() -> ImageArray:
    return np.full((_TILE, _TILE, 3), FILL, dtype=np.uint8)


def _grid(tiles: Sequence[ImageArray], columns: int) -> ImageArray:
    """Return images of one size side by side, row by row, the last row filled with gray."""
    missing = -len(tiles) % columns
    filled = [*tiles, *[np.full_like(tiles[0], FILL)] * missing]
    rows = [np.concatenate(filled[i : i + columns], axis=1) for i in range(0, len(filled), columns)]
    return np.concatenate(rows, axis=0)
