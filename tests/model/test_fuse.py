from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.config import Config
from detector.loader.batch import Batch
from detector.model.fuse import fuse
from detector.model.make_network import make_network
from detector.model.network import SIZES, GridNetwork
from detector.training.trainer import Trainer

CPU = torch.device("cpu")


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def build(size: str) -> GridNetwork:
    torch.manual_seed(0)
    # The size pico has spatial pyramid pooling (SPP) here, like networks for large inputs.
    config = Config(model=size)  # type: ignore[arg-type]
    input_hw = (416, 416) if size == "pico" else None
    return make_network(config, 3, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600, input_hw)


def trained(size: str) -> GridNetwork:
    """Return a network after a few training steps on noise, so that no norm has its initial statistics or weights."""
    network = build(size)
    trainer = Trainer(network, Config(model=size, seed=0), CPU, torch.float32)  # type: ignore[arg-type]
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 30.0]], [[20.0, 4.0, 60.0, 60.0]]])
    is_object = torch.ones(2, 1, dtype=torch.bool)
    batch = Batch(noise(2, 3, 64, 64), boxes, torch.tensor([[0], [2]]), is_object, ~is_object, (1, 2))
    for step in range(4):
        trainer.step(step, 4, batch)
    return network


def relative_error(fused: Tensor, unfused: Tensor) -> float:
    return float((fused - unfused).abs().max() / unfused.abs().max())


@pytest.mark.parametrize("make", [build, trained])
@pytest.mark.parametrize("size", SIZES)
def test_fused_network_gives_the_same_predictions(size: str, make: Callable[[str], GridNetwork]) -> None:
    network, images = make(size).eval(), noise(2, 3, 96, 64)
    with torch.inference_mode():
        unfused, fused = network(images), fuse(network)(images)
    assert relative_error(fused.class_logits, unfused.class_logits) < 1e-5
    assert relative_error(fused.distances, unfused.distances) < 1e-5


def test_fusing_does_not_change_the_original_network() -> None:
    network = build("pico").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fuse(network)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_fused_network_has_no_norms_and_needs_no_gradient() -> None:
    fused = fuse(build("pico"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert not fused.training
