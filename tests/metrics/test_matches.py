import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.metrics.average_precision import average_precision
from detector.metrics.matches import match_detections
from detector.metrics.weighted import METRIC_NAMES, weighted_metrics

Coco = tuple[dict[str, Any], list[dict[str, Any]]]

COCO_EXAMPLE = os.environ.get("COCO_EXAMPLE", "")
"""Folder with the 100 images of val2014 and the results that the COCO API has as an example."""


def assert_same_as_coco(truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Compare the metrics from the matches with those of faster-coco-eval."""
    expected = average_precision(truth, results)
    matches = match_detections(truth, results)
    metrics = weighted_metrics(matches, np.ones((1, len(matches.image_ids))))
    twelve = [getattr(expected, name) for name in METRIC_NAMES]
    assert metrics.metrics[:, 0].tolist() == pytest.approx(twelve, abs=1e-9)
    per_class = list(expected.per_class.values())
    assert metrics.class_ap[:, 0].tolist() == pytest.approx([row["AP"] for row in per_class], abs=1e-9)
    ap50 = metrics.per_class[METRIC_NAMES.index("AP50"), :, 0]
    assert ap50.tolist() == pytest.approx([row["AP50"] for row in per_class], abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_metrics_from_matches_equal_those_of_coco(seed: int, random_coco: Callable[..., Coco]) -> None:
    assert_same_as_coco(*random_coco(seed, images=2 + 5 * seed, classes=1 + seed % 4, ties=seed % 2 == 0))


@pytest.mark.skipif(not COCO_EXAMPLE, reason="COCO_EXAMPLE does not name the folder with the example of the COCO API")
def test_metrics_of_cocos_own_example_are_the_same() -> None:
    folder = Path(COCO_EXAMPLE)
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    assert_same_as_coco(truth, json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()))


def test_more_than_a_hundred_detections_are_cut_as_in_coco() -> None:
    rng = np.random.default_rng(0)
    boxes = np.hstack([rng.integers(0, 100, (400, 2)), np.full((400, 2), 40)]).tolist()
    rows = [{"image_id": 1 + i % 2, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    truth = {
        "images": [{"id": i, "height": 200, "width": 200} for i in (1, 2)],
        "annotations": [row | {"id": i} for i, row in enumerate(rows[:30], 1)],
        "categories": [{"id": 1, "name": "a"}],
    }
    results = [row | {"score": score} for row, score in zip(rows[10:], rng.random(390).tolist(), strict=True)]
    assert_same_as_coco(truth, results)
    assert len(match_detections(truth, results).scores) == 200
    assert len(match_detections(truth, results, max_detections=3).scores) == 6


@pytest.mark.parametrize("kind", ["objects", "detections", "images"])
def test_data_without_objects_or_detections_can_be_matched(kind: str, random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(1)
    if kind != "detections":
        truth = truth | {"annotations": []}
    if kind != "objects":
        results = []
    if kind == "images":
        truth = truth | {"images": []}
        assert match_detections(truth, results).true_positive.shape == (4, 10, 0)
    else:
        assert_same_as_coco(truth, results)


def slow_matches(truth: dict[str, Any], results: list[dict[str, Any]], threshold: float) -> dict[int, int]:
    """Return row of a result → row of the annotation that it matches, for all areas; a loop over everything."""
    matched: dict[int, int] = {}
    for index in sorted(range(len(results)), key=lambda index: -results[index]["score"]):
        row, best, best_key = results[index], None, (False, threshold)
        for number, annotation in enumerate(truth["annotations"]):
            if (annotation["image_id"], annotation["category_id"]) != (row["image_id"], row["category_id"]):
                continue
            if number in matched.values() and not annotation["iscrowd"]:
                continue
            (x1, y1, w1, h1), (x2, y2, w2, h2) = row["bbox"], annotation["bbox"]
            inside = max(min(x1 + w1, x2 + w2) - max(x1, x2), 0) * max(min(y1 + h1, y2 + h2) - max(y1, y2), 0)
            iou = inside / (w1 * h1 if annotation["iscrowd"] else w1 * h1 + w2 * h2 - inside) if inside else 0
            key = (not annotation["iscrowd"], iou)
            if iou >= threshold and key >= best_key:
                best, best_key = number, key
        if best is not None:
            matched[index] = best
    return matched


@pytest.mark.parametrize("seed", range(4))
def test_each_detection_matches_the_object_of_a_slow_loop(seed: int, random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(seed, images=8, crowd=0.3)
    matches = match_detections(truth, results, iou_thresholds=(0.3, 0.7))
    for t, threshold in enumerate((0.3, 0.7)):
        own = matches.matched_object[t]
        found = own >= 0
        rows = dict(zip(matches.row[found].tolist(), matches.object_row[own[found]].tolist(), strict=True))
        assert rows == slow_matches(truth, results, threshold)
        of_crowd = [truth["annotations"][number]["iscrowd"] for number in matches.object_row[own[found]]]
        assert matches.ignored[0, t, found].tolist() == of_crowd
        assert matches.true_positive[0, t].tolist() == (found & ~matches.ignored[0, t]).tolist()


def test_detections_are_sorted_and_keep_their_rows(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(5)
    matches = match_detections(truth, results)
    keys = [(c, -s) for c, s in zip(matches.category.tolist(), matches.scores.tolist(), strict=True)]
    assert keys == sorted(keys)
    for index, row in enumerate(matches.row):
        own = results[row]
        assert own["score"] == matches.scores[index]
        assert own["image_id"] == matches.image_ids[matches.image[index]]
        assert own["category_id"] == matches.category_ids[matches.category[index]]
    for index, number in enumerate(matches.object_row):
        assert truth["annotations"][number]["image_id"] == matches.image_ids[matches.object_image[index]]
