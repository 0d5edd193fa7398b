"""Random datasets and detections in COCO's formats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Coco = tuple[dict[str, Any], list[dict[str, Any]]]
"""Ground truth and results in COCO's formats."""


def random_boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    """Return boxes (x, y, width, height); many sides are exactly 32 or 96, the limits of COCO's area ranges."""
    sides = np.exp(rng.uniform(np.log(8), np.log(200), (count, 2))).round()
    special = rng.choice([0, 32, 96], (count, 1), p=[0.6, 0.2, 0.2])
    boxes: list[list[float]] = np.hstack([rng.integers(0, 250, (count, 2)), np.where(special, special, sides)]).tolist()
    return boxes


@pytest.fixture(scope="session")
def random_coco() -> Callable[..., Coco]:
    """Return a function that makes random data: with crowds, equal scores, empty classes and empty images."""

    def make(seed: int, *, images: int = 20, classes: int = 3, ties: bool = True, crowd: float = 0.1) -> Coco:
        rng = np.random.default_rng(seed)
        image_ids = rng.choice(10 * images, images, replace=False).tolist()
        category_ids = rng.choice(90, classes + 1, replace=False).tolist()  # the last class has no object
        objects: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for image_id in image_ids[1:]:  # the first image has neither objects nor detections
            own = [
                {
                    "image_id": image_id,
                    "category_id": category_ids[int(rng.integers(classes))],
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.choice([0.7, 1])),
                    "iscrowd": int(rng.random() < crowd),
                }
                for box in random_boxes(rng, rng.poisson(4))
            ]
            objects += own
            # Detections near the objects, sometimes of another class; and detections anywhere.
            copies = [row["bbox"] for row in own for _ in range(3)]
            moved = np.reshape(copies, (-1, 4)) + rng.normal(0, 1, (len(copies), 4)) * rng.choice([0, 2, 8], (1, 4))
            classes_of = [row["category_id"] for row in own for _ in range(3)]
            for box, near in [
                *zip(moved.tolist(), classes_of, strict=True),
                *((b, None) for b in random_boxes(rng, 3)),
            ]:
                other = category_ids[int(rng.integers(classes + 1))]
                category_id = other if near is None or rng.random() < 0.1 else near
                score = rng.random()
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": [*box[:2], *(max(side, 0.0) for side in box[2:])],
                        "score": round(score, 1) if ties else score,
                    }
                )
        truth = {
            "images": [{"id": image_id, "height": 400, "width": 400} for image_id in image_ids],
            "annotations": [{"id": number, **row} for number, row in enumerate(objects, 1)],
            "categories": [{"id": category_id, "name": str(category_id)} for category_id in category_ids],
        }
        return truth, [results[index] for index in rng.permutation(len(results)).tolist()]

    return make
