"""Annotation: the labeled objects of one image."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.arrays import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Annotation:
    """The N labeled objects of one image; N = 0 for a background image.

    Attributes:
        image_id: id of the image, unique in the dataset. COCO results contain this id.
        image_path: path of the image file; in the built-in dataset, a name without a file.
        image_hw: height and width of the image in pixels, after its EXIF orientation is applied.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of the image. Every box is inside the image and has a positive area.
        class_ids: [N] int64, 0..C-1: indices into the class names of the dataset.
        is_crowd: [N] bool: True for a crowd or ignore region. The detector does not have to detect such a region, and
            a detection in the region is not a false positive.
        areas: [N] float32 in square pixels: the area of the mask if the dataset has masks, else the area of the box.
            Used only by the evaluation, to divide objects into small, medium and large.
        labeled_classes: [C] bool: True for a class of which all objects in this image are labeled. Objects of another
            class may be in the image without a label: such a class is neither learned as background nor evaluated
            there. None: all objects of all classes are labeled, as in most datasets.
    """

    image_id: int
    image_path: Path
    image_hw: tuple[int, int]
    boxes: Floats
    class_ids: Ints
    is_crowd: Bools
    areas: Floats
    labeled_classes: Bools | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        assert self.boxes.shape == (n, 4), self.boxes.shape
        assert self.boxes.dtype == np.float32, self.boxes.dtype
        assert self.class_ids.shape == self.is_crowd.shape == self.areas.shape == (n,), self.image_path

    @property
    def has_objects(self) -> bool:
        """Whether at least one box is an object, not a crowd region; False for a background image."""
        return not self.is_crowd.all()


def annotation_bytes(annotation: Annotation) -> bytes:
    """Return image size, boxes, classes and crowd flags, which is all that training uses, as bytes for a hash."""
    arrays: list[npt.NDArray[Any]] = [annotation.boxes, annotation.class_ids, annotation.is_crowd]
    if annotation.labeled_classes is not None:
        arrays.append(annotation.labeled_classes)
    return repr(annotation.image_hw).encode() + b"".join(array.tobytes() for array in arrays)


def pixel_count(annotations: Iterable[Annotation]) -> int:
    """Return the total number of pixels of all annotated images."""
    return sum(annotation.image_hw[0] * annotation.image_hw[1] for annotation in annotations)
