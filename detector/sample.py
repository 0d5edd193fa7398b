"""One picture with its objects, as it travels through augmentation."""

from dataclasses import dataclass

from detector.arrays import Bools, Floats, ImageArray, Ints


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture in memory; functions that change one return a new one.

    Attributes:
        image: [H, W, 3] RGB.
        boxes: [N, 4] in pixels of `image`.
        class_ids: [N] int64.
        is_crowd: [N] bool, as in `Annotation`.
        image_id: the annotation's.
    """

    image: ImageArray
    boxes: Floats
    class_ids: Ints
    is_crowd: Bools
    image_id: int
