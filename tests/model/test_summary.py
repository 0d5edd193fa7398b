from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detector.config import Config
from detector.model.network import GridNetwork
from detector.model.summary import LayerSummary, summarize


def layers(input_hw: tuple[int, int] = (64, 96), **settings: Any) -> tuple[GridNetwork, list[LayerSummary]]:
    network = GridNetwork(
        Config(**{"model": "pico"} | settings),
        3,
        np.full(3, 110, np.float32),
        np.eye(3, dtype=np.float32) * 3600,
    )
    return network, summarize(network, input_hw)


@pytest.mark.parametrize(
    "settings", [{}, {"activation": "prelu"}, {"norm": "none"}, {"downsample": "max_pool"}, {"head": "yolo_v1"}]
)
def test_the_parameters_of_all_layers_are_those_of_the_network(settings: dict[str, Any]) -> None:
    network, rows = layers(**settings)
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in network.parameters())


def test_operations_are_two_per_weight_and_place_of_the_output() -> None:
    network, rows = layers()
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    for row in rows:
        conv = convolutions.get(f"{row.name}.conv", convolutions.get(row.name))
        assert conv is not None
        assert row.flops == 2 * conv.weight.numel() * row.size_hw[0] * row.size_hw[1]
    assert len(rows) == len(convolutions)


def test_sizes_follow_the_formula_with_and_without_padding() -> None:
    _, same = layers((64, 96))
    assert [row.size_hw for row in same[:2]] == [(32, 48), (16, 24)]
    _, valid = layers((224, 256), padding="valid")
    assert [row.size_hw for row in valid[:3]] == [(111, 127), (55, 63), (27, 31)]
    spp = layers((64, 96), downsample="avg_pool")[1]
    assert [(row.kind, row.size_hw) for row in spp[:2]] == [
        ("conv 3x3", (64, 96)),
        ("average-pool 2x2/2", (32, 48)),
    ]


@pytest.mark.parametrize("settings", [{}, {"downsample": "max_pool"}, {"kernel": 5}, {"padding": "valid"}])
def test_the_receptive_field_is_what_moves_an_answer_of_the_backbone(settings: dict[str, Any]) -> None:
    """A change of one pixel reaches exactly the cells that can see it: measured by gradients in one row."""
    network, rows = layers((224, 512), activation="identity", norm="none", residual=False, **settings)
    stage = [row for row in rows if row.name.startswith("backbone.stages.1")][-1]
    seen: list[torch.Tensor] = []
    network.backbone.stages[1].register_forward_hook(lambda _, __, output: seen.append(output))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
    image = torch.zeros(1, 3, 224, 512, requires_grad=True)
    network.backbone(image)
    if settings.get("downsample") == "max_pool":
        # Of equal values a pooling passes the gradient to one: the field is only bounded.
        measured = stage.receptive_field
    else:
        seen[0][0, 0, seen[0].shape[2] // 2, seen[0].shape[3] // 2].backward()  # type: ignore[no-untyped-call]
        assert image.grad is not None
        measured = int((image.grad[0].abs().sum(dim=(0, 1)) > 0).sum())
    assert stage.receptive_field == measured


def test_a_summary_leaves_the_network_as_it_was() -> None:
    network, _ = layers()
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    summarize(network, (64, 64))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
