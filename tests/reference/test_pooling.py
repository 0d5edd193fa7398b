"""The pooling layers of the network and their gradients equal a NumPy reference."""

from collections.abc import Iterator
from typing import Literal, cast

import numpy as np
import pytest
import torch
from torch import nn

from detector.arrays import Doubles
from detector.config import Config
from detector.model.blocks import ConvBlock, make_downsampling

Array = Doubles


def windows(height: int, width: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield for each complete 2x2 window of a feature map: output row, output column, input rows, input columns."""
    for i in range(height // 2):
        for j in range(width // 2):
            yield i, j, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2)


def max_pool(x: Array) -> Array:
    y = np.zeros((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))
    for i, j, rows, columns in windows(*x.shape[2:]):
        y[:, :, i, j] = x[:, :, rows, columns].max(axis=(2, 3))
    return y


def max_pool_back(x: Array, slope: Array) -> Array:
    """Return the gradient with respect to x: the slope of each window goes to the first of its largest values."""
    grad_input = np.zeros_like(x)
    for i, j, rows, columns in windows(*x.shape[2:]):
        for b in range(x.shape[0]):
            for c in range(x.shape[1]):
                row, column = divmod(int(x[b, c, rows, columns].argmax()), 2)
                grad_input[b, c, 2 * i + row, 2 * j + column] += slope[b, c, i, j]
    return grad_input


def average_pool(x: Array) -> Array:
    y = np.zeros((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))
    for i, j, rows, columns in windows(*x.shape[2:]):
        y[:, :, i, j] = x[:, :, rows, columns].sum(axis=(2, 3)) / 4
    return y


def average_pool_back(x: Array, slope: Array) -> Array:
    """Return the gradient with respect to x: each value of a window gets a quarter of the slope of the window."""
    grad_input = np.zeros_like(x)
    for i, j, rows, columns in windows(*x.shape[2:]):
        grad_input[:, :, rows, columns] += slope[:, :, i, j, None, None] / 4
    return grad_input


POOLINGS = {"max_pool": (max_pool, max_pool_back), "avg_pool": (average_pool, average_pool_back)}


def build(downsample: Literal["max_pool", "avg_pool"], channels: int) -> nn.Module:
    """Return a downsampling module with pooling, whose convolution changes nothing."""
    config = Config(downsample=downsample, norm="none", activation="identity")
    downsampling = make_downsampling(channels, channels, config).double()
    conv = cast(ConvBlock, cast(nn.Sequential, downsampling)[0]).conv
    assert conv.bias is not None
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
    return downsampling


@pytest.mark.parametrize("downsample", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("size", [(6, 8), (7, 4), (2, 2), (5, 9)])
@pytest.mark.parametrize("with_ties", [False, True])
def test_pooling_and_gradient_equal_the_reference(
    downsample: Literal["max_pool", "avg_pool"], size: tuple[int, int], with_ties: bool
) -> None:
    function, back = POOLINGS[downsample]
    rng = np.random.default_rng(size[0])
    x = rng.normal(size=(2, 3, *size))
    if with_ties:
        x = np.round(x)
    tensor = torch.from_numpy(x).requires_grad_()
    y = build(downsample, 3)(tensor)
    expected = function(x)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-12, atol=1e-12)

    slope = rng.normal(size=expected.shape)
    y.backward(torch.from_numpy(slope))
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), back(x, slope), rtol=1e-12, atol=1e-12)
