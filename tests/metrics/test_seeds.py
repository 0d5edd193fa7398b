"""Two settings compared over seeds and images: the intervals, what they cover, and what would tell."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.errors import FileError
from detector.metrics.bootstrap import half_weights
from detector.metrics.intervals import Interval
from detector.metrics.matches import match_detections
from detector.metrics.paired import paired_difference
from detector.metrics.seeds import ApHalves, SeedsDifference, ap_halves, seeds_difference

Coco = tuple[dict[str, Any], list[dict[str, Any]]]

ANY = {number: str(number) for number in range(90)}
"""Category id → name of the class."""

IMAGES = 60
HALVES = half_weights(IMAGES, 400).astype(np.float64)


def pairs(values: np.ndarray, val: str = "") -> list[tuple[ApHalves | None, ApHalves | None]]:
    """Return the halves of runs whose AP is the mean of these values [S, images], and of a baseline whose AP is 0."""
    ap = values @ HALVES.T / HALVES.sum(axis=1)
    baseline = ApHalves(val, IMAGES, np.zeros(len(HALVES)))
    return [(ApHalves(val, IMAGES, own), baseline) for own in ap]


def compare(values: np.ndarray) -> SeedsDifference:
    return seeds_difference(values.mean(axis=1).tolist(), pairs(values))


def draw(rng: np.random.Generator, seeds: int, parts: tuple[float, float, float]) -> np.ndarray:
    """Return differences [S, images]; each part (seed, images, both) has this standard deviation in their mean."""
    seed, images, both = (part * 0.01 for part in parts)
    shape, root = (seeds, IMAGES), IMAGES**0.5
    values = rng.normal(0, seed, (seeds, 1)) + rng.normal(0, images * root, IMAGES) + rng.normal(0, both * root, shape)
    return np.asarray(values)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("parts", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (0.5, 1, 0.5)])
def test_interval_contains_the_truth_in_simulations(seeds: int, parts: tuple[float, float, float]) -> None:
    """400 comparisons; at least 95 %, less 2.5 standard errors. The interval for seeds only fails if images matter."""
    rng = np.random.default_rng(0)
    own = [compare(draw(rng, seeds, parts)) for _ in range(400)]
    contained = [one.interval is not None and one.interval.low <= 0 <= one.interval.high for one in own]
    assert np.mean(contained) > 0.923
    only = [one.seeds_only is not None and one.seeds_only.low <= 0 <= one.seeds_only.high for one in own]
    if parts == (0.5, 1, 0.5) and seeds > 2:
        assert np.mean(only) < 0.8


def test_image_noise_of_all_seeds_stays_and_other_noise_averages_out() -> None:
    rng = np.random.default_rng(1)
    widths = {}
    for seeds in (5, 20):
        for parts in ((0, 1, 0), (0, 0, 1)):
            interval = compare(draw(rng, seeds, parts)).interval
            assert interval is not None
            widths[seeds, parts] = interval.high - interval.low
    assert widths[20, (0, 1, 0)] > 0.7 * widths[5, (0, 1, 0)]
    assert widths[20, (0, 0, 1)] < 0.6 * widths[5, (0, 0, 1)]


def test_margins_are_those_of_the_docs() -> None:
    rng = np.random.default_rng(2)
    values = draw(rng, 3, (1, 1, 1))
    own = compare(values)
    covariance = np.cov(pairs_to_halves(values))
    common = (covariance.sum() - np.trace(covariance)) / 6  # the mean covariance of two seeds
    assert common > 0
    seeds = 4.3027 * values.mean(axis=1).std(ddof=1) / 3**0.5
    images = 2.001 * common**0.5
    assert own.seeds_only is not None
    assert own.interval is not None
    assert (own.covers, own.seeds, own.images) == ("seeds and images", 3, IMAGES)
    assert own.seeds_only.high - own.seeds_only.low == pytest.approx(2 * seeds)
    assert (own.interval.high - own.interval.low) / 2 == pytest.approx(math.hypot(seeds, images), rel=0.01)


def pairs_to_halves(values: np.ndarray) -> np.ndarray:
    """Return [S, R] the mean of the values on the halves."""
    return np.asarray((values @ HALVES.T / HALVES.sum(axis=1))[:, 1:])


def test_verdict_says_whether_seeds_or_images_would_help() -> None:
    rng = np.random.default_rng(3)
    of_seeds, of_images = compare(0.01 + draw(rng, 4, (2, 0.1, 0.1))), compare(0.012 + draw(rng, 4, (0.1, 1.5, 0)))
    assert of_seeds.verdict().startswith("cannot tell; about ")
    assert of_seeds.verdict().endswith(" seeds would")
    assert of_images.seeds_needed is None
    assert of_images.verdict().startswith("cannot tell; about ")
    assert of_images.verdict().endswith(" val images would, more seeds would not")
    nothing = seeds_difference([0.1, -0.1], pairs(np.array([[0.1], [-0.1]]) + draw(rng, 2, (0, 3, 0))))
    assert nothing.verdict() == "cannot tell; neither more seeds nor more val images alone would"


@pytest.mark.parametrize("parts", [(2, 0.5, 0.5), (0.3, 1.5, 0.3)])
def test_so_many_seeds_or_images_are_enough_in_simulations(parts: tuple[float, float, float]) -> None:
    """The numbers are estimates from four seeds; with them, most comparisons tell."""
    rng = np.random.default_rng(8)
    first = draw(rng, 4, parts)
    own = compare(0.02 + first - first.mean())
    told = []
    for _ in range(200):
        if own.seeds_needed is not None:
            values = own.value + draw(rng, own.seeds_needed, parts)
        else:
            assert own.images_needed is not None
            shrink = (IMAGES / own.images_needed) ** 0.5
            values = own.value + draw(rng, 4, (parts[0], parts[1] * shrink, parts[2] * shrink))
        told.append(compare(values).verdict() in ("better", "worse"))
    assert np.mean(told) > 0.5


def test_clear_differences_have_a_verdict() -> None:
    rng = np.random.default_rng(4)
    assert compare(0.2 + draw(rng, 3, (1, 1, 1))).verdict() == "better"
    assert compare(-0.2 + draw(rng, 3, (1, 1, 1))).verdict() == "worse"
    assert compare(np.zeros((3, IMAGES))).verdict() == "the same"


def test_what_holds_on_these_images_may_not_hold_on_others() -> None:
    values = 0.02 + draw(np.random.default_rng(5), 3, (0, 2, 0))
    own = seeds_difference([0.020, 0.021, 0.022], pairs(values))
    assert own.seeds_only is not None
    assert own.seeds_only.low > 0
    assert own.verdict().startswith("cannot tell; ")
    without = seeds_difference([0.020, 0.021, 0.022])
    assert (without.covers, without.interval, without.verdict()) == (
        "seeds",
        own.seeds_only,
        "better, on these val images",
    )


def test_one_seed_covers_images_only() -> None:
    own = compare(0.05 + draw(np.random.default_rng(6), 1, (1, 1, 0)))
    assert (own.covers, own.seeds, own.seeds_only) == ("images", 1, None)
    assert own.interval is not None
    assert own.interval.low > 0
    assert own.verdict() == "cannot tell from one seed"
    assert seeds_difference([0.1]).interval is None
    assert seeds_difference([]).verdict() == "no baseline to compare with"


def test_one_seed_has_the_interval_of_two_weights(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(0, images=40)
    fewer = match_detections(truth, results[: len(results) // 2])
    own = match_detections(truth, results)
    expected = paired_difference(own, fewer).metrics["AP"]
    found = seeds_difference([expected.value], [(ap_halves(own, ANY), ap_halves(fewer, ANY))])
    assert expected.interval is not None
    assert found.interval is not None
    assert found.interval.to_json() == pytest.approx(expected.interval.to_json())


def test_runs_on_other_images_are_not_paired() -> None:
    values = draw(np.random.default_rng(7), 2, (1, 1, 1))
    mixed = [pairs(values, "a")[0], pairs(values, "b")[1]]
    missing = [pairs(values)[0], (None, pairs(values)[1][1])]
    for halves in (mixed, missing, []):
        own = seeds_difference([0.1, 0.2], halves)
        assert (own.covers, own.images, own.interval) == ("seeds", 0, own.seeds_only)


def test_images_that_tell_nothing_are_not_counted_as_certain() -> None:
    same = [(ApHalves("", 60, np.full(5, 0.5)), ApHalves("", 60, np.full(5, 0.4)))] * 2
    assert seeds_difference([0.1, 0.1], same).covers == "seeds"
    one = [(ApHalves("", 1, own), ApHalves("", 1, own / 2)) for own in np.random.default_rng(0).random((2, 5))]
    assert seeds_difference([0.1, 0.1], one).covers == "seeds"


def test_intervals_stay_between_minus_one_and_one() -> None:
    own = seeds_difference([1.0, -1.0])
    assert own.interval == Interval(-1, 1)


def test_halves_survive_a_file_and_other_files_are_refused(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(1)
    own = ap_halves(match_detections(truth, results), ANY)
    assert own is not None
    read = ApHalves.from_json(json.loads(json.dumps(own.to_json())))
    assert (read.val, read.images, read.ap.tolist()) == (own.val, own.images, own.ap.tolist())
    assert own.images == len({row["image_id"] for row in truth["annotations"] if not row["iscrowd"]})
    written = own.to_json()
    others: list[object] = [{}, [], written | {"halves": [1]}, written | {"images": math.inf}]
    others += [written | {"AP": value} for value in ("x", math.nan, 10**400, 1.5, -1)]
    for broken in others:
        with pytest.raises(FileError, match="not the AP of random halves"):
            ApHalves.from_json(broken)
    assert ap_halves(match_detections(truth | {"annotations": []}, results), ANY) is None


def test_checksum_depends_on_the_images_and_objects(random_coco: Callable[..., Coco]) -> None:
    truth, results = random_coco(2)
    fewer = truth | {"annotations": truth["annotations"][1:]}
    own = [
        ap_halves(match_detections(coco, rows), ANY) for coco, rows in ((truth, results), (truth, []), (fewer, results))
    ]
    vals = [one.val for one in own if one is not None]
    assert vals[0] == vals[1] != vals[2]
