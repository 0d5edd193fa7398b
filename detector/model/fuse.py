"""Folding for inference: batch norm and the identity branch become part of each convolution."""

import copy

import torch
from torch import nn

from detector.model.blocks import ConvBlock
from detector.model.network import GridNetwork


@torch.no_grad()
def fuse(network: GridNetwork) -> GridNetwork:
    """Return a copy in evaluation mode in which every block is one convolution and an activation.

    Its outputs equal those of the original up to float32 rounding: folding is done in float64, so the only difference
    is the order of the sums. Blocks with group norm stay unchanged.

    Source: Ding et al., RepVGG, 2021, section 3 (structural re-parameterization).
    """
    fused = copy.deepcopy(network).eval()
    for module in fused.modules():
        # Group norm computes new statistics for every image and cannot be folded.
        if isinstance(module, ConvBlock) and not isinstance(module.norm, nn.GroupNorm):
            module.conv = _fold(module)
            module.norm = None
            module.identity = False
    return fused.requires_grad_(False)


def _fold(block: ConvBlock) -> nn.Conv2d:
    """Return one convolution that computes the output of a block before its activation."""
    conv, (weight, bias) = block.conv, block.folded(torch.float64)
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0], device=weight.device
    )
    folded.weight = nn.Parameter(weight.float().contiguous(memory_format=torch.channels_last))
    assert folded.bias is not None
    folded.bias.copy_(bias)
    return folded
