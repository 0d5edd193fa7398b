"""Sample: one decoded image and its objects, the input and output of every augmentation."""

from dataclasses import dataclass

from detector.arrays import Bools, Floats, ImageArray, Ints


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded image and its N objects. Functions never change a sample; they return a new one.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of `image`.
        class_ids: [N] int64.
        is_crowd: [N] bool, as in `Annotation`.
        image_id: id of the image, as in `Annotation`.
    """

    image: ImageArray
    boxes: Floats
    class_ids: Ints
    is_crowd: Bools
    image_id: int
