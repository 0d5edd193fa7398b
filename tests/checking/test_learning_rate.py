import itertools
import math

import pytest
import torch

from detector.checking.learning_rate import RangeTest, diagnose_learning_rate, range_test
from detector.config import Config
from detector.data.split import Split
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batch
from detector.model.make_network import make_network

INPUT_HW = (64, 96)


def run(split: Split, config: Config) -> RangeTest:
    """Run the range test and return the result. The batch is always the same: other batches would add noise."""
    dataset = DetectionDataset(split, INPUT_HW, config)
    torch.manual_seed(0)
    network = make_network(config, len(split.class_names), *dataset.color_statistics())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batches = itertools.repeat(training_batch(dataset, 0, 8, 1))
    test = range_test(network, batches, config, torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert len(test.rates) == len(test.losses)
    return test


def test_range_test_accepts_the_default_learning_rate(tiny_split: Split) -> None:
    # Measured with three seeds: the suggestion is 0.13 to 0.15. The finding is ok for suggestions of 0.0017 to 1.5.
    test = run(tiny_split, Config(model="pico"))
    assert test.peak == 0.05
    assert diagnose_learning_rate(test).verdict == "ok", test


def test_range_test_stops_at_a_far_too_high_learning_rate(tiny_split: Split) -> None:
    # Measured with three seeds: the loss diverges at learning rates between 16 and 190.
    test = run(tiny_split, Config(model="pico", optimizer="sgd", lr=1000.0, clip_norm=1e9))
    assert test.diverges < test.peak
    assert diagnose_learning_rate(test).verdict == "stop", test


@pytest.mark.parametrize(("peak", "verdict"), [(0.05, "ok"), (0.9, "stop"), (0.001, "look"), (0.55, "ok")])
def test_verdict_follows_suggested_and_diverging_rate(peak: float, verdict: str) -> None:
    test = RangeTest([0.1, 0.5], [1.0, 0.5], peak, suggested=0.05, diverges=0.8)
    assert diagnose_learning_rate(test).verdict == verdict


@pytest.mark.parametrize(("diverges", "verdict", "suggests"), [(math.inf, "ok", True), (0.04, "stop", True)])
def test_loss_that_hardly_decreases_suggests_no_rate(diverges: float, verdict: str, suggests: bool) -> None:
    finding = diagnose_learning_rate(RangeTest([0.1, 0.2], [1.0, 0.97], 0.05, suggested=0.02, diverges=diverges))
    assert finding.verdict == verdict
    assert ("suggest" in finding.measured) == suggests
    assert "--set lr" not in finding.advice
