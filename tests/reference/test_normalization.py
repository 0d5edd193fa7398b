"""Batch norm and group norm by hand in NumPy, forward and backward, against the block of the network."""

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
    """(x - mean) / std over `axes`, and the std; the variance is the mean square, plus epsilon."""
    mean = x.mean(axis=axes, keepdims=True)
    std = np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + EPSILON)
    return (x - mean) / std, std


def normalize_back(normal: Array, std: Array, axes: tuple[int, ...], slope: Array) -> Array:
    """The gradient by x of sum(slope * normal).

    A step of x also moves the mean and the std; what is left is the part of the slope that neither a shift nor a
    stretch of x can explain.
    """
    shift = slope.mean(axis=axes, keepdims=True)
    stretch = (slope * normal).mean(axis=axes, keepdims=True)
    return np.asarray((slope - shift - normal * stretch) / std)


def spread(channels: Array) -> Array:
    return channels.reshape(1, -1, 1, 1)


def build(norm: Literal["batch", "group"], channels: int) -> tuple[ConvBlock, Any]:
    """A block whose convolution passes its input on, and its norm with random gain and offset."""
    config = Config(norm=norm, activation="identity")
    block = ConvBlock(channels, channels, config, kernel=1).double()
    block.conv.weight.data = torch.eye(channels, dtype=torch.float64)[:, :, None, None]
    generator = torch.Generator().manual_seed(channels)
    assert block.norm is not None
    nn.init.uniform_(block.norm.weight, 0.5, 2, generator)
    nn.init.normal_(block.norm.bias, generator=generator)
    return block, block.norm


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (1, 2, 3, 1), (8, 1, 1, 1)])
def test_batch_norm_in_training_and_its_gradients_are_those_by_hand(shape: tuple[int, int, int, int]) -> None:
    block, norm = build("batch", shape[1])
    gain, offset = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=shape)
    tensor = torch.from_numpy(x).requires_grad_()
    y = block.train()(tensor)
    axes = (0, 2, 3)
    normal, std = normalize(x, axes)
    np.testing.assert_allclose(y.detach().numpy(), spread(gain) * normal + spread(offset), rtol=1e-10, atol=1e-10)

    slope = rng.normal(size=shape)
    y.backward(torch.from_numpy(slope))
    by_input = normalize_back(normal, std, axes, slope * spread(gain))
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), by_input, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(norm.weight.grad.numpy(), (slope * normal).sum(axis=axes), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(norm.bias.grad.numpy(), slope.sum(axis=axes), rtol=1e-9, atol=1e-9)


def test_batch_norm_remembers_a_tenth_of_each_batch_and_uses_that_in_evaluation() -> None:
    block, norm = build("batch", 3)
    mean, variance = np.zeros(3), np.ones(3)
    rng = np.random.default_rng(1)
    for _ in range(7):
        x = rng.normal(rng.normal(size=(1, 3, 1, 1)), 2, size=(2, 3, 4, 5))
        block.train()(torch.from_numpy(x))
        mean = (1 - MOMENTUM) * mean + MOMENTUM * x.mean(axis=(0, 2, 3))
        # The remembered variance is that of the population: divided by one less.
        variance = (1 - MOMENTUM) * variance + MOMENTUM * x.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-10)
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-10)

    x = rng.normal(size=(2, 3, 4, 5))
    tensor, slope = torch.from_numpy(x).requires_grad_(), rng.normal(size=x.shape)
    y = block.eval()(tensor)
    factor = spread(norm.weight.detach().numpy() / np.sqrt(variance + EPSILON))
    expected = (x - spread(mean)) * factor + spread(norm.bias.detach().numpy())
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    y.backward(torch.from_numpy(slope))
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), slope * factor, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [8, 16, 24, 48])
@pytest.mark.parametrize("training", [True, False])
def test_group_norm_and_its_gradients_are_those_by_hand(channels: int, training: bool) -> None:
    block, norm = build("group", channels)
    gain, offset = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    rng = np.random.default_rng(2)
    shape = (2, channels, 3, 4)
    # Each image and each eight neighboring channels by themselves.
    apart = (2, channels // 8, 8, 3, 4)
    axes = (2, 3, 4)
    x = rng.normal(rng.normal(size=(2, channels, 1, 1)), 2, size=shape)
    tensor = torch.from_numpy(x).requires_grad_()
    y = block.train(training)(tensor)
    normal, std = normalize(x.reshape(apart), axes)
    expected = spread(gain) * normal.reshape(shape) + spread(offset)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10, atol=1e-10)

    slope = rng.normal(size=shape)
    y.backward(torch.from_numpy(slope))
    by_input = normalize_back(normal, std, axes, (slope * spread(gain)).reshape(apart)).reshape(shape)
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), by_input, rtol=1e-9, atol=1e-9)
