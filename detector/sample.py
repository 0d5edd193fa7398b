"""Sample: one decoded image and its objects, the input and output of every augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.arrays import Bools, Floats, ImageArray, Ints


@dataclass(frozen=True, eq=False)
class UnlabeledRegions:
    """R regions of an image in which objects of some classes may be without a label.

    An image with partial labels is one such region. A mosaic or a pasted patch has the regions of its sources.

    Attributes:
        boxes: [R, 4] (x1, y1, x2, y2) in pixels of the image.
        classes: [R, C] bool: True for a class whose objects may be without a label in the region.
    """

    boxes: Floats
    classes: Bools


@dataclass(frozen=True, eq=False)
class Sample:
    """One decoded image and its N objects. Functions never change a sample; they return a new one.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of `image`.
        class_ids: [N] int64.
        is_crowd: [N] bool, as in `Annotation`.
        image_id: id of the image, as in `Annotation`.
        unlabeled: regions in which some classes are not labeled; None: all objects of all classes are labeled.
    """

    image: ImageArray
    boxes: Floats
    class_ids: Ints
    is_crowd: Bools
    image_id: int
    unlabeled: UnlabeledRegions | None = None


def shift(sample: Sample, left: int, top: int) -> Sample:
    """Return a sample whose boxes and regions are moved by (left, top) pixels; its image stays the same."""
    offset = np.array([left, top, left, top], dtype=np.float32)
    unlabeled = sample.unlabeled
    if unlabeled is not None:
        unlabeled = replace(unlabeled, boxes=unlabeled.boxes + offset)
    return replace(sample, boxes=sample.boxes + offset, unlabeled=unlabeled)


def merge(image: ImageArray, samples: Sequence[Sample]) -> Sample:
    """Return a sample with a new image and the objects of all samples; its image id is that of the first sample."""
    regions = [sample.unlabeled for sample in samples if sample.unlabeled is not None]
    return Sample(
        image=image,
        boxes=np.concatenate([sample.boxes for sample in samples]),
        class_ids=np.concatenate([sample.class_ids for sample in samples]),
        is_crowd=np.concatenate([sample.is_crowd for sample in samples]),
        image_id=samples[0].image_id,
        unlabeled=UnlabeledRegions(
            np.concatenate([own.boxes for own in regions]), np.concatenate([own.classes for own in regions])
        )
        if regions
        else None,
    )
