"""Finds the most similar objects of a training set by the feature maps of the backbone."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from detector.arrays import Floats

_LEAST_STD = 1e-6
"""A channel that varies less over all objects says nothing about them."""


def box_features(maps: Sequence[Floats], boxes: Floats, input_hw: tuple[int, int]) -> Floats:
    """Return a description [N, D] of the content of boxes: the mean of each channel of each feature map in the box.

    Args:
        maps: feature maps [channels, h, w] of one image; D is the sum of their channels.
        boxes: [N, 4] in input pixels.
        input_hw: height and width of the network input.
    """
    rows = []
    for x1, y1, x2, y2 in boxes.tolist():
        parts = []
        for level in maps:
            height, width = level.shape[1:]
            down, across = height / input_hw[0], width / input_hw[1]
            top, left = (min(max(0, int(low)), size - 1) for low, size in ((y1 * down, height), (x1 * across, width)))
            bottom, right = max(top + 1, ceil(y2 * down)), max(left + 1, ceil(x2 * across))
            parts.append(level[:, top:bottom, left:right].mean(axis=(1, 2)))
        rows.append(np.concatenate(parts))
    channels = sum(len(level) for level in maps)
    return np.array(rows, dtype=np.float32).reshape(-1, channels)


class Similar(NamedTuple):
    """An object of the training set that is similar to a box.

    Attributes:
        row: index of the object.
        similarity: cosine of the angle between the standardized features, -1..1.
    """

    row: int
    similarity: float


class CropIndex:
    """The features of M > 0 objects, among which the most similar to other boxes are found.

    Features are standardized by the mean and standard deviation of each channel over the objects: else the channels
    that are active everywhere would make all boxes similar.

    Args:
        features: [M, D] as `box_features` returns them.
    """

    def __init__(self, features: Floats) -> None:
        self._mean = features.mean(axis=0)
        self._std = np.maximum(features.std(axis=0), _LEAST_STD)
        self._directions = self._standardize(features)

    def most_similar(self, features: Floats, count: int) -> list[tuple[Similar, ...]]:
        """Return the `count` most similar objects for each of N boxes, most similar first.

        Args:
            features: [N, D] features of the boxes.
            count: number of objects; all objects if there are fewer.
        """
        cosines = self._standardize(features) @ self._directions.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        return [
            tuple(Similar(int(index), float(row[index])) for index in best)
            for row, best in zip(cosines, order, strict=True)
        ]

    def _standardize(self, features: Floats) -> Floats:
        """Return standardized features as vectors [N, D] of length 1; a zero vector stays zero."""
        values = (features - self._mean) / self._std
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        directions: Floats = values / np.maximum(lengths, _LEAST_STD)
        return directions
