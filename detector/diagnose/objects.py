"""The objects of a split as one table, and what every check of the data needs: samples and words."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.arrays import Floats, Ints
from detector.data.split import Split
from detector.letterbox import Letterbox


@dataclass(frozen=True, eq=False)
class Objects:
    """The N objects of a split as one table, crowd regions left out.

    Attributes:
        split: where they stand.
        boxes: [N, 4] in pixels of their images.
        input_boxes: [N, 4] in canvas pixels.
        class_ids: [N].
        image: [N] position in `split.annotations`.
        image_hw: [N, 2] size of the image of each.
    """

    split: Split
    boxes: Floats
    input_boxes: Floats
    class_ids: Ints
    image: Ints
    image_hw: Ints


def gather(split: Split, input_hw: tuple[int, int]) -> Objects:
    """Return the objects of a split as one table."""
    kept = [~annotation.is_crowd for annotation in split.annotations]
    boxes = [annotation.boxes[keep] for annotation, keep in zip(split.annotations, kept, strict=True)]
    sizes = np.array([annotation.image_hw for annotation in split.annotations], dtype=np.int64).reshape(-1, 2)
    image = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
    placed = [
        Letterbox.fit(annotation.image_hw, input_hw).to_input(own)
        for annotation, own in zip(split.annotations, boxes, strict=True)
    ]
    none = np.zeros((0, 4), dtype=np.float32)
    return Objects(
        split=split,
        boxes=np.concatenate([none, *boxes]),
        input_boxes=np.concatenate([none, *placed]),
        class_ids=np.concatenate(
            [np.zeros(0, np.int64), *(a.class_ids[keep] for a, keep in zip(split.annotations, kept, strict=True))]
        ),
        image=image,
        image_hw=sizes[image],
    )


def unique(items: Iterable[Path]) -> list[Path]:
    """Return each item once, in order."""
    return list(dict.fromkeys(items))


def some(items: Iterable[object], most: int = 3) -> str:
    """Name the first few, and say how many more there are.

    >>> some("abcde")
    'a, b, c and 2 more'
    """
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
