"""The convolution of a block and its gradients equal a NumPy reference."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.arrays import Doubles
from detector.config import Config
from detector.model.blocks import ConvBlock

Array = Doubles
Padding = Literal["same", "valid"]

PLAIN = Config(norm="none", activation="identity")


def convolve(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    """Return y[b, o, i, j] = bias[o] + sum over c, u, v of weight[o, c, u, v] * padded[b, c, i * s + u, j * s + v]."""
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, columns = ((n - side) // stride + 1 for n in padded.shape[2:])
    y = np.zeros((len(x), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, i * stride : i * stride + side, j * stride : j * stride + side]
            y[:, :, i, j] = np.einsum("bcuv,ocuv->bo", window, weight) + bias
    return y


def convolve_back(x: Array, weight: Array, stride: int, padding: int, slope: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of sum(slope * y) with respect to x, weight and bias; y is the output of `convolve`."""
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
    for i in range(slope.shape[2]):
        for j in range(slope.shape[3]):
            window = (
                slice(None),
                slice(None),
                slice(i * stride, i * stride + side),
                slice(j * stride, j * stride + side),
            )
            grad_weight += np.einsum("bo,bcuv->ocuv", slope[:, :, i, j], padded[window])
            grad_padded[window] += np.einsum("bo,ocuv->bcuv", slope[:, :, i, j], weight)
    height, width = x.shape[2:]
    grad_input = grad_padded[:, :, padding : padding + height, padding : padding + width]
    return grad_input, grad_weight, slope.sum(axis=(0, 2, 3))


def size_after(n: int, kernel: int, stride: int, padding: int) -> int:
    """Return the output size of a convolution by the formula floor((n + 2p - f) / s) + 1."""
    return (n + 2 * padding - kernel) // stride + 1


def plain_block(
    channels_in: int, channels_out: int, kernel: int, stride: int, padding: Padding, identity: bool = False
) -> ConvBlock:
    """Return a block with only a convolution, no norm and no activation; with `identity`, the input is added."""
    torch.manual_seed(0)
    return ConvBlock(channels_in, channels_out, PLAIN, kernel, stride, identity, padding=padding).double()


def randomize(block: ConvBlock) -> tuple[Array, Array]:
    """Set weight and bias to random values and return them."""
    assert block.conv.bias is not None
    torch.nn.init.normal_(block.conv.weight)
    torch.nn.init.normal_(block.conv.bias)
    return block.conv.weight.detach().numpy(), block.conv.bias.detach().numpy()


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolution_and_gradients_equal_the_reference(kernel: int, stride: int, padding: Padding) -> None:
    block = plain_block(3, 4, kernel, stride, padding)
    weight, bias = randomize(block)
    zeros = kernel // 2 if padding == "same" else 0
    rng = np.random.default_rng(kernel)
    # Even and odd sizes, because with stride 2 the last row or column may be unused.
    for height, width in ((8, 11), (5, 6), (7, 7)):
        block.zero_grad()
        x = rng.normal(size=(2, 3, height, width))
        tensor = torch.from_numpy(x).requires_grad_()
        y = block(tensor)
        expected = convolve(x, weight, bias, stride, zeros)
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10, atol=1e-10)

        slope = rng.normal(size=expected.shape)
        y.backward(torch.from_numpy(slope))
        found = (tensor.grad, block.conv.weight.grad, block.conv.bias.grad if block.conv.bias is not None else None)
        for gradient, expected_gradient in zip(found, convolve_back(x, weight, stride, zeros, slope), strict=True):
            assert gradient is not None
            np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=1e-10, atol=1e-10)


@settings(max_examples=40)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from([1, 2]),
    st.sampled_from(["same", "valid"]),
)
def test_output_size_follows_the_formula(height: int, width: int, kernel: int, stride: int, padding: Padding) -> None:
    zeros = kernel // 2 if padding == "same" else 0
    height, width = (max(n, kernel - 2 * zeros) for n in (height, width))
    expected = tuple(size_after(n, kernel, stride, zeros) for n in (height, width))
    block = plain_block(1, 1, kernel, stride, padding)
    weight, bias = randomize(block)
    x = np.random.default_rng(height).normal(size=(1, 1, height, width))
    y = block(torch.from_numpy(x)).detach().numpy()
    assert y.shape == (1, 1, *expected)
    np.testing.assert_allclose(y, convolve(x, weight, bias, stride, zeros), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_added_input_is_center_cropped(kernel: int, padding: Padding) -> None:
    block = plain_block(3, 3, kernel, 1, padding, identity=True)
    weight, bias = randomize(block)
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 8))
    tensor = torch.from_numpy(x).requires_grad_()
    zeros = kernel // 2 if padding == "same" else 0
    y = block(tensor)
    # Adding the input is the same as adding 1 to the kernel center from each input channel to the same output channel.
    weight = weight.copy()
    weight[range(3), range(3), kernel // 2, kernel // 2] += 1
    expected = convolve(x, weight, bias, 1, zeros)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10, atol=1e-10)

    slope = np.random.default_rng(1).normal(size=expected.shape)
    y.backward(torch.from_numpy(slope))
    assert tensor.grad is not None
    expected_gradient = convolve_back(x, weight, 1, zeros, slope)[0]
    np.testing.assert_allclose(tensor.grad.numpy(), expected_gradient, rtol=1e-10, atol=1e-10)
