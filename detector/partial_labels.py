"""Partial labels: images in which the objects of some classes are not labeled, as in LVIS.

In an image of such a dataset, `neg_category_ids` lists the categories that are not in the image. The objects of a
category that occurs in the image are all labeled, unless `not_exhaustive_category_ids` lists it. Of all other
categories, nothing is known.

Source: Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, 2019, section 3.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
"""Keys of an image in COCO JSON with partial labels."""


class PartialLabels(NamedTuple):
    """The lists of an image with partial labels, as category ids."""

    negative: frozenset[int]
    not_exhaustive: frozenset[int]

    @classmethod
    def of(cls, image: Mapping[str, Any]) -> "PartialLabels":
        """Return the valid lists of an element of `images` in COCO JSON, which has the key `neg_category_ids`."""
        return cls(frozenset(image[NEGATIVE]), frozenset(image.get(NOT_EXHAUSTIVE, ())))

    def labeled(self, present: Iterable[int]) -> set[int]:
        """Return the ids of the categories of which all objects in the image are labeled.

        Args:
            present: ids of the categories of the labeled objects in the image, without crowd regions.
        """
        return {*self.negative, *present} - self.not_exhaustive


def are_unlabeled(ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return for each detection whether its class is not labeled in its image, so that it is no false positive.

    Args:
        ground_truth: COCO dictionary.
        rows: valid detections in COCO's results format.
    """
    partial = {image["id"]: image for image in ground_truth["images"] if NEGATIVE in image}
    if not partial:
        return [False] * len(rows)
    present = {image_id: set[int]() for image_id in partial}
    for row in ground_truth["annotations"]:
        if row["image_id"] in partial and not row.get("iscrowd", 0):
            present[row["image_id"]].add(row["category_id"])
    labeled = {image_id: PartialLabels.of(image).labeled(present[image_id]) for image_id, image in partial.items()}
    return [row["image_id"] in labeled and row["category_id"] not in labeled[row["image_id"]] for row in rows]


def ignore_unlabeled(ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return ground truth in which a detection of a class that is not labeled in its image is no false positive.

    Such an image gets a crowd region of the class around all its detections.

    Args:
        ground_truth: COCO dictionary; it is not changed.
        rows: valid detections in COCO's results format.

    Returns:
        `ground_truth` itself, if all detections are of labeled classes.
    """
    corners = defaultdict[tuple[Any, Any], list[tuple[float, float, float, float]]](list)
    for row in compress(rows, are_unlabeled(ground_truth, rows)):
        x, y, width, height = row["bbox"]
        corners[row["image_id"], row["category_id"]].append((x, y, x + width, y + height))
    if not corners:
        return ground_truth
    regions = [_crowd_region(*key, boxes) for key, boxes in sorted(corners.items())]
    return {**ground_truth, "annotations": [*ground_truth["annotations"], *regions]}


def _crowd_region(
    image_id: int, category_id: int, boxes: Sequence[tuple[float, float, float, float]]
) -> dict[str, Any]:
    """Return a crowd region that contains boxes (x1, y1, x2, y2)."""
    left, top, right, bottom = zip(*boxes, strict=True)
    x, y, width, height = min(left), min(top), max(right) - min(left), max(bottom) - min(top)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 1,
    }
