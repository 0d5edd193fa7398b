import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.checking.learning import (
    RangeTest,
    check_cost,
    check_rate,
    diagnose_preprocessing,
    overfit_test,
    range_test,
)
from detector.config import Config
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.loader.batch import Batch
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch
from detector.model.network import GridNetwork
from detector.training.trainer import Trainer

HW = (64, 96)


@pytest.fixture(scope="module")
def split(tiny_data: Path) -> Split:
    return open_data(tiny_data).read("train")


def network_for(split: Split, config: Config) -> GridNetwork:
    torch.manual_seed(0)
    dataset = DetectionDataset(split, HW, config)
    return GridNetwork(config, len(split.class_names), *dataset.color_statistics())


def test_training_and_detection_see_the_same_images(split: Split) -> None:
    assert diagnose_preprocessing(DetectionDataset(split, HW, Config()), split).verdict == "ok"


def test_red_and_blue_swapped_between_training_and_detection_are_found(split: Split) -> None:
    swapped = replace(split, read_image=lambda a: np.ascontiguousarray(split.read_image(a)[..., ::-1]))
    finding = diagnose_preprocessing(DetectionDataset(swapped, HW, Config()), swapped)
    assert finding.verdict == "stop"
    assert "BGR" in finding.advice


def test_another_image_in_training_than_in_detection_is_found(split: Split) -> None:
    shifted = replace(split, read_image=lambda a: np.roll(split.read_image(a), 24, axis=1))
    assert diagnose_preprocessing(DetectionDataset(shifted, HW, Config()), shifted).verdict == "stop"


def test_a_few_images_are_learned_by_heart(split: Split) -> None:
    finding = overfit_test(split, Config(model="pico", precision="fp32"), HW, torch.float32, 60)
    assert finding.verdict == "ok", finding


@pytest.mark.parametrize("settings", [{"lr": 0.0, "lr_adamw": 0.0}, {"optimizer": "sgd", "lr": 1e20}], ids=str)
def test_a_learning_rate_that_cannot_learn_them_is_found(split: Split, settings: dict[str, object]) -> None:
    config = Config(**{"model": "pico"} | settings)  # type: ignore[arg-type]
    assert overfit_test(split, config, HW, torch.float32, 1.5).verdict == "stop"


def test_images_that_are_not_those_of_the_files_are_not_found_again(split: Split) -> None:
    upside_down = replace(split, read_image=lambda a: np.ascontiguousarray(split.read_image(a)[::-1, ::-1]))
    finding = overfit_test(upside_down, Config(model="pico"), HW, torch.float32, 5)
    assert finding.verdict != "ok"


def test_a_split_without_objects_has_nothing_to_learn_by_heart(split: Split) -> None:
    empty = replace(
        split,
        annotations=tuple(
            replace(a, boxes=a.boxes[:0], class_ids=a.class_ids[:0], is_crowd=a.is_crowd[:0], areas=a.areas[:0])
            for a in split.annotations
        ),
    )
    assert overfit_test(empty, Config(model="pico"), HW, torch.float32, 1).verdict == "look"


def batches(split: Split, config: Config) -> Iterator[Batch]:
    dataset = DetectionDataset(split, HW, config)
    return (training_batch(dataset, step, 4, 10**6) for step in itertools.count())


@pytest.mark.parametrize(("lr", "verdicts"), [("auto", {"ok", "look"}), (20.0, {"look", "stop"})])
def test_the_range_test_does_not_refuse_the_default_and_does_not_pass_a_rate_far_above_it(
    split: Split, lr: float, verdicts: set[str]
) -> None:
    config = Config(model="pico", optimizer="sgd", lr=lr, clip_norm=1e9)
    network = network_for(split, config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    test = range_test(network, batches(split, config), config, torch.float32, 60)
    assert check_rate(test).verdict in verdicts, check_rate(test)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert len(test.rates) == len(test.losses)


@pytest.mark.parametrize(("peak", "verdict"), [(0.05, "ok"), (0.9, "stop"), (0.001, "look"), (0.55, "look")])
def test_the_verdict_on_a_rate_follows_suggestion_and_divergence(peak: float, verdict: str) -> None:
    assert check_rate(RangeTest([0.1, 0.5], [1.0, 0.5], peak, suggested=0.05, diverges=0.8)).verdict == verdict


def test_a_loss_that_falls_nowhere_suggests_no_rate() -> None:
    noise = RangeTest([0.1, 0.2], [1.0, 0.97], 0.05, suggested=0.02, diverges=float("inf"))
    assert check_rate(noise).verdict == "look"
    assert "suggest" not in check_rate(noise).measured


@pytest.mark.parametrize(("settings", "verdict"), [({"epochs": 10}, "ok"), ({"steps": 2}, "look")])
def test_the_cost_of_a_run_is_foretold(split: Split, settings: dict[str, object], verdict: str) -> None:
    config = Config(model="pico", **settings)  # type: ignore[arg-type]
    dataset = DetectionDataset(split, HW, config)
    trainer = Trainer(network_for(split, config), config, torch.device("cpu"), torch.float32)
    finding = check_cost(trainer, dataset, 4, config, len(dataset))
    assert finding.verdict == verdict
    assert "epochs" in finding.measured
