import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.config import Config
from detector.loader.batch import Batch
from detector.model.make_network import make_network
from detector.model.network import GridNetwork
from detector.training.optimizer import Muon, clip_gradients, make_optimizers, orthogonalize
from detector.training.trainer import Trainer

SHAPES = [(1, 16, 16), (3, 32, 288), (2, 96, 24), (1, 1, 9), (1, 9, 1)]


def build() -> GridNetwork:
    torch.manual_seed(0)
    return make_network(Config(model="pico"), 3, np.full(3, 110, np.float32), np.eye(3, dtype=np.float32) * 3600)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonalize_slowly(matrix: Tensor) -> Tensor:
    """Run the published iteration on one matrix, in float64."""
    x: Tensor = matrix.double() / matrix.double().norm()
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalization_matches_the_published_iteration(shape: tuple[int, ...]) -> None:
    matrices = random(*shape)
    for matrix, result in zip(matrices, orthogonalize(matrices), strict=True):
        torch.testing.assert_close(result.double(), orthogonalize_slowly(matrix), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalization_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    n, m = shape[1:]
    u, v = torch.linalg.qr(random(n, n))[0], torch.linalg.qr(random(m, m, seed=1))[0]
    # Singular values down to a twentieth of the largest: smaller ones need more iterations.
    values = torch.logspace(0, math.log10(0.05), min(n, m)) * 7.3
    matrix = (u[:, : len(values)] * values) @ v[:, : len(values)].T
    [result] = orthogonalize(matrix[None])
    in_basis = u.T @ result @ v
    diagonal = torch.diagonal(in_basis)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.2
    in_basis.diagonal().zero_()
    assert in_basis.abs().max() < 1e-3


def test_orthogonalization_is_independent_of_scale() -> None:
    matrices = random(2, 16, 40)
    torch.testing.assert_close(orthogonalize(matrices * 1e-3), orthogonalize(matrices), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(orthogonalize(matrices * 1e3), orthogonalize(matrices), rtol=1e-3, atol=1e-4)


def test_zero_matrix_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 8, 12)), torch.zeros(2, 8, 12))


@pytest.mark.parametrize("shape", [(24, 16, 3, 3), (8, 3, 3, 3), (48, 16, 1, 1), (16, 48, 1, 1)])
def test_muon_steps_match_its_formula(shape: tuple[int, ...]) -> None:
    first = random(*shape)
    weight = nn.Parameter(first.contiguous(memory_format=torch.channels_last))
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, momentum = first.double().permute(0, 2, 3, 1).flatten(1), torch.zeros(1)
    for step in range(4):
        gradient = random(*shape, seed=step + 1)
        weight.grad = gradient.contiguous(memory_format=torch.channels_last)
        optimizer.step()
        matrix = gradient.double().permute(0, 2, 3, 1).flatten(1)
        momentum = momentum * 0.9 + matrix
        direction = orthogonalize_slowly(matrix + 0.9 * momentum)
        size = 0.1 * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
        expected = expected * (1 - 0.1 * 0.5) - size * direction
    result = weight.detach().double().permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


def test_muon_batches_equal_shapes_without_effect() -> None:
    def steps(count: int, first: int) -> list[Tensor]:
        weights = []
        for index in range(first, first + count):
            weight = nn.Parameter(random(16, 8, 3, 3, seed=index).contiguous(memory_format=torch.channels_last))
            weight.grad = random(16, 8, 3, 3, seed=index + 50).contiguous(memory_format=torch.channels_last)
            weights.append(weight)
        Muon(weights, lr=0.1).step()
        return [weight.detach() for weight in weights]

    torch.testing.assert_close(steps(3, 0), [*steps(1, 0), *steps(1, 1), *steps(1, 2)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "rmsprop", "momentum", "sgd"])
def test_every_parameter_has_one_group_and_only_kernels_decay(name: str) -> None:
    network = build()
    optimizers = make_optimizers(network, Config(optimizer=name))  # type: ignore[arg-type]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in network.parameters())
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    kernels = {key for key in names.values() if key.endswith("conv.weight")}
    assert decayed == (kernels if name in ("muon", "adamw") else set())
    assert all(group["peak_lr"] > 0 for group in groups)


def test_adamw_trains_the_last_layers() -> None:
    muon, adamw = make_optimizers(build(), Config())
    assert isinstance(muon, Muon)
    assert all(weight.ndim == 4 for group in muon.param_groups for weight in group["params"])
    assert sum(weight.ndim == 4 for group in adamw.param_groups for weight in group["params"]) == 3


def test_learning_rate_can_be_set() -> None:
    muon, adamw = make_optimizers(build(), Config(lr=0.5, lr_adamw=0.25))
    assert (muon.param_groups[0]["peak_lr"], adamw.param_groups[0]["peak_lr"]) == (0.5, 0.25)
    assert make_optimizers(build(), Config(optimizer="sgd", lr=0.125))[0].param_groups[0]["peak_lr"] == 0.125


OPTIMIZERS = ["muon", "adamw", "adam", "rmsprop", "momentum", "sgd"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_backbone_can_have_its_own_learning_rate(name: str) -> None:
    network = build()
    backbone = {id(parameter) for parameter in network.backbone.parameters()}
    both, own = (make_optimizers(network, Config(optimizer=name, lr_backbone=factor)) for factor in (1, 0.25))  # type: ignore[arg-type]
    expected = {id(p): group for optimizer in both for group in optimizer.param_groups for p in group["params"]}
    found = [(id(p), group) for optimizer in own for group in optimizer.param_groups for p in group["params"]]
    assert sorted(key for key, _ in found) == sorted(map(id, network.parameters()))
    for key, group in found:
        assert group["is_backbone"] == (key in backbone)
        assert group["peak_lr"] == expected[key]["peak_lr"]
        assert group["weight_decay"] == expected[key]["weight_decay"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_lowers_the_loss_of_one_batch(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    is_object = torch.ones(2, 1, dtype=torch.bool)
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 30.0]], [[20.0, 4.0, 60.0, 60.0]]])
    batch = Batch(images, boxes, torch.tensor([[0], [2]]), is_object, ~is_object, (1, 2))
    config = Config(optimizer=name)  # type: ignore[arg-type]
    trainer = Trainer(build(), config, torch.device("cpu"), torch.float32)
    losses = [float(trainer.step(step, 30, batch).total) for step in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_clipping_scales_all_gradients_equally_and_only_down() -> None:
    network = build()
    for index, parameter in enumerate(network.parameters()):
        parameter.grad = random(*parameter.shape, seed=index)
    before = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in before))
    assert float(clip_gradients(network, 2 * norm)) == pytest.approx(norm, rel=1e-5)
    for parameter, gradient in zip(network.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    clip_gradients(network, norm / 4)
    for parameter, gradient in zip(network.parameters(), before, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient / 4, rtol=1e-4, atol=1e-7)
