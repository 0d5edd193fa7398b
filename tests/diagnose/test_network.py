"""The checks of a network find what is planted, and nothing where nothing is."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from detector.config import Config
from detector.diagnose.finding import Finding
from detector.diagnose.network import check_first_loss, check_gradients, check_signal, measure_signal
from detector.loader.batch import Batch
from detector.model.blocks import ConvBlock
from detector.model.network import GridNetwork
from detector.training.optimizer import make_optimizers


def build(**settings: object) -> tuple[GridNetwork, Config]:
    config = Config(**{"model": "pico"} | settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return GridNetwork(config, 3, np.full(3, 128, np.float32), np.eye(3, dtype=np.float32) * 5400), config


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 30.0], [50.0, 20.0, 90.0, 60.0]], [[20.0, 4.0, 60.0, 60.0], [0, 0, 9, 9]]])
    there = torch.ones(2, 2, dtype=torch.bool)
    return Batch(images, boxes, torch.tensor([[0, 1], [2, 1]]), there, ~there, (1, 2))


def signal(network: GridNetwork, config: Config) -> dict[str, Finding]:
    def full_step(trained: GridNetwork) -> None:
        for optimizer in make_optimizers(trained, config):
            optimizer.step()

    return {finding.check: finding for finding in check_signal(measure_signal(network, batch(), config, full_step))}


STYLES: list[dict[str, object]] = [
    {},
    {"activation": "leaky_relu", "downsample": "max_pool", "residual": False, "optimizer": "momentum"},
    {"norm": "group", "activation": "swish"},
    {"class_loss": "softmax"},
    {"class_loss": "sigmoid", "optimizer": "adam"},
    {"head": "yolo_v1", "dropout": 0.5},
]


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_a_sound_network_passes(style: dict[str, object]) -> None:
    network, config = build(**style)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    findings = [
        check_first_loss(network, batch(), config),
        check_gradients(network, batch(), config),
        *signal(network, config).values(),
    ]
    assert [str(finding) for finding in findings if finding.verdict == "stop"] == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("weight", ["class_weight", "iou_weight", "l1_weight"])
def test_a_wrong_sign_in_a_loss_is_found(weight: str) -> None:
    network, config = build()
    object.__setattr__(config, weight, -getattr(config, weight))
    assert check_first_loss(network, batch(), config).verdict == "stop"


def test_a_head_that_starts_at_the_wrong_scores_is_found() -> None:
    network, config = build()
    for output in network.outputs:
        torch.nn.init.zeros_(output.bias)  # type: ignore[arg-type]
    assert check_first_loss(network, batch(), config).verdict == "stop"


def zero(network: GridNetwork) -> None:
    for parameter in network.parameters():
        if parameter.ndim == 4:
            torch.nn.init.zeros_(parameter)


def freeze(network: GridNetwork) -> None:
    network.backbone.stages[1].requires_grad_(False)


def kill(network: GridNetwork) -> None:
    for module in network.backbone.modules():
        if isinstance(module, ConvBlock) and module.norm is not None:
            torch.nn.init.constant_(module.norm.bias, -100.0)


@pytest.mark.parametrize("fault", [zero, freeze, kill])
def test_layers_that_cannot_learn_are_found(fault: Callable[[GridNetwork], None]) -> None:
    network, config = build()
    fault(network)
    finding = check_gradients(network, batch(), config)
    assert finding.verdict == "stop"
    assert "without a gradient" in finding.measured


def test_dead_relus_are_found() -> None:
    network, config = build()
    kill(network)
    assert signal(network, config)["signal: dead units"].verdict == "stop"


def test_a_frozen_layer_does_not_move() -> None:
    network, config = build()
    freeze(network)
    assert signal(network, config)["signal: size of a step"].verdict == "stop"


def test_a_learning_rate_a_hundred_times_too_high_is_found() -> None:
    network, config = build(lr=5.0)
    assert signal(network, config)["signal: size of a step"].verdict == "stop"


def test_a_wrong_gradient_is_found() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 1.01

    network, config = build()
    network.backbone.stages[2].register_forward_hook(lambda _, __, output: Wrong.apply(output))  # type: ignore[no-untyped-call]
    finding = check_gradients(network, batch(), config)
    assert finding.verdict == "stop"
    assert "backbone.stages" in finding.measured or "backbone.stem" in finding.measured


def test_saturated_units_are_found() -> None:
    network, config = build(activation="sigmoid", norm="none", init="normal", init_std=5.0)
    assert signal(network, config)["signal: saturation"].verdict == "look"


def test_a_signal_that_fades_is_found() -> None:
    network, config = build(norm="none", residual=False, init="normal", init_std=0.001)
    assert signal(network, config)["signal: answers of the layers"].verdict != "ok"
