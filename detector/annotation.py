"""What a data set says about one picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.arrays import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Annotation:
    """The objects of one picture; a picture without any is a background picture and stays.

    Attributes:
        image_id: unique within the data set; what results are filed under.
        image_path: where the picture lies; the built-in set has names there, no files.
        image_hw: height and width in pixels, the way up a viewer shows it.
        boxes: [N, 4] in pixels of the picture, inside it, each with area.
        class_ids: [N] int64, 0..C-1, positions in the data set's class names.
        is_crowd: [N] bool; a crowd or ignore region is neither to be found nor held against a detector.
        areas: [N] float32 in square pixels, as the data set says (a mask's, where it has masks), else the box's;
            only sorts objects into small, medium and large in the evaluation.
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
    """Return what training learns from an annotation, for a hash: its size, boxes, classes and crowds."""
    arrays = (annotation.boxes, annotation.class_ids, annotation.is_crowd)
    return repr(annotation.image_hw).encode() + b"".join(array.tobytes() for array in arrays)


def pixel_count(annotations: Iterable[Annotation]) -> int:
    """Return the sum of width times height."""
    return sum(annotation.image_hw[0] * annotation.image_hw[1] for annotation in annotations)
