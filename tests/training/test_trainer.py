import math

import numpy as np
import pytest
import torch

from detector.config import Config
from detector.loader.batch import Batch
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.training.trainer import NonFiniteLossError, Trainer

CPU = torch.device("cpu")


def build() -> GridNetwork:
    torch.manual_seed(0)
    return make_network(Config(model="pico"), 3, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600)


def batch() -> Batch:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 30.0]], [[20.0, 4.0, 60.0, 60.0]]])
    is_object = torch.ones(2, 1, dtype=torch.bool)
    return Batch(images, boxes, torch.tensor([[0], [2]]), is_object, ~is_object, (41, 42))


def test_step_changes_every_weight_and_the_ema() -> None:
    trainer = Trainer(build(), Config(), CPU, torch.float32)
    trainer.step(0, 30, batch())
    first = dict(build().named_parameters())
    average = dict(trainer.ema.network.named_parameters())
    for name, parameter in trainer.network.named_parameters():
        assert not torch.equal(parameter, first[name]), name
        assert not torch.equal(average[name], first[name]), name


@pytest.mark.parametrize("config", [Config(lr_backbone=0), Config(freeze=0.1)])
def test_backbone_stays_with_learning_rate_zero(config: Config) -> None:
    trainer = Trainer(build(), config, CPU, torch.float32)
    trainer.step(0, 30, batch())
    first = dict(build().named_parameters())
    for name, parameter in trainer.network.named_parameters():
        assert torch.equal(parameter, first[name]) == name.startswith("backbone."), name


def test_non_finite_loss_names_images_and_changes_no_weight() -> None:
    trainer = Trainer(build(), Config(), CPU, torch.float32)
    trainer.step(0, 30, batch())
    with torch.no_grad():
        next(trainer.network.parameters())[0] = math.nan
    before = {name: parameter.clone() for name, parameter in trainer.network.named_parameters()}
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.step(1, 30, batch())
    assert (caught.value.step, caught.value.image_ids) == (1, (41, 42))
    for name, parameter in trainer.network.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num()), name


def test_non_finite_loss_is_detached() -> None:
    trainer = Trainer(build(), Config(), CPU, torch.float32)
    with torch.no_grad():
        next(trainer.network.parameters())[0] = math.nan
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.step(1, 30, batch())
    assert not caught.value.terms.total.requires_grad


def test_bf16_network_gives_nearly_the_same_loss() -> None:
    fp32, bf16 = (
        float(Trainer(build(), Config(), CPU, dtype).step(0, 30, batch()).total)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert bf16 == pytest.approx(fp32, rel=0.05)
