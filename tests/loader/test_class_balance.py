"""Repeat-factor sampling, the limit of background images and class weights.

The formulas are the published ones, and the order depends only on seed and position.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.split import Split
from detector.loader.class_balance import (
    balance_lines,
    class_repeat_factors,
    class_weights,
    count_objects,
    image_repeat_factors,
    shown_fractions,
)
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch

NAMES = ("car", "bus", "tram")


def annotation(image_id: int, class_ids: list[int], crowd: bool = False) -> Annotation:
    count = len(class_ids)
    boxes = np.tile(np.array([[2, 2, 30, 30]], dtype=np.float32), (count, 1))
    rows = (np.array(class_ids, dtype=np.int64), np.full(count, crowd), np.full(count, 784, np.float32))
    return Annotation(image_id, Path(f"{image_id}.png"), (32, 64), boxes, *rows)


IMAGES = [annotation(0, [1, 0]), *(annotation(i, [0, 0]) for i in range(1, 15)), annotation(15, [])]
"""16 images: `car` in 15 of them, `bus` in one, `tram` in none."""


def make(repeat_factor: float, annotations: list[Annotation] = IMAGES, **settings: float) -> DetectionDataset:
    def read_image(own: Annotation) -> ImageArray:
        return np.random.default_rng(own.image_id).integers(0, 256, (*own.image_hw, 3), dtype=np.uint8)

    split = Split("train", NAMES, (1, 2, 3), tuple(annotations), Ledger(used=30), read_image)
    return DetectionDataset(split, (32, 64), replace(Config(**settings), repeat_factor=repeat_factor))  # type: ignore[arg-type]


def shown(dataset: DetectionDataset, epochs: int) -> list[int]:
    return [dataset.training_sample(k, 99).image_id for k in range(len(dataset) * epochs)]


def test_repeat_factors_are_those_of_the_paper() -> None:
    np.testing.assert_allclose(class_repeat_factors(IMAGES, 0.25, 3), [1, (0.25 / (1 / 16)) ** 0.5, 1])
    np.testing.assert_allclose(image_repeat_factors(IMAGES, 0.25), [2, *[1] * 15])
    crowd = [annotation(0, [1], crowd=True), *IMAGES[1:]]
    np.testing.assert_allclose(image_repeat_factors(crowd, 0.25), 1)
    np.testing.assert_allclose(image_repeat_factors([annotation(0, [])] * 3, 1), 1)


@pytest.mark.parametrize("repeat_factor", [0.25, 1.0])
def test_each_epoch_shows_images_as_often_as_expected(repeat_factor: float) -> None:
    dataset = make(repeat_factor, mosaic=0)
    factors = image_repeat_factors(IMAGES, repeat_factor)
    expected = factors / factors.sum() * len(IMAGES)
    for epoch in range(5):
        counts = Counter(shown(dataset, 5)[16 * epoch : 16 * epoch + 16])
        for image_id, value in enumerate(expected):
            assert np.floor(value) <= counts[image_id] <= np.ceil(value)
    counts = Counter(shown(dataset, 100))
    np.testing.assert_allclose([counts[i] / 100 for i in range(16)], expected, atol=0.2)


def test_repeats_depend_only_on_seed_and_position() -> None:
    first, second = make(1.0, mosaic=0.5, mosaic_from=0.0, mixup=0.5), make(1.0, mosaic=0.5, mosaic_from=0.0, mixup=0.5)
    forwards = [first.training_sample(k, 9).image for k in range(40)]
    backwards = [second.training_sample(k, 9).image for k in reversed(range(40))]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert shown(make(1.0), 3) != shown(make(1.0, seed=1), 3)


def test_parts_of_a_batch_are_those_of_the_batch() -> None:
    dataset = make(1.0)
    whole = training_batch(dataset, 7, 6, 40)
    parts = [training_batch(dataset, 7, 6, 40, part=slice(start, start + 2)) for start in (0, 2, 4)]
    assert whole.image_ids == tuple(image_id for part in parts for image_id in part.image_ids)
    assert np.array_equal(whole.images.numpy(), np.concatenate([part.images.numpy() for part in parts]))


def test_an_image_repeated_in_an_epoch_is_augmented_differently() -> None:
    dataset = make(1.0, mosaic=0)
    samples = [dataset.training_sample(k, 9) for k in range(16)]
    repeated = [own.image.tobytes() for own in samples if own.image_id == 0]
    assert len(repeated) == len(set(repeated)) >= 2


def test_without_rare_classes_images_are_shown_equally_often() -> None:
    dataset = make(0.05, mosaic=0)
    assert all(sorted(shown(dataset, 3)[16 * e : 16 * e + 16]) == list(range(16)) for e in range(3))
    (line,) = balance_lines(IMAGES, NAMES, Config(repeat_factor=0.05))
    assert "no effect" in line


MOSTLY_BACKGROUND = [*(annotation(i, [0]) for i in range(4)), *(annotation(i, []) for i in range(4, 40))]
"""40 images: 36 of them have no objects."""


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.0])
def test_background_images_are_at_most_a_fraction_of_the_shown_images(fraction: float) -> None:
    dataset = make(0.0, MOSTLY_BACKGROUND, mosaic=0, max_background=fraction)
    ids = shown(dataset, 50)
    counts = Counter(ids)
    background = sum(counts[i] for i in range(4, 40))
    assert abs(background / len(ids) - fraction) <= 0.01
    assert all(sum(i >= 4 for i in ids[40 * e :][:40]) <= 40 * fraction + 5 for e in range(50))
    assert all(counts[i] for i in range(4))
    assert ids == shown(make(0.0, MOSTLY_BACKGROUND, mosaic=0, max_background=fraction), 50)


def test_every_background_image_is_shown_in_some_epoch() -> None:
    counts = Counter(shown(make(0.0, MOSTLY_BACKGROUND, mosaic=0), 50))
    assert set(counts) == set(range(40))
    assert min(counts[i] for i in range(4)) > 5 * max(counts[i] for i in range(4, 40))


@pytest.mark.parametrize(
    ("annotations", "limit"), [(MOSTLY_BACKGROUND, 1.0), (MOSTLY_BACKGROUND[:8], 0.5), (MOSTLY_BACKGROUND[4:], 0.5)]
)
def test_up_to_the_limit_all_images_are_shown_equally_often(annotations: list[Annotation], limit: float) -> None:
    dataset = make(0.0, annotations, mosaic=0, max_background=limit)
    ids = [own.image_id for own in annotations]
    assert all(sorted(shown(dataset, 2)[len(ids) * e :][: len(ids)]) == ids for e in range(2))
    assert balance_lines(annotations, NAMES, Config(max_background=limit)) == []


def test_rare_classes_and_the_limit_of_background_images_work_together() -> None:
    annotations = [annotation(0, [1]), *MOSTLY_BACKGROUND[1:]]
    fractions = shown_fractions(annotations, Config(repeat_factor=0.1))
    assert fractions is not None
    np.testing.assert_allclose(fractions[:4].sum(), 0.75)
    np.testing.assert_allclose(fractions[0] / fractions[1], (3 / 1) ** 0.5)


def test_the_log_says_that_background_images_are_shown_less_often() -> None:
    (line,) = balance_lines(MOSTLY_BACKGROUND, NAMES, Config())
    assert line == (
        "max_background: 36 of 40 training images (90%) have no objects; they are shown less often, as 25% of the "
        "images of an epoch, and each image with objects 7.5 times per epoch"
    )


def test_with_repeat_factor_the_log_says_how_often_images_are_shown_on_average() -> None:
    annotations = [annotation(0, [1]), *MOSTLY_BACKGROUND[1:]]
    _, line = balance_lines(annotations, NAMES, Config(repeat_factor=0.1))
    assert line.endswith("and each image with objects on average 7.5 times per epoch")
    # The image with a bus is shown three times as often, so the background images are already below the limit.
    (line,) = balance_lines([annotation(0, [1]), *IMAGES[1:]], NAMES, Config(repeat_factor=0.5, max_background=0.06))
    assert line.startswith("repeat_factor")


def test_selected_images_have_their_own_factors() -> None:
    dataset = make(1.0, mosaic=0)
    shown(dataset, 1)
    chosen = dataset.select([1, 2, 3])
    assert sorted(shown(chosen, 1)) == [1, 2, 3]


def test_mosaics_and_mixup_show_rare_images_more_often() -> None:
    plain, balanced = (make(factor, mosaic=1.0, mosaic_from=0.0) for factor in (0.0, 1.0))
    buses = [
        sum(int((d.training_sample(k, 99).class_ids == 1).sum()) for k in range(16, 160)) for d in (plain, balanced)
    ]
    assert buses[1] > 1.5 * buses[0]


@pytest.mark.parametrize("balance", ["inverse", "sqrt_inverse", "effective"])
def test_weights_fall_with_objects_and_have_mean_one(balance: str) -> None:
    counts = np.array([900, 90, 10, 0])
    weights = class_weights(counts, balance)  # type: ignore[arg-type]
    assert weights is not None
    assert weights[0] < weights[1] < weights[2] < weights[3]
    np.testing.assert_allclose((weights * counts).sum(), counts.sum())


def test_class_weights_are_those_of_the_papers() -> None:
    counts = np.array([900, 100])
    inverse, effective = class_weights(counts, "inverse"), class_weights(counts, "effective")
    assert inverse is not None
    assert effective is not None
    np.testing.assert_allclose(inverse, 1000 / (2 * counts))
    np.testing.assert_allclose(effective[1] / effective[0], (1 - 0.999**900) / (1 - 0.999**100))
    assert class_weights(counts, "none") is None


def test_objects_are_counted_without_crowd_regions() -> None:
    assert count_objects([*IMAGES, annotation(99, [2], crowd=True)], 3).tolist() == [29, 1, 0]


def test_the_log_names_the_rare_classes() -> None:
    lines = balance_lines(IMAGES, NAMES, Config(repeat_factor=0.25, class_balance="inverse"))
    assert lines[0] == "repeat_factor: images of 1 of 3 classes are shown more often: bus 2.00x"
    assert lines[1] == "class_balance: weights bus 15, car 0.517"
    assert balance_lines(IMAGES, NAMES, Config()) == []
