import numpy as np
import torch

from detector.config import Config
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.training.ema import EmaWeights


def build() -> GridNetwork:
    torch.manual_seed(0)
    return make_network(Config(model="pico"), 2, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600)


def change(network: GridNetwork, seed: int) -> None:
    """Move every weight and statistic, in place as an optimizer does."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor += torch.randn(tensor.shape, generator=generator)


def test_ema_matches_its_formula() -> None:
    network = build()
    average = EmaWeights(network)
    expected = {name: tensor.double() for name, tensor in network.state_dict().items()}
    for step, decay in enumerate((0.1, 0.5, 0.9)):
        change(network, step)
        average.update(decay)
        for name, tensor in network.state_dict().items():
            expected[name] = expected[name] * decay + tensor.double() * (1 - decay)
    averaged = average.network.state_dict()
    assert any(name.endswith("running_var") for name in averaged)
    for name, tensor in averaged.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_ema_with_decay_zero_and_one() -> None:
    network = build()
    average = EmaWeights(network)
    change(network, 0)
    average.update(1.0)
    first = build().state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in average.network.state_dict().items())
    average.update(0.0)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(average.network.state_dict()[name], tensor)


def test_ema_does_not_change_the_network_or_train() -> None:
    network = build().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average = EmaWeights(network)
    average.update(0.5)
    assert network.training
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
