import numpy as np
import torch

from detector.config import Config
from detector.model.network import GridNetwork
from detector.training.ema import EmaWeights


def build() -> GridNetwork:
    torch.manual_seed(0)
    return GridNetwork(Config(model="pico"), 2, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600)


def change(network: GridNetwork, seed: int) -> None:
    """Move every weight and statistic, in place as an optimizer does."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor += torch.randn(tensor.shape, generator=generator)


def test_it_is_the_average_of_its_formula_for_every_weight_and_statistic() -> None:
    network = build()
    average = EmaWeights(network)
    expected = {name: tensor.double() for name, tensor in network.state_dict().items()}
    for step, decay in enumerate((0.1, 0.5, 0.9)):
        change(network, step)
        average.update(decay)
        for name, tensor in network.state_dict().items():
            expected[name] = expected[name] * decay + tensor.double() * (1 - decay)
    mine = average.network.state_dict()
    assert any(name.endswith("running_var") for name in mine)
    for name, tensor in mine.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_without_memory_it_is_the_network_and_with_all_memory_the_first_one() -> None:
    network = build()
    average = EmaWeights(network)
    change(network, 0)
    average.update(1.0)
    first = build().state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in average.network.state_dict().items())
    average.update(0.0)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(average.network.state_dict()[name], tensor)


def test_the_network_is_left_alone_and_the_average_takes_no_part_in_training() -> None:
    network = build().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    average = EmaWeights(network)
    average.update(0.5)
    assert network.training
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
