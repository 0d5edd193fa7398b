"""A finding about augmentation: do boxes move exactly as the objects in the image?

The check augments images with painted rectangles. In an augmented image, the color of a rectangle shows where the
rectangle is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Floats, ImageArray
from detector.boxes import area, pairwise_iou
from detector.config import BlendConfig, ColorConfig, Config, turned_off
from detector.data.ledger import Ledger
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding
from detector.letterbox import FILL
from detector.loader.dataset import DetectionDataset
from detector.sample import Sample

_COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], dtype=np.uint8)
"""Colors of the painted rectangles. No channel is near FILL: a mixed pixel at an edge clearly belongs to one side."""

_IMAGE_COUNT = 12
_EPOCH_COUNT = 8

_MIN_IOU = 0.8
"""Smallest acceptable IoU between a box and the visible extent of its object."""

_MIN_SIDE = 16.0
"""Smallest side, in pixels, of a box that is measured. In smaller boxes, rounding to whole pixels dominates the IoU."""


def diagnose_augmentation(annotations: Sequence[Annotation], input_hw: tuple[int, int], config: Config) -> Finding:
    """Check that boxes stay around their objects in all geometric augmentations, and return a finding.

    Args:
        annotations: annotations of the training images; only the image sizes are used.
        input_hw: height and width of the augmented images, in pixels.
        config: settings of the augmentation. Geometric augmentations are applied at full strength, and mosaic from the
            first epoch on.
    """
    dataset = painted_dataset(annotations, input_hw, config)
    count = _EPOCH_COUNT * len(dataset)
    return compare_painted(dataset.training_sample(position, _EPOCH_COUNT) for position in range(count))


def painted_dataset(annotations: Sequence[Annotation], input_hw: tuple[int, int], config: Config) -> DetectionDataset:
    """Return a dataset of images with one colored rectangle in each quarter; the class of a rectangle is its color.

    Augmentations that change colors, or blend or cover images, are turned off: after them, the color would no longer
    show which pixels belong to a rectangle.

    Args:
        annotations: annotations of the training images; only the image sizes are used.
        input_hw: height and width of the augmented images, in pixels.
        config: settings of the augmentation.
    """
    rng = np.random.default_rng(0)
    painted = []
    for image_id, annotation in enumerate(islice(cycle(evenly_spaced(annotations, _IMAGE_COUNT)), _IMAGE_COUNT)):
        height, width = (max(side, 64) for side in annotation.image_hw)
        quarter = np.array([width, height] * 2) / 2
        near, far = rng.uniform(0.05, 0.4, size=(4, 2)), rng.uniform(0.6, 0.95, size=(4, 2))
        corners = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
        boxes = np.round(np.hstack([corners + near, corners + far]) * quarter).astype(np.float32)
        class_ids, is_crowd = np.arange(4), np.zeros(4, dtype=np.bool_)
        painted.append(Annotation(image_id, Path("painted"), (height, width), boxes, class_ids, is_crowd, area(boxes)))
    split = Split(
        name="painted",
        class_names=("red", "green", "blue", "yellow"),
        category_ids=(0, 1, 2, 3),
        annotations=tuple(painted),
        ledger=Ledger(used=4 * len(painted)),
        read_image=_paint_image,
        from_files=False,
    )
    geometric = turned_off(config, ColorConfig, BlendConfig)
    geometric = replace(geometric, augment_ramp=0, mosaic_from=0, mosaic_off=0)
    return DetectionDataset(split, input_hw, geometric)


def compare_painted(samples: Iterable[Sample]) -> Finding:
    """Compare the boxes of painted samples with the visible extent of their rectangles, and return a finding."""
    ious = [
        float(pairwise_iou(box[None], visible_extent(sample.image, box, _COLORS[class_id])[None])[0, 0])
        for sample in samples
        for box, class_id in zip(sample.boxes, sample.class_ids, strict=True)
        if (box[2:] - box[:2]).min() >= _MIN_SIDE
    ]
    median_iou = float(np.median(ious)) if ious else 0.0
    fraction = float(np.mean(np.array(ious) >= _MIN_IOU)) if ious else 0.0
    matches = median_iou >= _MIN_IOU and fraction >= 0.9
    return Finding(
        "augmentation: boxes follow objects",
        "ok" if matches else "stop",
        f"{fraction:.0%} of {len(ious)} boxes match their painted object with an IoU of at least {_MIN_IOU:g}; "
        f"median IoU {median_iou:.2f}",
        f"at least 90% of the boxes, and a median IoU of at least {_MIN_IOU:g}",
        ""
        if matches
        else "The augmentation has a bug: it transforms boxes and pixels differently. Check the drawn samples.",
    )


def visible_extent(image: ImageArray, box: Floats, color: ImageArray) -> Floats:
    """Return the bounding box [4] of all pixels of a color in and near a box; all zeros if there is no such pixel.

    Args:
        image: [H, W, 3] uint8 RGB.
        box: [4] as (x1, y1, x2, y2), in pixels. The search area is larger than the box by a quarter of its width or
            height at each side.
        color: [3] uint8 RGB.
    """
    margin = np.tile((box[2:] - box[:2]) / 4, 2) * (-1, -1, 1, 1)
    left, top, right, bottom = (max(0, int(value)) for value in np.round(box + margin))
    window = image[top:bottom, left:right].astype(np.int16)
    # The color of a pixel that an object covers half is halfway between the color of the object and FILL.
    is_color = (np.abs(window - color) < np.abs(color.astype(np.int16) - FILL) / 2).all(axis=2)
    rows, columns = np.flatnonzero(is_color.any(axis=1)), np.flatnonzero(is_color.any(axis=0))
    if not len(rows):
        return np.zeros(4, dtype=np.float32)
    extent = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    return np.array(extent, dtype=np.float32)


def _paint_image(annotation: Annotation) -> ImageArray:
    """Return a gray image [H, W, 3] on which the boxes of an annotation are drawn as filled rectangles."""
    image = np.full((*annotation.image_hw, 3), FILL, dtype=np.uint8)
    for (x1, y1, x2, y2), class_id in zip(annotation.boxes.astype(int), annotation.class_ids, strict=True):
        image[y1:y2, x1:x2] = _COLORS[class_id]
    return image
