import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.metrics.average_precision import average_precision
from detector.metrics.bootstrap import bootstrap_intervals, half_weights, resample, resample_ap
from detector.metrics.intervals import Interval, half_sample_interval, needed, students_t, verdict
from detector.metrics.matches import match_detections
from detector.metrics.weighted import METRIC_NAMES, weighted_metrics

Coco = tuple[dict[str, Any], list[dict[str, Any]]]
NAMES = ("a", "b", "c", "nothing")


def test_the_first_values_are_those_of_the_data(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(0)
    ap = average_precision(truth, results)
    own = resample(match_detections(truth, results), resamples=3)
    assert own.mean_estimate.tolist() == pytest.approx([getattr(ap, name) for name in METRIC_NAMES], abs=1e-9)
    assert resample_ap(match_detections(truth, results), resamples=3).tolist() == pytest.approx(
        [ap.AP, *own.mean_halves[0].tolist()], abs=1e-9
    )


def test_halves_are_metrics_of_half_of_the_images(random_coco: Callable[..., Coco]) -> None:
    matches = match_detections(*random_coco(1, classes=1))
    own = resample(matches, resamples=5)
    weights = half_weights(20, 5)
    assert weights.sum(axis=1).tolist() == [20, 10, 10, 10, 10, 10]
    np.testing.assert_allclose(own.mean_halves, weighted_metrics(matches, weights[1:]).metrics, atol=1e-12)
    assert half_weights(7, 4).sum(axis=1).tolist() == [7, 3, 4, 3, 4]
    counts = half_weights(9, 4000)[1:].mean(axis=0)
    np.testing.assert_allclose(counts, 0.5, atol=0.04)


def test_a_class_missing_in_a_half_keeps_its_metric(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(2, classes=1)
    rare, image_id = truth["categories"][1]["id"], truth["images"][3]["id"]
    truth["annotations"].append({"id": 999, "image_id": image_id, "category_id": rare, "bbox": [1, 1, 9, 9]})
    matches = match_detections(truth, results)
    own = resample(matches, resamples=50)
    index = matches.category_ids.tolist().index(rare)
    assert own.class_images[0, index] == 1
    assert set(own.halves[0, index]) == {own.estimate[0, index]} == {0}
    assert own.mean_halves[0].tolist() == pytest.approx((own.halves[0, 1 - index] / 2).tolist())


@pytest.mark.parametrize(("rare_images", "expected"), [(0, ()), (1, ("rare",)), (4, ("rare",)), (5, ())])
def test_classes_with_objects_in_few_images_are_named(
    random_coco: Callable[..., Coco], rare_images: int, expected: tuple[str, ...]
) -> None:
    truth, results = random_coco(2, images=60, classes=1)
    (common, rare) = (category["id"] for category in truth["categories"])
    truth["annotations"] += [
        {"id": 1000 + 10 * index + own, "image_id": image["id"], "category_id": rare, "bbox": [own, 1, 100, 100]}
        for index, image in enumerate(truth["images"][:rare_images])
        for own in range(3)
    ]
    names = ["rare" if own == rare else "common" for own in sorted((common, rare))]
    few = bootstrap_intervals(match_detections(truth, results), names, resamples=9).few_images
    assert few.get("AP", ()) == few.get("APl", ()) == few.get("ARl", ()) == expected
    assert not {"APs", "APm"} & few.keys()


def test_the_interval_is_the_formula_of_the_docs() -> None:
    values = np.array([0.5, 0.6, 0.7, 0.8])
    error = np.sqrt(((values - 0.65) ** 2).sum() / 3)
    narrow = half_sample_interval(0.6, 0.6 + (values - 0.6) / 10, 3, (0, 1), 2.0)
    assert narrow is not None
    margin = np.sqrt((0.43027 * error) ** 2 + 0.005**2)  # the halves exceed by 0.005, so the bias is 0.01
    assert [narrow.low, narrow.high] == pytest.approx([0.59 - margin, 0.59 + margin])
    wide = half_sample_interval(0.6, values, 3, (0, 1), 2.0)
    assert wide is not None
    assert (wide.low, wide.high) == (0, 1)


def test_halves_of_a_mean_give_its_textbook_interval() -> None:
    sample = np.random.default_rng(0).normal(0.5, 0.1, 41)
    weights = half_weights(41, 20_000)[1:].astype(float)
    interval = half_sample_interval(sample.mean(), weights @ sample / weights.sum(axis=1), 41, (0, 1), 1.0)
    margin = 2.021 * sample.std(ddof=1) / 41**0.5
    assert interval is not None
    assert [interval.low, interval.high] == pytest.approx([sample.mean() - margin, sample.mean() + margin], abs=1e-3)


def test_intervals_are_near_the_metrics_and_the_same_again(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(3, images=60)
    matches, ap = match_detections(truth, results), average_precision(truth, results)
    own = bootstrap_intervals(matches, NAMES, resamples=200)
    assert own == bootstrap_intervals(matches, NAMES, resamples=200, threads=2)
    for name in METRIC_NAMES:
        interval, value = own.metrics[name], getattr(ap, name)
        assert interval is not None
        assert 0 <= interval.low < interval.high <= 1
        assert 0 < interval.high - interval.low < 0.7
        assert interval.low <= value
        assert abs((interval.low + interval.high) / 2 - value) < 0.2
    known = [name for name, row in own.per_class.items() if row["AP"] is not None and row["AP50"] is not None]
    assert known == [name for name, row in zip(NAMES, ap.per_class.values(), strict=True) if row["objects"]]
    assert own.images == 60
    # Four times the images, half the width.
    large = bootstrap_intervals(match_detections(*random_coco(3, images=240)), NAMES, resamples=200).metrics["AR100"]
    small = own.metrics["AR100"]
    assert large is not None
    assert small is not None
    assert (large.high - large.low) / (small.high - small.low) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("kind", ["one image", "no objects", "no detections", "no images"])
def test_data_that_tell_nothing_have_no_intervals(kind: str, random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(4)
    if kind == "one image":
        image_id = truth["annotations"][0]["image_id"]
        truth["images"] = [{"id": image_id}]
        truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] == image_id]
        results = [row for row in results if row["image_id"] == image_id]
    if kind in ("no objects", "no images"):
        truth["annotations"] = []
    if kind == "no images":
        truth["images"] = []
    if kind in ("no detections", "no images"):
        results = []
    own = bootstrap_intervals(match_detections(truth, results), NAMES, resamples=50)
    assert set(own.metrics.values()) == {None}
    text = json.dumps(own.to_json(), allow_nan=False)
    assert json.loads(text)["metrics"]["AP"] is None


def test_json_has_the_ends_of_the_intervals(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(5)
    ap = average_precision(truth, results)
    own = bootstrap_intervals(match_detections(truth, results), tuple(ap.per_class), resamples=50)
    written = replace(ap, intervals=own).to_json()
    assert "intervals" not in ap.to_json()
    interval = own.metrics["AP50"]
    assert interval is not None
    assert written["intervals"]["metrics"]["AP50"] == [interval.low, interval.high]
    assert written["intervals"]["per_class"].keys() == ap.per_class.keys()
    assert written["intervals"]["images"] == 20


def test_intervals_contain_the_mean_of_a_population() -> None:
    """If each image has one object, AR is a mean over the images. 200 sets of 30; a tolerance of 3 standard errors."""
    rng = np.random.default_rng(0)
    contained = 0
    for _ in range(200):
        found = rng.random(30) < 0.6
        truth = {
            "images": [{"id": i} for i in range(30)],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 50, 50]} for i in range(30)],
            "categories": [{"id": 1, "name": "a"}],
        }
        rows = [
            {"image_id": int(i), "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.5} for i in np.flatnonzero(found)
        ]
        interval = bootstrap_intervals(match_detections(truth, rows), ["a"], resamples=100).metrics["AR100"]
        contained += interval is not None and interval.low <= 0.6 <= interval.high
    assert contained / 200 == pytest.approx(0.95, abs=0.046)


def test_t_quantiles_equal_published_ones() -> None:
    published = {1: 12.706, 2: 4.303, 10: 2.228, 11: 2.201, 20: 2.086, 71: 1.994, 299: 1.968, 10**6: 1.960}
    for degrees, quantile in published.items():
        assert students_t(degrees) == pytest.approx(quantile, abs=6e-4)
    assert students_t(2.9) == students_t(2)


def test_verdicts_follow_from_the_interval() -> None:
    assert verdict(0.02, Interval(0.01, 0.03)) == "better"
    assert verdict(-0.02, Interval(-0.03, -0.01)) == "worse"
    assert verdict(0.02, Interval(-0.01, 0.05)) == "cannot tell"
    assert verdict(0.0, None) == "the same"
    assert verdict(0.1, None) == "cannot tell"


def test_the_needed_number_grows_with_the_square() -> None:
    # The margin is twice the difference: 4 times as many to be just significant, 2.04 times these for 4 of 5 cases.
    assert needed(1000, 0.01, 0.02) == pytest.approx(4 * 2.04 * 1000, rel=0.02)
    assert needed(1000, -0.01, 0.02) == needed(1000, 0.01, 0.02)
    assert needed(100, 0.0001, 0.02) is None
    assert needed(100, 0.0, 0.02) is None


def test_the_needed_number_of_runs_is_enough_in_simulations() -> None:
    """With three runs, t is large: more runs help by more than the square root."""
    number = needed(3, 0.01, 4.3027 * 0.012 / 3**0.5)
    assert number is not None
    samples = np.random.default_rng(0).normal(0.01, 0.012, (4000, number))
    margins = students_t(number - 1) * samples.std(axis=1, ddof=1) / number**0.5
    assert 0.75 < np.mean(samples.mean(axis=1) > margins) < 0.9
