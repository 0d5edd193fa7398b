"""Folding for inference: batch norm and the identity branch become part of the convolution of each block."""

import copy

import torch
from torch import nn

from detector.model.blocks import ConvBlock
from detector.model.network import GridNetwork


@torch.no_grad()
def fuse(network: GridNetwork) -> GridNetwork:
    """Return a copy of the network, in evaluation mode, in which every block is one convolution and an activation.

    The outputs of the copy equal those of the network up to float32 rounding: weights are folded in float64, so the
    only difference is the order of the sums. Blocks with group norm stay unchanged.

    Source: Ding et al., RepVGG, 2021, section 3 (structural re-parameterization).
    """
    fused = copy.deepcopy(network).eval()
    for module in fused.modules():
        # Group norm uses new statistics for every image: it cannot be folded.
        if isinstance(module, ConvBlock) and not isinstance(module.norm, nn.GroupNorm):
            module.conv = _fold(module)
            module.norm = None
            module.identity = False
    return fused.requires_grad_(False)


def _fold(block: ConvBlock) -> nn.Conv2d:
    """Return one convolution that computes what `block` computes before its activation, in evaluation mode."""
    conv, (weight, bias) = block.conv, block.folded(torch.float64)
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        conv.stride[0],
        conv.padding[0],
        device=weight.device,
    )
    folded.weight = nn.Parameter(weight.float().contiguous(memory_format=torch.channels_last))
    assert folded.bias is not None
    folded.bias.copy_(bias)
    return folded
