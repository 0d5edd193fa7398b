"""Creates images for visual inspection: sheets of objects and images with their file names, and augmented samples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from detector.annotation import Annotation
from detector.arrays import Floats, ImageArray, Ints
from detector.boxes import area, pairwise_iou
from detector.data.split import Split, evenly_spaced
from detector.detections import Detections
from detector.drawing import class_color
from detector.errors import InputError
from detector.letterbox import letterbox_image
from detector.loader.dataset import DetectionDataset
from detector.options import DrawOptions
from detector.plots.sheet import (
    COLUMNS,
    PER_SHEET,
    TILE_SIDE,
    arrange_in_grid,
    crop_tile,
    empty_tile,
    short_name,
    with_text,
)

_MAX_CLASSES = 100
"""Largest number of classes with examples."""

_MAX_NAMED = 8
"""In a tile with more boxes, class names would cover each other and the objects: only the boxes are drawn."""

_MIN_OVERLAP = 0.3
"""Smallest IoU of two boxes that the sheet of overlapping boxes shows."""


class _Place(NamedTuple):
    """Objects of an image that a tile shows.

    Attributes:
        annotation: annotation of the image.
        rows: indices of the objects; empty: the tile shows the whole image.
    """

    annotation: Annotation
    rows: tuple[int, ...]


def class_examples(split: Split, per_class: int = 4) -> ImageArray:
    """Return an image [H, W, 3] that shows up to `per_class` objects of each class, evenly spaced in the split.

    Each object has a tile with its surroundings and its box, and below it the class name and the file name. Each class
    that has objects has one row of tiles. With many classes, the rows of several classes are side by side. If an image
    cannot be decoded, the tile stays empty.
    """
    by_class: list[list[_Place]] = [[] for _ in split.class_names]
    for annotation in split.annotations:
        for row in np.flatnonzero(~annotation.is_crowd).tolist():
            by_class[annotation.class_ids[row]].append(_Place(annotation, (row,)))
    rows = []
    for places in evenly_spaced([places for places in by_class if places], _MAX_CLASSES):
        tiles = [_place_tile(split, place) for place in evenly_spaced(places, per_class)]
        rows.append(arrange_in_grid([*tiles, *[empty_tile(2)] * (per_class - len(tiles))], per_class))
    return arrange_in_grid(rows or [empty_tile(2)], columns=max(1, round((len(rows) / per_class) ** 0.5)))


def example_sheets(split: Split) -> Mapping[str, ImageArray]:
    """Return sheets of images and boxes that deserve a look, as file name → image [H, W, 3].

    There are sheets of images without objects, of the smallest and the largest boxes relative to their images, and of
    the boxes that overlap most. A sheet with nothing to show is left out.
    """
    objects = [
        (float(size) / (annotation.image_hw[0] * annotation.image_hw[1]), _Place(annotation, (int(row),)))
        for annotation in split.annotations
        for row, size in zip(
            np.flatnonzero(~annotation.is_crowd), area(annotation.boxes)[~annotation.is_crowd], strict=True
        )
    ]
    by_size = [place for _, place in sorted(objects, key=lambda item: item[0])]
    background = [_Place(annotation, ()) for annotation in split.annotations if not len(annotation.boxes)]
    sheets = {
        "background.jpg": evenly_spaced(background, PER_SHEET),
        "smallest-boxes.jpg": by_size[:PER_SHEET],
        "largest-boxes.jpg": by_size[::-1][:PER_SHEET],
        "overlapping-boxes.jpg": _most_overlapping(split),
    }
    return {name: _sheet(split, places) for name, places in sheets.items() if places}


def _most_overlapping(split: Split) -> list[_Place]:
    """Return the pairs of boxes with the largest IoU, at most one pair per image."""
    pairs = []
    for annotation in split.annotations:
        rows = np.flatnonzero(~annotation.is_crowd)
        if len(rows) < 2:
            continue
        iou = np.triu(pairwise_iou(annotation.boxes[rows], annotation.boxes[rows]), 1)
        first, second = divmod(int(iou.argmax()), len(rows))
        if iou[first, second] >= _MIN_OVERLAP:
            pairs.append((float(iou.max()), _Place(annotation, (int(rows[first]), int(rows[second])))))
    return [place for _, place in sorted(pairs, key=lambda item: -item[0])][:PER_SHEET]


def augmentation_examples(
    dataset: DetectionDataset, class_names: tuple[str, ...], count: int = 16, epochs: float = 1.0
) -> ImageArray:
    """Return an image [H, W, 3] that shows augmented training samples with their boxes in a grid.

    Below each sample is the name of its file; a mosaic also contains other images.

    Args:
        dataset: the dataset that provides the samples.
        class_names: names of the classes of the dataset.
        count: number of samples.
        epochs: length of the training run; the samples are evenly spaced over the run.
    """
    paths = {annotation.image_id: annotation.image_path for annotation in dataset.annotations}
    tiles = []
    for position in np.linspace(0, epochs * len(dataset) - 1, count):
        sample = dataset.training_sample(max(0, int(position)), epochs)
        objects = ~sample.is_crowd
        drawn = _draw_objects(sample.image, sample.boxes[objects], sample.class_ids[objects], class_names)
        tiles.append(with_text(drawn, [short_name(paths[sample.image_id], drawn.shape[1])]))
    return arrange_in_grid(tiles, columns=max(1, round(count**0.5)))


def _sheet(split: Split, places: Sequence[_Place]) -> ImageArray:
    """Return an image that shows a tile for each place in a grid."""
    return arrange_in_grid([_place_tile(split, place) for place in places], columns=min(COLUMNS, len(places)))


def _place_tile(split: Split, place: _Place) -> ImageArray:
    """Return a tile with class and file name; the image part is empty if the image cannot be decoded."""
    annotation, rows = place.annotation, list(place.rows)
    names = dict.fromkeys(split.class_names[class_id] for class_id in annotation.class_ids[rows])
    text = [", ".join(names) or "no objects", short_name(annotation.image_path, TILE_SIDE)]
    try:
        image = split.read_image(annotation)
    except InputError:
        return with_text(empty_tile(0), [*text[:1], f"unreadable: {text[1]}"])
    if not rows:
        return with_text(letterbox_image(image, (TILE_SIDE, TILE_SIDE))[1], text)
    boxes = annotation.boxes[rows]
    tile, tile_boxes = crop_tile(image, boxes)
    return with_text(_draw_lines(tile, tile_boxes, annotation.class_ids[rows]), text)


def _draw_lines(image: ImageArray, boxes: Floats, class_ids: Ints) -> ImageArray:
    """Return a copy of `image` [H, W, 3] on which the outlines of boxes [N, 4] are drawn."""
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    for box, class_id in zip(np.round(boxes).tolist(), class_ids.tolist(), strict=True):
        x1, y1, x2, y2 = box
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=class_color(class_id))
    return np.array(drawn)


def _draw_objects(image: ImageArray, boxes: Floats, class_ids: Ints, class_names: tuple[str, ...]) -> ImageArray:
    """Return a copy of `image` [H, W, 3] on which boxes [N, 4] are drawn, with class names if there are few."""
    if len(boxes) > _MAX_NAMED:
        return _draw_lines(image, boxes, class_ids)
    objects = Detections(boxes, np.ones(len(boxes), dtype=np.float32), class_ids, class_names)
    return objects.draw_on(image, DrawOptions(scores=False))
