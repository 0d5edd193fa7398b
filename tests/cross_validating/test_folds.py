"""Folds: every image is in one fold, near-duplicates stay together, and objects are divided evenly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.cross_validating.folds import make_folds
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import ConfigError, LabelError
from detector.image_hashes import hash_files
from detector.images import read_image, write_image


@pytest.fixture
def train(tiny_data: Path) -> Split:
    return open_data(tiny_data).read("train")


def folds_of(split: Split, count: int) -> tuple[frozenset[int], ...]:
    return make_folds(split, hash_files(a.image_path for a in split.annotations), count).images


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_every_image_is_in_exactly_one_fold(train: Split, count: int) -> None:
    folds = folds_of(train, count)
    assert sorted(image for fold in folds for image in fold) == [a.image_id for a in train.annotations]
    assert len(folds) == count
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_objects_of_each_class_are_divided_evenly(train: Split) -> None:
    objects = [
        np.bincount(np.concatenate([a.class_ids for a in train.annotations if a.image_id in fold]), minlength=2)
        for fold in folds_of(train, 3)
    ]
    assert np.ptp(np.array(objects), axis=0).max() <= 2


def test_folds_do_not_depend_on_the_order_of_the_images(train: Split) -> None:
    other = replace(train, annotations=train.annotations[::-1])
    assert folds_of(other, 4) == folds_of(train, 4)


def test_copies_and_near_duplicates_stay_in_one_fold(train: Split, tmp_path: Path) -> None:
    copies = []
    for a in train.annotations:
        darker = (read_image(a.image_path) * 0.8).astype(np.uint8)
        write_image(tmp_path / f"dark-{a.image_path.name}", darker)
        copies.append(replace(a, image_id=a.image_id + 100, image_path=tmp_path / f"dark-{a.image_path.name}"))
        same = tmp_path / f"same-{a.image_path.name}"
        same.write_bytes(a.image_path.read_bytes())
        copies.append(replace(a, image_id=a.image_id + 200, image_path=same))
    folds = folds_of(replace(train, annotations=(*train.annotations, *copies)), 3)
    for fold in folds:
        assert {image % 100 for image in fold} == {image for image in fold if image < 100}
        assert len(fold) == 12


def test_one_large_group_is_divided_with_a_warning(train: Split, tmp_path: Path) -> None:
    first = train.annotations[0]
    images = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        write_image(path, np.clip(read_image(first.image_path).astype(int) + number, 0, 255).astype(np.uint8))
        images.append(replace(first, image_id=number, image_path=path))
    split = replace(train, annotations=tuple(images))
    made = make_folds(split, hash_files(a.image_path for a in images), 3)
    assert "AP is too high" in made.warnings[0]
    assert sorted(map(len, made.images))[0] >= 1


def test_impossible_numbers_of_folds_are_errors(train: Split) -> None:
    with pytest.raises(LabelError, match="use fewer folds"):
        folds_of(train, 13)
    with pytest.raises(ConfigError, match="at least 2"):
        folds_of(train, 1)
