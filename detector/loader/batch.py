"""Collate samples into a batch of tensors. Only this module converts samples to torch tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detector.arrays import ImageArray
from detector.sample import Sample, UnlabeledRegions


@dataclass(frozen=True, eq=False)
class UnlabeledClasses:
    """At most R regions of each of B images, in which objects of some classes may be without a label.

    Attributes:
        boxes: [B, R, 4] float32 (x1, y1, x2, y2) in input pixels; 0 in padding rows.
        classes: [B, R, C] bool: True for a class that is not labeled in the region; False in padding rows.
    """

    boxes: Tensor
    classes: Tensor

    def to(self, device: torch.device) -> "UnlabeledClasses":
        """Return a copy on a device."""
        return UnlabeledClasses(self.boxes.to(device, non_blocking=True), self.classes.to(device, non_blocking=True))


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch: B images of the same size, each with at most M boxes.

    Attributes:
        images: [B, 3, H, W] uint8 RGB, channels_last in memory.
        boxes: [B, M, 4] float32 (x1, y1, x2, y2) in input pixels; 0 in padding rows.
        class_ids: [B, M] int64; 0 in padding rows.
        is_object: [B, M] bool: True for objects; False for crowd regions and padding rows.
        is_crowd: [B, M] bool: True for crowd regions, which are neither objects nor background.
        image_ids: B image ids.
        unlabeled: regions in which some classes are not labeled; None: there are none.
    """

    images: Tensor
    boxes: Tensor
    class_ids: Tensor
    is_object: Tensor
    is_crowd: Tensor
    image_ids: tuple[int, ...]
    unlabeled: UnlabeledClasses | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return a copy of the batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.boxes.to(device, non_blocking=True),
            self.class_ids.to(device, non_blocking=True),
            self.is_object.to(device, non_blocking=True),
            self.is_crowd.to(device, non_blocking=True),
            self.image_ids,
            None if self.unlabeled is None else self.unlabeled.to(device),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples with images of the same size, and return the batch. M is the largest number of boxes per sample."""
    rows = max(len(sample.boxes) for sample in samples)
    boxes = np.zeros((len(samples), rows, 4), dtype=np.float32)
    class_ids = np.zeros((len(samples), rows), dtype=np.int64)
    is_object = np.zeros((len(samples), rows), dtype=np.bool_)
    is_crowd = np.zeros((len(samples), rows), dtype=np.bool_)
    for index, sample in enumerate(samples):
        n = len(sample.boxes)
        boxes[index, :n] = sample.boxes
        class_ids[index, :n] = sample.class_ids
        is_object[index, :n] = ~sample.is_crowd
        is_crowd[index, :n] = sample.is_crowd
    return Batch(
        images=images_to_tensor([sample.image for sample in samples]),
        boxes=torch.from_numpy(boxes),
        class_ids=torch.from_numpy(class_ids),
        is_object=torch.from_numpy(is_object),
        is_crowd=torch.from_numpy(is_crowd),
        image_ids=tuple(sample.image_id for sample in samples),
        unlabeled=_collate_unlabeled([sample.unlabeled for sample in samples]),
    )


def empty_batch(input_hw: tuple[int, int]) -> Batch:
    """Return a batch of no images of the size `input_hw` (height, width)."""
    nothing = np.zeros((0, 0), dtype=np.bool_)
    return Batch(
        images=torch.zeros((0, 3, *input_hw), dtype=torch.uint8),
        boxes=torch.zeros((0, 0, 4)),
        class_ids=torch.zeros((0, 0), dtype=torch.int64),
        is_object=torch.from_numpy(nothing),
        is_crowd=torch.from_numpy(nothing),
        image_ids=(),
    )


def _collate_unlabeled(regions: Sequence[UnlabeledRegions | None]) -> UnlabeledClasses | None:
    """Stack the regions of samples; None if no sample has a region."""
    given = [own for own in regions if own is not None and len(own.boxes)]
    if not given:
        return None
    rows, class_count = max(len(own.boxes) for own in given), given[0].classes.shape[1]
    boxes = np.zeros((len(regions), rows, 4), dtype=np.float32)
    classes = np.zeros((len(regions), rows, class_count), dtype=np.bool_)
    for index, own in enumerate(regions):
        if own is not None:
            boxes[index, : len(own.boxes)] = own.boxes
            classes[index, : len(own.boxes)] = own.classes
    return UnlabeledClasses(torch.from_numpy(boxes), torch.from_numpy(classes))


def images_to_tensor(images: Sequence[ImageArray]) -> Tensor:
    """Stack B images [H, W, 3] of the same size, and return a tensor [B, 3, H, W] in memory format channels_last."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
