import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.errors import InputError
from detector.metrics.average_precision import average_precision
from detector.metrics.bootstrap import bootstrap_intervals
from detector.metrics.matches import match_detections
from detector.metrics.paired import paired_difference

Coco = tuple[dict[str, Any], list[dict[str, Any]]]


def worse_results(results: list[dict[str, Any]], fraction: float) -> list[dict[str, Any]]:
    """Return results of which a fraction is moved far away from its object."""
    moved = np.random.default_rng(0).random(len(results)) < fraction
    far = [row | {"bbox": [300, 300, 5, 5]} for row in results]
    return [far[index] if moved[index] else row for index, row in enumerate(results)]


def test_a_clearly_worse_detector_is_worse_and_the_other_better(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(0, images=40)
    worse = worse_results(results, 0.5)
    good, bad = match_detections(truth, results), match_detections(truth, worse)
    own = paired_difference(good, bad, resamples=200)
    assert (own.verdict, own.images, own.images_needed) == ("better", 40, None)
    difference = average_precision(truth, results).AP - average_precision(truth, worse).AP
    assert own.metrics["AP"].value == pytest.approx(difference, abs=1e-9)
    assert own.describe().startswith("verdict: better")
    other = paired_difference(bad, good, resamples=200)
    assert other.verdict == "worse"
    one, two = own.metrics["AP"].interval, other.metrics["AP"].interval
    assert one is not None
    assert two is not None
    assert [one.low, one.high] == pytest.approx([-two.high, -two.low])


def test_a_small_difference_cannot_be_told(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(1, images=20)
    own = paired_difference(
        match_detections(truth, results), match_detections(truth, worse_results(results, 0.02)), resamples=200
    )
    assert own.verdict == "cannot tell"
    assert own.images_needed is None or own.images_needed > 20
    assert "cannot tell" in own.describe()
    assert json.loads(json.dumps(own.to_json(), allow_nan=False))["verdict"] == "cannot tell"


def test_more_images_settle_what_few_cannot_tell(random_coco: Callable[..., Coco]) -> None:
    verdicts = []
    for images in (12, 250):
        truth, results = random_coco(2, images=images)
        worse = match_detections(truth, worse_results(results, 0.1))
        verdicts.append(paired_difference(match_detections(truth, results), worse, resamples=200).verdict)
    assert verdicts == ["cannot tell", "better"]


def test_the_interval_of_a_difference_is_narrower(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(3, images=40)
    first = match_detections(truth, results)
    difference = (
        paired_difference(first, match_detections(truth, worse_results(results, 0.05)), resamples=200)
        .metrics["AP"]
        .interval
    )
    single = bootstrap_intervals(first, list("abcd"), resamples=200).metrics["AP"]
    assert difference is not None
    assert single is not None
    assert difference.high - difference.low < (single.high - single.low) / 2


@pytest.mark.parametrize("kind", ["same", "no objects", "one image"])
def test_equal_or_missing_results_have_a_clear_verdict(kind: str, random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(4)
    other = results
    if kind == "no objects":
        truth["annotations"] = []
    if kind == "one image":
        truth["images"] = truth["images"][1:2]
        own_id = truth["images"][0]["id"]
        results = [row for row in results if row["image_id"] == own_id]
        other = []
        truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] == own_id]
    own = paired_difference(match_detections(truth, results), match_detections(truth, other), resamples=20)
    assert own.verdict == ("the same" if kind == "same" else "cannot tell")
    expected = {"same": "the same AP", "no objects": "there are no objects", "one image": "one image tells nothing"}
    assert expected[kind] in own.describe()
    assert own.images_needed is None


def test_different_images_or_classes_are_refused(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(5)
    own = match_detections(truth, results)
    with pytest.raises(InputError, match="different images"):
        paired_difference(own, match_detections(truth | {"images": truth["images"][1:]}, results[:0]))
    with pytest.raises(InputError, match="different classes"):
        paired_difference(own, match_detections(truth | {"categories": truth["categories"][1:]}, results[:0]))
