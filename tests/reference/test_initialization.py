"""The initial weights and scores of a network follow the published formulas."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detector.config import Config
from detector.model.make_network import make_network
from detector.model.network import GridNetwork

ENOUGH = 20_000
"""Smallest number of weights of a tested layer. Then their standard deviation has a relative error below 0.5 %."""


def expected_std(conv: nn.Conv2d, init: str, is_dense: bool) -> float:
    """Return the standard deviation of initial weights by the published formula, with fan-in n and fan-out m."""
    channels_out, channels_in, height, width = conv.weight.shape
    # The kernel of a fully connected layer covers the whole feature map: each of its weights is used once.
    area = 1 if is_dense else height * width
    n, m = channels_in * height * width, channels_out * area
    return {
        "he": math.sqrt(2 / n),
        "xavier": math.sqrt(2 / (n + m)),
        "lecun": math.sqrt(1 / n),
        "normal": 0.07,
    }[init]


def build(config: Config, class_count: int) -> GridNetwork:
    return make_network(config, class_count, np.zeros(3, np.float32), np.eye(3, dtype=np.float32), (64, 96))


@pytest.mark.parametrize("settings", [{}, {"head": "yolo_v1", "cell_output": "dense"}])
@pytest.mark.parametrize("init", ["he", "xavier", "lecun", "normal"])
def test_initial_weights_have_the_standard_deviation_of_the_formula(init: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    # With 300 classes the last layers also have enough weights.
    network = build(Config(init=init, init_std=0.07, **settings), 300)  # type: ignore[arg-type]
    checked = 0
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d) or module.weight.numel() < ENOUGH:
            continue
        weight = module.weight.detach()
        # The weights of the last layer of a head are scaled by 0.1.
        expected = expected_std(module, init, name == "cells.hidden.conv") * (0.1 if name.endswith("output") else 1)
        assert float(weight.std()) == pytest.approx(expected, rel=0.03), name
        assert float(weight.mean()) == pytest.approx(0, abs=0.03 * expected), name
        checked += 1
    assert checked > 12


@pytest.mark.parametrize("class_count", [1, 20, 300])
def test_initial_scores_are_one_percent_or_lower_for_many_classes(class_count: int) -> None:
    for class_loss, expected in (("sigmoid", 0.01), ("softmax", min(0.01, 0.5 / class_count))):
        network = build(Config(model="pico", class_loss=class_loss), class_count)  # type: ignore[arg-type]
        for output in network.outputs:
            assert output.bias is not None
            exponentials = np.exp(output.bias.detach().double().numpy()[:class_count])
            # The logit of the background is 0 and e^0 = 1. Softmax has one background class, each sigmoid has its own.
            scores = exponentials / (1 + (exponentials.sum() if class_loss == "softmax" else exponentials))
            np.testing.assert_allclose(scores, expected, rtol=1e-5)
