"""Folding for inference: batch norm and the added input become part of each convolution's kernel."""

import copy

import torch
from torch import nn

from detector.model.blocks import ConvBlock
from detector.model.network import GridNetwork


@torch.no_grad()
def fuse(network: GridNetwork) -> GridNetwork:
    """Return a copy in evaluation mode that is a plain chain of convolutions and gives the same answers.

    Folds in float64, so that the only difference is that of float32 sums in another order.
    """
    fused = copy.deepcopy(network).eval()
    for module in fused.modules():
        # Group norm measures every image anew and cannot be folded.
        if isinstance(module, ConvBlock) and not isinstance(module.norm, nn.GroupNorm):
            module.conv = _fold(module)
            module.norm = None
            module.identity = False
    return fused.requires_grad_(False)


def _fold(block: ConvBlock) -> nn.Conv2d:
    """Return one convolution for what a block does before its activation."""
    conv, (weight, bias) = block.conv, block.folded(torch.float64)
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0], device=weight.device
    )
    folded.weight = nn.Parameter(weight.float().contiguous(memory_format=torch.channels_last))
    assert folded.bias is not None
    folded.bias.copy_(bias)
    return folded
