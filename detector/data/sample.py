"""One picture with its objects, as it travels through augmentation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.boxes import Floats
from detector.images import Pixels


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

    image: Pixels
    boxes: Floats
    class_ids: npt.NDArray[np.int64]
    is_crowd: npt.NDArray[np.bool_]
    image_id: int
