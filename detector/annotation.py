"""Annotation: the labeled objects of one image."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.arrays import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Annotation:
    """The labeled objects of one image; an image without objects is a background image and is kept.

    Attributes:
        image_id: unique within the data set; results refer to it.
        image_path: path of the image file; the built-in data set has names instead of files.
        image_hw: height and width in pixels, oriented the way a viewer shows the image.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of the image, inside it, with positive area.
        class_ids: [N] int64, 0..C-1, positions in the class names of the data set.
        is_crowd: [N] bool; a crowd or ignore region is neither an object to find nor a false positive if found.
        areas: [N] float32 in square pixels: the area of the mask where the data set has one, else of the box. Only
            used to sort objects into small, medium and large in the evaluation.
    """

    image_id: int
    image_path: Path
    image_hw: tuple[int, int]
    boxes: Floats
    class_ids: Ints
    is_crowd: Bools
    areas: Floats

    def __post_init__(self) -> None:
        n = len(self.boxes)
        assert self.boxes.shape == (n, 4), self.boxes.shape
        assert self.boxes.dtype == np.float32, self.boxes.dtype
        assert self.class_ids.shape == self.is_crowd.shape == self.areas.shape == (n,), self.image_path


def annotation_bytes(annotation: Annotation) -> bytes:
    """Return everything training uses of an annotation as bytes to hash: image size, boxes, class ids, crowd flags."""
    arrays = (annotation.boxes, annotation.class_ids, annotation.is_crowd)
    return repr(annotation.image_hw).encode() + b"".join(array.tobytes() for array in arrays)


def pixel_count(annotations: Iterable[Annotation]) -> int:
    """Return the total number of pixels of the images."""
    return sum(annotation.image_hw[0] * annotation.image_hw[1] for annotation in annotations)
