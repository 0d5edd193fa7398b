"""The fully connected layers of the first YOLO and their gradients equal a NumPy reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from detector.arrays import Doubles
from detector.config import Config
from detector.model.yolo_v1 import CellHead

SLOPE, CHANNELS, CLASSES, BOXES = 0.1, 3, 2, 2
CONFIG = Config(
    head="yolo_v1", cell_output="dense", dense_units=7, boxes_per_cell=BOXES, activation="leaky_relu", leaky_slope=SLOPE
)


def dense(x: Doubles, weight: Doubles, bias: Doubles) -> Doubles:
    """Return y[b, o] = bias[o] + sum over i of weight[o, i] * x[b, i]."""
    y = np.empty((len(x), len(weight)))
    for image in range(len(x)):
        for unit in range(len(weight)):
            y[image, unit] = bias[unit] + np.sum(weight[unit] * x[image])
    return y


def dense_back(x: Doubles, weight: Doubles, slope: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return the gradients of sum(slope * y) with respect to x, weight and bias; y is the output of `dense`."""
    grad_x, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    for image in range(len(x)):
        for unit in range(len(weight)):
            grad_x[image] += slope[image, unit] * weight[unit]
            grad_weight[unit] += slope[image, unit] * x[image]
    return grad_x, grad_weight, slope.sum(axis=0)


def dense_head(cells_hw: tuple[int, int], dropout: float = 0.0) -> CellHead:
    """Return a head in float64 with random weights, whose blocks are the identity."""
    torch.manual_seed(0)
    head = CellHead(CHANNELS, CHANNELS, CLASSES, replace(CONFIG, dropout=dropout), cells_hw).double()
    head.blocks = nn.Sequential()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head


def parameters_of(head: CellHead) -> list[torch.Tensor]:
    """Return weight and bias of the first and of the second fully connected layer."""
    assert head.hidden is not None
    layers = (head.hidden.conv, head.output)
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias) if parameter is not None]


@pytest.mark.parametrize("cells_hw", [(1, 1), (2, 3), (4, 1)])
def test_outputs_and_gradients_equal_the_reference(cells_hw: tuple[int, int]) -> None:
    head, rng = dense_head(cells_hw), np.random.default_rng(0)
    x = rng.normal(size=(3, CHANNELS, *cells_hw))
    tensor = torch.from_numpy(x).requires_grad_()
    y = head(tensor)

    parameters = parameters_of(head)
    kernel, bias, kernel_2, bias_2 = (parameter.detach().numpy() for parameter in parameters)
    # Channel by channel, row by row, as a feature map is flattened for a fully connected layer.
    flat, weight, weight_2 = x.reshape(3, -1), kernel.reshape(len(kernel), -1), kernel_2.reshape(len(kernel_2), -1)
    hidden = dense(flat, weight, bias)
    active = np.where(hidden > 0, hidden, SLOPE * hidden)
    expected = dense(active, weight_2, bias_2)
    cells, values = cells_hw[0] * cells_hw[1], CLASSES + 5 * BOXES
    assert expected.shape == (3, cells * values)
    np.testing.assert_allclose(y.detach().numpy(), expected.reshape(3, cells, values), rtol=1e-10, atol=1e-10)

    slope = rng.normal(size=expected.shape)
    y.backward(torch.from_numpy(slope).view_as(y))
    grad_active, grad_weight_2, grad_bias_2 = dense_back(active, weight_2, slope)
    grad_hidden = grad_active * np.where(hidden > 0, 1, SLOPE)
    grad_flat, grad_weight, grad_bias = dense_back(flat, weight, grad_hidden)
    expected_gradients = (grad_weight, grad_bias, grad_weight_2, grad_bias_2, grad_flat)
    for found, gradient in zip((*parameters, tensor), expected_gradients, strict=True):
        assert found.grad is not None
        np.testing.assert_allclose(found.grad.numpy().reshape(gradient.shape), gradient, rtol=1e-10, atol=1e-10)


def test_dropout_drops_single_hidden_units() -> None:
    head = dense_head((2, 3), dropout=0.5).train()
    assert head.hidden is not None
    hidden = head.hidden(torch.randn(200, CHANNELS, 2, 3, dtype=torch.float64))
    dropped = head.dropout(hidden)
    kept = dropped != 0
    assert torch.allclose(dropped[kept], 2 * hidden[kept])
    assert 0.4 < float(kept.double().mean()) < 0.6
    assert len({tuple(row) for row in kept.flatten(1).tolist()}) > 50  # of 128 patterns of the 7 units
