"""Sample: one image in memory with its objects, as it passes through augmentation."""

from dataclasses import dataclass

from detector.arrays import Bools, Floats, ImageArray, Ints


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its objects; functions that change one return a new one.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of `image`.
        class_ids: [N] int64.
        is_crowd: [N] bool, as in `Annotation`.
        image_id: id of the annotation.
    """

    image: ImageArray
    boxes: Floats
    class_ids: Ints
    is_crowd: Bools
    image_id: int
