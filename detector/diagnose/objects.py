"""`Objects`: the objects of a split as one table, for the checks of labels, boxes and input size."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from detector.annotation import Annotation, pixel_count
from detector.arrays import Floats, Ints
from detector.data.split import Split, evenly_spaced
from detector.letterbox import Letterbox

FEW_OBJECTS = 20
"""If a class has fewer objects than this, a network hardly learns the class, and its statistics are unreliable."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The N objects of a split as one table, without crowd regions.

    Attributes:
        split: the split of the objects.
        boxes: [N, 4] as (x1, y1, x2, y2), in pixels of the original image.
        input_boxes: [N, 4] as (x1, y1, x2, y2), in pixels of the network input.
        class_ids: [N] class of each object.
        image_index: [N] index in `split.annotations` of the image that contains the object.
        image_hw: [N, 2] height and width of this image, in pixels.
    """

    split: Split
    boxes: Floats
    input_boxes: Floats
    class_ids: Ints
    image_index: Ints
    image_hw: Ints

    def class_counts(self) -> Ints:
        """Return the number of objects of each class, as an array [C]."""
        return np.bincount(self.class_ids, minlength=len(self.split.class_names))


def gather_objects(split: Split, input_hw: tuple[int, int]) -> Objects:
    """Return the objects of all images of a split as one table, without crowd regions.

    Args:
        split: the split.
        input_hw: height and width of the network input, in pixels.
    """
    kept = [~annotation.is_crowd for annotation in split.annotations]
    boxes = [annotation.boxes[keep] for annotation, keep in zip(split.annotations, kept, strict=True)]
    sizes = np.array([annotation.image_hw for annotation in split.annotations], dtype=np.int64).reshape(-1, 2)
    image_index = np.repeat(np.arange(len(boxes)), [len(image_boxes) for image_boxes in boxes])
    input_boxes = [
        Letterbox.fit(annotation.image_hw, input_hw).to_input(image_boxes)
        for annotation, image_boxes in zip(split.annotations, boxes, strict=True)
    ]
    none = np.zeros((0, 4), dtype=np.float32)
    return Objects(
        split=split,
        boxes=np.concatenate([none, *boxes]),
        input_boxes=np.concatenate([none, *input_boxes]),
        class_ids=np.concatenate(
            [np.zeros(0, np.int64), *(a.class_ids[keep] for a, keep in zip(split.annotations, kept, strict=True))]
        ),
        image_index=image_index,
        image_hw=sizes[image_index],
    )


def sample_with_objects(split: Split, max_images: int, max_pixels: float) -> list[Annotation]:
    """Return evenly spaced images with objects, within a limit of images and of pixels in all of them together."""
    with_objects = [annotation for annotation in split.annotations if annotation.has_objects]
    affordable = max_pixels / max(1, pixel_count(with_objects)) * len(with_objects)
    return evenly_spaced(with_objects, min(max_images, int(affordable)))


def first_few(items: Iterable[object], most: int = 3) -> str:
    """Return a text with the first `most` items and the number of the other items.

    >>> first_few("abcde")
    'a, b, c and 2 more'
    """
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
