"""Collate samples into a batch of tensors. Only this module converts samples to torch tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detector.arrays import ImageArray
from detector.sample import Sample


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
    """

    images: Tensor
    boxes: Tensor
    class_ids: Tensor
    is_object: Tensor
    is_crowd: Tensor
    image_ids: tuple[int, ...]

    def to(self, device: torch.device) -> "Batch":
        """Return a copy of the batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.boxes.to(device, non_blocking=True),
            self.class_ids.to(device, non_blocking=True),
            self.is_object.to(device, non_blocking=True),
            self.is_crowd.to(device, non_blocking=True),
            self.image_ids,
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
    )


def images_to_tensor(images: Sequence[ImageArray]) -> Tensor:
    """Stack B images [H, W, 3] of the same size, and return a tensor [B, 3, H, W] in memory format channels_last."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
