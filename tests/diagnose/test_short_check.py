from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.config import Config
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.diagnose.short_check import short_check
from detector.errors import ImageError
from detector.loader.dataset import DetectionDataset
from detector.model.make_network import make_network

INPUT_HW = (64, 96)


@pytest.fixture(scope="module")
def splits(tiny_data: Path) -> list[Split]:
    source = open_data(tiny_data)
    return [source.read("train"), source.read("val")]


def test_short_check_includes_the_initial_loss_of_new_networks(splits: list[Split]) -> None:
    config = Config(model="pico")
    dataset = DetectionDataset(splits[0], INPUT_HW, config)
    network = make_network(config, 2, np.full(3, 128, np.float32), np.eye(3, dtype=np.float32) * 5400)
    trained = short_check(splits, dataset, None, batch_size=4)
    fresh = short_check(splits, dataset, network, batch_size=4)
    assert fresh[:-1] == trained
    assert fresh[-1].check == "network: initial loss"


def test_short_check_counts_images_that_cannot_be_decoded(splits: list[Split]) -> None:
    train, val = splits
    first, read_image = train.annotations[0], train.read_image

    def read_all_but_first(annotation: Annotation) -> ImageArray:
        if annotation.image_id == first.image_id:
            raise ImageError(f"{annotation.image_path}: truncated")
        return read_image(annotation)

    train = replace(train, read_image=read_all_but_first)
    dataset = DetectionDataset(train, INPUT_HW, Config())
    rows = short_check([train, val], dataset, None, batch_size=4)[0]
    assert rows.check == "data: label rows"
    assert rows.verdict == "look"
    assert str(first.image_path) in rows.advice
