from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detector.config import Config
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.model.summary import LayerSummary, summarize


def summary(input_hw: tuple[int, int] = (64, 96), **settings: Any) -> tuple[GridNetwork, list[LayerSummary]]:
    network = make_network(
        Config(**{"model": "pico"} | settings),
        3,
        np.full(3, 110, np.float32),
        np.eye(3, dtype=np.float32) * 3600,
        input_hw,
    )
    return network, summarize(network, input_hw)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "prelu"},
        {"norm": "none"},
        {"downsample": "max_pool"},
        {"head": "yolo_v1"},
        {"head": "yolo_v1", "cell_output": "dense"},
    ],
)
def test_parameters_of_the_layers_add_up_to_the_network(settings: dict[str, Any]) -> None:
    network, layers = summary(**settings)
    assert sum(layer.parameters for layer in layers) == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("settings", [{}, {"head": "yolo_v1", "cell_output": "dense"}])
def test_flops_are_two_per_weight_and_output_position(settings: dict[str, Any]) -> None:
    network, layers = summary(**settings)
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    for layer in layers:
        conv = convolutions.get(f"{layer.name}.conv", convolutions.get(layer.name))
        assert conv is not None
        assert layer.flops == 2 * conv.weight.numel() * layer.size_hw[0] * layer.size_hw[1]
    assert len(layers) == len(convolutions)


def test_sizes_follow_the_formula_with_and_without_padding() -> None:
    _, same = summary((64, 96))
    assert [layer.size_hw for layer in same[:2]] == [(32, 48), (16, 24)]
    _, valid = summary((224, 256), padding="valid")
    assert [layer.size_hw for layer in valid[:3]] == [(111, 127), (55, 63), (27, 31)]
    _, pooled = summary((64, 96), downsample="avg_pool")
    assert [(layer.kind, layer.size_hw) for layer in pooled[:2]] == [
        ("conv 3x3", (64, 96)),
        ("average-pool 2x2/2", (32, 48)),
    ]


def first_influence(network: GridNetwork, reverse: bool) -> int:
    """Return the smallest number of pixel columns at one side of the image that can influence the central cell.

    All weights are positive and all biases are 0. So the cell is above 0 exactly if a nonzero pixel column lies in the
    receptive field of the cell. This is true for max pooling too.

    Args:
        network: the network; the central cell of its feature map at stride 16 is observed.
        reverse: False: count columns from the left side of the image. True: from the right side.
    """
    outputs: list[torch.Tensor] = []
    hook = network.backbone.stages[1].register_forward_hook(lambda _, __, output: outputs.append(output))
    low, high = 0, 512
    while high - low > 1:
        columns = (low + high) // 2
        image = torch.zeros(1, 3, 224, 512)
        image[..., :columns] = 1
        with torch.inference_mode():
            network.backbone(image.flip(-1) if reverse else image)
        output = outputs.pop()
        changed = bool(output[0, 0, output.shape[2] // 2, output.shape[3] // 2] > 0)
        low, high = (low, columns) if changed else (columns, high)
    hook.remove()
    return high


@pytest.mark.parametrize("settings", [{}, {"downsample": "max_pool"}, {"kernel": 5}, {"padding": "valid"}])
def test_receptive_field_equals_the_measured_field(settings: dict[str, Any]) -> None:
    """Measure which pixel columns influence the central cell of a feature map of the backbone."""
    network, layers = summary((224, 512), activation="identity", norm="none", residual=False, **settings)
    stage = [layer for layer in layers if layer.name.startswith("backbone.stages.1")][-1]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
    left, right = first_influence(network, reverse=False) - 1, 512 - first_influence(network, reverse=True)
    assert stage.receptive_field == right - left + 1

    if settings.get("downsample") == "max_pool":
        return  # if values are equal, max pooling passes the gradient to only one of them
    outputs: list[torch.Tensor] = []
    network.backbone.stages[1].register_forward_hook(lambda _, __, output: outputs.append(output))
    image = torch.zeros(1, 3, 224, 512, requires_grad=True)
    network.backbone(image)
    output = outputs[0]
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert stage.receptive_field == int((image.grad[0].abs().sum(dim=(0, 1)) > 0).sum())


def test_summary_does_not_change_the_network() -> None:
    network, _ = summary()
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    summarize(network, (64, 64))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
