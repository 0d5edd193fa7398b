"""Batch norm and group norm of a block and their gradients equal a NumPy reference."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from detector.arrays import Doubles
from detector.config import Config
from detector.model.blocks import ConvBlock

Array = Doubles

EPSILON = 1e-3
MOMENTUM = 0.1


def normalize(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return (x - mean) / std, and std, both computed over `axes`; std² is the mean of (x - mean)² plus epsilon."""
    mean = x.mean(axis=axes, keepdims=True)
    std = np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + EPSILON)
    return (x - mean) / std, std


def normalize_back(normal: Array, std: Array, axes: tuple[int, ...], slope: Array) -> Array:
    """Return the gradient of sum(slope * normal) with respect to x, where `normal` and `std` are from `normalize`.

    A change of x also changes mean and std. So the parts of the slope that correspond to a shift and to a scaling of
    all values of x are removed.
    """
    shift = slope.mean(axis=axes, keepdims=True)
    scaling = (slope * normal).mean(axis=axes, keepdims=True)
    return np.asarray((slope - shift - normal * scaling) / std)


def per_channel(channels: Array) -> Array:
    """Return an array [C] reshaped to [1, C, 1, 1]."""
    return channels.reshape(1, -1, 1, 1)


def build(norm: Literal["batch", "group"], channels: int) -> tuple[ConvBlock, Any]:
    """Return a block whose convolution changes nothing, and the norm of the block, with random gain and offset."""
    config = Config(norm=norm, activation="identity")
    block = ConvBlock(channels, channels, config, kernel=1).double()
    block.conv.weight.data = torch.eye(channels, dtype=torch.float64)[:, :, None, None]
    generator = torch.Generator().manual_seed(channels)
    assert block.norm is not None
    nn.init.uniform_(block.norm.weight, 0.5, 2, generator)
    nn.init.normal_(block.norm.bias, generator=generator)
    return block, block.norm


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (1, 2, 3, 1), (8, 1, 1, 1)])
def test_batch_norm_and_gradients_in_training_equal_the_reference(shape: tuple[int, int, int, int]) -> None:
    block, norm = build("batch", shape[1])
    gain, offset = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=shape)
    tensor = torch.from_numpy(x).requires_grad_()
    y = block.train()(tensor)
    axes = (0, 2, 3)
    normal, std = normalize(x, axes)
    np.testing.assert_allclose(
        y.detach().numpy(), per_channel(gain) * normal + per_channel(offset), rtol=1e-10, atol=1e-10
    )

    slope = rng.normal(size=shape)
    y.backward(torch.from_numpy(slope))
    grad_input = normalize_back(normal, std, axes, slope * per_channel(gain))
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), grad_input, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(norm.weight.grad.numpy(), (slope * normal).sum(axis=axes), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(norm.bias.grad.numpy(), slope.sum(axis=axes), rtol=1e-9, atol=1e-9)


def test_batch_norm_evaluation_uses_running_statistics_with_momentum_one_tenth() -> None:
    block, norm = build("batch", 3)
    mean, variance = np.zeros(3), np.ones(3)
    rng = np.random.default_rng(1)
    for _ in range(7):
        x = rng.normal(rng.normal(size=(1, 3, 1, 1)), 2, size=(2, 3, 4, 5))
        block.train()(torch.from_numpy(x))
        mean = (1 - MOMENTUM) * mean + MOMENTUM * x.mean(axis=(0, 2, 3))
        # The running variance is the unbiased estimate, which divides by n - 1.
        variance = (1 - MOMENTUM) * variance + MOMENTUM * x.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-10)
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-10)

    x = rng.normal(size=(2, 3, 4, 5))
    tensor, slope = torch.from_numpy(x).requires_grad_(), rng.normal(size=x.shape)
    y = block.eval()(tensor)
    factor = per_channel(norm.weight.detach().numpy() / np.sqrt(variance + EPSILON))
    expected = (x - per_channel(mean)) * factor + per_channel(norm.bias.detach().numpy())
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    y.backward(torch.from_numpy(slope))
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), slope * factor, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [8, 16, 24, 48])
@pytest.mark.parametrize("training", [True, False])
def test_group_norm_and_gradients_equal_the_reference(channels: int, training: bool) -> None:
    block, norm = build("group", channels)
    gain, offset = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    rng = np.random.default_rng(2)
    shape = (2, channels, 3, 4)
    # Statistics are computed per image and per group of eight channels.
    grouped = (2, channels // 8, 8, 3, 4)
    axes = (2, 3, 4)
    x = rng.normal(rng.normal(size=(2, channels, 1, 1)), 2, size=shape)
    tensor = torch.from_numpy(x).requires_grad_()
    y = block.train(training)(tensor)
    normal, std = normalize(x.reshape(grouped), axes)
    expected = per_channel(gain) * normal.reshape(shape) + per_channel(offset)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10, atol=1e-10)

    slope = rng.normal(size=shape)
    y.backward(torch.from_numpy(slope))
    grad_input = normalize_back(normal, std, axes, (slope * per_channel(gain)).reshape(grouped)).reshape(shape)
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), grad_input, rtol=1e-9, atol=1e-9)
