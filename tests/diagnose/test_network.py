"""Checks of an untrained network: they find faults that were added on purpose, and accept a correct network."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from detector.config import Config
from detector.diagnose.finding import Finding
from detector.diagnose.network import diagnose_first_loss, diagnose_gradients
from detector.diagnose.signal import diagnose_signal, measure_signal
from detector.loader.batch import Batch
from detector.model.blocks import ConvBlock
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.training.optimizer import make_optimizers


def build(**settings: object) -> tuple[GridNetwork, Config]:
    config = Config(**{"model": "pico"} | settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    mean, covariance = np.full(3, 128, np.float32), np.eye(3, dtype=np.float32) * 5400
    return make_network(config, 3, mean, covariance, (64, 96)), config


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 30.0], [50.0, 20.0, 90.0, 60.0]], [[20.0, 4.0, 60.0, 60.0], [0, 0, 9, 9]]])
    is_object = torch.ones(2, 2, dtype=torch.bool)
    return Batch(images, boxes, torch.tensor([[0, 1], [2, 1]]), is_object, ~is_object, (1, 2))


def signal_findings(network: GridNetwork, config: Config) -> dict[str, Finding]:
    def optimizer_step(trained: GridNetwork) -> None:
        for optimizer in make_optimizers(trained, config):
            optimizer.step()

    layers = measure_signal(network, make_batch(), config, optimizer_step)
    return {finding.check: finding for finding in diagnose_signal(layers)}


VARIANTS: list[dict[str, object]] = [
    {},
    {"activation": "leaky_relu", "downsample": "max_pool", "residual": False, "optimizer": "momentum"},
    {"norm": "group", "activation": "swish"},
    {"class_loss": "softmax"},
    {"class_loss": "sigmoid", "optimizer": "adam"},
    {"head": "yolo_v1", "dropout": 0.5},
    {"head": "yolo_v1", "cell_output": "dense", "dropout": 0.5},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_sound_network_has_no_stop_and_stays_unchanged(settings: dict[str, object]) -> None:
    network, config = build(**settings)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    findings = [
        diagnose_first_loss(network, make_batch(), config),
        diagnose_gradients(network, make_batch(), config),
        *signal_findings(network, config).values(),
    ]
    assert [str(finding) for finding in findings if finding.verdict == "stop"] == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("weight", ["class_weight", "iou_weight", "l1_weight"])
def test_loss_with_a_wrong_sign_stops(weight: str) -> None:
    network, config = build()
    object.__setattr__(config, weight, -getattr(config, weight))
    assert diagnose_first_loss(network, make_batch(), config).verdict == "stop"


def test_head_without_its_initial_bias_stops() -> None:
    network, config = build()
    for output in network.outputs:
        torch.nn.init.zeros_(output.bias)  # type: ignore[arg-type]
    assert diagnose_first_loss(network, make_batch(), config).verdict == "stop"


def zero_kernels(network: GridNetwork) -> None:
    for parameter in network.parameters():
        if parameter.ndim == 4:
            torch.nn.init.zeros_(parameter)


def freeze_stage(network: GridNetwork) -> None:
    network.backbone.stages[1].requires_grad_(False)


def kill_relus(network: GridNetwork) -> None:
    for module in network.backbone.modules():
        if isinstance(module, ConvBlock) and module.norm is not None:
            torch.nn.init.constant_(module.norm.bias, -100.0)


@pytest.mark.parametrize("fault", [zero_kernels, freeze_stage, kill_relus])
def test_layers_without_a_gradient_stop(fault: Callable[[GridNetwork], None]) -> None:
    network, config = build()
    fault(network)
    finding = diagnose_gradients(network, make_batch(), config)
    assert finding.verdict == "stop"
    assert "without a gradient" in finding.measured


def test_wrong_gradient_stops_with_the_name_of_a_layer() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 1.01

    network, config = build()
    network.backbone.stages[2].register_forward_hook(lambda _, __, output: Wrong.apply(output))  # type: ignore[no-untyped-call]
    finding = diagnose_gradients(network, make_batch(), config)
    assert finding.verdict == "stop"
    # Only the gradients of layers before the hook are wrong: layers of the backbone, not of the neck and the heads.
    assert "(backbone." in finding.measured


def test_dead_relus_stop() -> None:
    network, config = build()
    kill_relus(network)
    assert signal_findings(network, config)["signal: dead units"].verdict == "stop"


def test_frozen_layer_stops() -> None:
    network, config = build()
    freeze_stage(network)
    assert signal_findings(network, config)["signal: weight updates"].verdict == "stop"


def test_hundredfold_learning_rate_stops() -> None:
    network, config = build(lr=5.0)
    assert signal_findings(network, config)["signal: weight updates"].verdict == "stop"


def test_saturated_units_are_found() -> None:
    network, config = build(activation="sigmoid", norm="none", init="normal", init_std=5.0)
    assert signal_findings(network, config)["signal: saturation"].verdict == "look"


def test_vanishing_signal_stops() -> None:
    network, config = build(norm="none", residual=False, init="normal", init_std=0.001)
    assert signal_findings(network, config)["signal: activations of the layers"].verdict == "stop"
