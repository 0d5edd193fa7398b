"""Numbers as eight bits hold them, so that a network learns to live with it; gradients pass as if nothing were rounded.

Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
2018, section 3; per channel as in Krishnamoorthi, Quantizing deep convolutional networks, 2018, section 2.
"""

import torch
from torch import Tensor

_LEAST_RANGE = 1e-12


def fake_quantize_weights(weight: Tensor) -> Tensor:
    """Round weights [out, in, h, w] to 255 levels for each output channel, as far below zero as above."""
    scale = weight.detach().abs().amax(dim=(1, 2, 3)).clamp(min=_LEAST_RANGE) / 127
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )


def fake_quantize_activations(x: Tensor) -> Tensor:
    """Round maps [B, ...] to 256 levels, zero among them, and cut off what lies outside.

    The range is the one that both exports take: from the least to the largest number of an image, on average.
    """
    x = x.float()
    least, most = (extremes.mean() for extremes in torch.aminmax(x.detach().flatten(1), dim=1))
    least, most = least.clamp(max=0), most.clamp(min=0)
    scale = (most - least).clamp(min=_LEAST_RANGE) / 255
    return torch.fake_quantize_per_tensor_affine(x, scale, torch.round(-least / scale).to(torch.int32), 0, 255)
