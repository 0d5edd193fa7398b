from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.arrays import Ints
from detector.metrics.average_precision import average_precision
from detector.metrics.matches import match_detections
from detector.metrics.weighted import METRIC_NAMES, weighted_metrics

Coco = tuple[dict[str, Any], list[dict[str, Any]]]


def repeat_images(truth: dict[str, Any], rows: list[dict[str, Any]], weights: Ints) -> Coco:
    """Return data in which each image is as many times as its weight says; copies get new image ids."""
    ids = sorted(image["id"] for image in truth["images"])
    copies = [(i, 1000 * i + copy) for i, weight in zip(ids, weights.tolist(), strict=True) for copy in range(weight)]
    objects = [a | {"image_id": new} for old, new in copies for a in truth["annotations"] if a["image_id"] == old]
    repeated = truth | {
        "images": [{"id": new, "height": 400, "width": 400} for _, new in copies],
        "annotations": [row | {"id": number} for number, row in enumerate(objects, 1)],
    }
    return repeated, [row | {"image_id": new} for old, new in copies for row in rows if row["image_id"] == old]


@pytest.mark.parametrize("seed", range(6))
def test_a_weight_of_two_counts_an_image_twice(seed: int, random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(seed, images=12, classes=2, ties=False)
    weights = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), size=3)
    metrics = weighted_metrics(match_detections(truth, results), weights)
    for index, own in enumerate(weights):
        expected = average_precision(*repeat_images(truth, results, own))
        twelve = [getattr(expected, name) for name in METRIC_NAMES]
        assert metrics.metrics[:, index].tolist() == pytest.approx(twelve, abs=1e-9)
        per_class = list(expected.per_class.values())
        assert metrics.class_ap[:, index].tolist() == pytest.approx([row["AP"] for row in per_class], abs=1e-9)
        ap50 = metrics.per_class[METRIC_NAMES.index("AP50"), :, index]
        assert ap50.tolist() == pytest.approx([row["AP50"] for row in per_class], abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_metrics_with_partial_labels_are_those_of_coco(seed: int, random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(seed, images=12)
    rng = np.random.default_rng(seed)
    categories = [category["id"] for category in truth["categories"]]
    truth["images"] = [
        image
        | {
            "neg_category_ids": [i for i in categories if rng.random() < 0.4],
            "not_exhaustive_category_ids": [i for i in categories if rng.random() < 0.2],
        }
        for image in truth["images"]
    ]
    matches = match_detections(truth, results)
    expected = average_precision(truth, results)
    twelve = [getattr(expected, name) for name in METRIC_NAMES]
    assert weighted_metrics(matches, np.ones((1, 12))).metrics[:, 0].tolist() == pytest.approx(twelve, abs=1e-9)
    assert matches.ignored.sum() > match_detections(random_coco(seed, images=12)[0], results).ignored.sum()


def test_only_the_ratio_of_the_weights_matters(random_coco: Callable[..., Coco]) -> None:
    matches = match_detections(*random_coco(2))
    weights = np.random.default_rng(0).uniform(0, 3, (1, 20))
    one, tenth = weighted_metrics(matches, weights), weighted_metrics(matches, weights / 10)
    np.testing.assert_allclose(one.metrics, tenth.metrics, atol=1e-9)


def test_sets_of_weights_do_not_influence_each_other(random_coco: Callable[..., Coco]) -> None:
    matches = match_detections(*random_coco(3))
    weights = np.random.default_rng(0).integers(0, 3, (150, 20))
    together = weighted_metrics(matches, weights, threads=2)
    for index in (0, 63, 64, 149):
        alone = weighted_metrics(matches, weights[index : index + 1])
        np.testing.assert_allclose(together.metrics[:, index], alone.metrics[:, 0], atol=1e-12)


def test_without_weight_or_objects_metrics_are_undefined(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(4)
    matches = match_detections(truth, results)
    assert set(weighted_metrics(matches, np.zeros((1, 20))).metrics[:, 0]) == {-1}
    assert weighted_metrics(matches, np.ones((1, 20))).class_ap[:, 0].tolist().count(-1) == 1
    nothing = match_detections(truth | {"annotations": []}, results)
    assert set(weighted_metrics(nothing, np.ones((1, 20))).metrics[:, 0]) == {-1}
    no_images = match_detections(truth | {"images": [], "annotations": []}, [])
    assert set(weighted_metrics(no_images, np.ones((1, 0))).metrics[:, 0]) == {-1}
